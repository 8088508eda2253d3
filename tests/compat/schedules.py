"""What schedules answer; run by Celery 5.7.0 and by taskq, each as `celery`.

Prints a JSON object: name of a question -> answer. The crontabs, last runs and moments are drawn
from a fixed seed, half of them near a change of the clocks. Celery's answers are recorded in
`recorded_schedules.json`: `python schedules.py > recorded_schedules.json`.
"""

from __future__ import annotations

import json
import pickle
import random
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from celery import Celery
from celery.schedules import crontab, crontab_parser, maybe_schedule, schedule, solar

UTC = timezone.utc
ZONES = ["UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu"]
#: Hours in which some of these zones change their clocks, and ends of months and years.
EDGES = [
    datetime(2024, 3, 31, 1), datetime(2024, 10, 27, 1), datetime(2024, 3, 10, 7),
    datetime(2024, 11, 3, 6), datetime(2024, 4, 6, 15), datetime(2024, 10, 5, 15, 30),
    datetime(2024, 2, 29), datetime(2023, 12, 31, 23, 59), datetime(2024, 4, 30, 23),
]  # fmt: skip
MINUTES = ["*", 0, 30, "*/15", "7,37", "50-10/5", [0, 59]]
HOURS = ["*", 0, 2, 1, 23, "*/3", "22-3", "1,2,3", {6, 18}]
WEEKDAYS = ["*", "*", "*", "mon-fri", "sun", 6, "fri-mon", [0, 3]]
DAYS = ["*", "*", "*", 1, 31, 29, "30-2", "*/10", "13"]
MONTHS = ["*", "*", "*", 2, "jan,mar", "nov-feb", "*/5", 12]
#: What a field may hold, and what it may not: (highest + 1 - lowest, lowest), text.
FIELDS = [
    ((60, 0), "*"), ((24, 0), "*/4"), ((60, 0), "1-30/3"), ((7, 0), "mon-fri"),
    ((7, 0), "fri-mon"), ((7, 0), "Monday"), ((7, 0), "mo"), ((31, 1), "*/2"),
    ((12, 1), "nov-feb"), ((24, 0), "22-3/2"), ((24, 0), "20-4/3"), ((24, 0), "24"),
    ((24, 0), "-1"), ((24, 0), ""), ((24, 0), "1,"), ((24, 0), "1-"), ((24, 0), "*/0"),
    ((24, 0), "x"), ((24, 0), "5/2"), ((24, 0), "1-2-3"), ((31, 1), "0"), ((24, 0), " 1"),
    ((24, 0), "1 - 3"), ((24, 0), "1-30"), ((7, 0), "7"), ((60, 0), "1-5,10-20/5,*/20"),
    ((24, 0), "*/1.5"), ((24, 0), "*/-1"), ((24, 0), "*/x"), ((12, 1), "december"),
    ((24, 0), "5-5"), ((24, 0), "*/30"), ((7, 0), "1-5/"), ((12, 1), "0-5"), ((24, 0), "**"),
]  # fmt: skip
CRONTABS = [
    {}, {"minute": "*/5", "hour": (1, 2)}, {"minute": 60}, {"minute": -1}, {"minute": 1.5},
    {"minute": None}, {"day_of_week": 7}, {"day_of_month": 0}, {"month_of_year": 13},
    {"day_of_month": 31, "month_of_year": 2}, {"day_of_month": "30,31", "month_of_year": "2"},
    {"day_of_month": 31, "month_of_year": "4,5"}, {"minute": ""}, {"foo": 1},
    {"day_of_week": "mon", "month_of_year": "jan"},
]  # fmt: skip
LINES = ["* * * * *", "*/5 1 2 3 mon", "1 2 3 4", "0 0 31 2 *", "1 2 3 4 5 6", " 1 2 3 4 5"]
PLACES = [(0, 0), (-37.8, 144.9), (60, 10), (70, 10), (80, -100), (90, 0)]
EVENTS = ["sunrise", "sunset", "solar_noon", "dawn_civil", "dusk_astronomical"]


def ask(question):
    """What it gives, or the type and text of its error."""
    try:
        return question()
    except Exception as exc:
        return [type(exc).__name__, str(exc)]


def seconds(delta):
    return delta.total_seconds()


def make_app(zone, **settings):
    app = Celery("schedules", broker="memory://", set_as_current=False)
    app.conf.update(timezone=zone, **settings)
    return app


def draw_moment(rng):
    moment = rng.choice(EDGES) if rng.random() < 0.5 else datetime(2024, 1, 1)
    moment += timedelta(minutes=rng.randrange(-200, 200), seconds=rng.choice([0, 0, 1, 30, 59]))
    if moment.month == 1:
        moment += timedelta(days=rng.randrange(800))
    return moment


def crontabs(number):
    rng = random.Random(20240331)
    apps = {(z, d): make_app(z, beat_cron_starting_deadline=d)
            for z in ZONES for d in (None, 60, 7200)}  # fmt: skip
    for _ in range(number):
        fields = [rng.choice(each) for each in (MINUTES, HOURS, WEEKDAYS, DAYS, MONTHS)]
        zone, deadline = rng.choice(ZONES), rng.choice([None, None, 60, 7200])
        last = draw_moment(rng)
        now = last + timedelta(seconds=rng.choice([0, 1, 59, 600, 3600, 7300, 90000, 10**7]))
        last, now = last.replace(tzinfo=UTC), now.replace(tzinfo=UTC)
        how = rng.choice(["utc", "zone", "naive"])
        given = {"utc": last, "zone": last.astimezone(ZoneInfo(zone)),
                 "naive": last.replace(tzinfo=None)}[how]  # fmt: skip
        app = apps[zone, deadline]

        def answer(fields=fields, given=given, now=now, app=app):
            one = crontab(*fields, nowfun=lambda: now, app=app)
            due, wait = one.is_due(given)
            start, delta, _ = one.remaining_delta(given)
            following = (start + delta).astimezone(UTC).isoformat()
            return [due, wait, seconds(one.remaining_estimate(given)), following]

        shown = [sorted(field) if isinstance(field, set) else field for field in fields]
        yield f"{shown} {zone} {deadline} {how} {last} {now}", ask(answer)


def intervals():
    for zone in ("UTC", "Europe/Berlin"):
        app = make_app(zone)
        for every in (0, -5, 10, 0.5, 60, 90, 3600, 5400, 86400, 200_000):
            for moment in EDGES[:3]:
                now = moment.replace(tzinfo=UTC)
                for ago in (-30, 0, 3, 10, 100, 86_000):
                    for relative in (False, True):
                        one = schedule(every, relative, nowfun=lambda now=now: now, app=app)
                        last = now - timedelta(seconds=ago)
                        answer = [list(one.is_due(last)), seconds(one.remaining_estimate(last))]
                        yield f"{zone} {every} {moment} {ago} {relative}", answer


def solars():
    app = make_app("Asia/Tokyo")
    for event in EVENTS:
        for lat, lon in PLACES:
            for month in (3, 6, 12):
                now = datetime(2024, month, 21, 12, tzinfo=UTC)
                one = solar(event, lat, lon, nowfun=lambda now=now: now, app=app)
                last = now - timedelta(hours=30)
                answer = [list(one.is_due(last)), round(seconds(one.remaining_estimate(now)))]
                yield repr(one) + str(month), [answer[0][0], round(answer[0][1]), answer[1]]
    for wrong in (("x", 1, 1), ("sunrise", 91, 0), ("sunrise", 0, -181), ("sunrise", 0, 0, 5)):
        yield f"solar{wrong}", ask(lambda wrong=wrong: repr(solar(*wrong)))


def words():
    for size, text in FIELDS:
        yield f"{size} {text!r}", ask(lambda size=size, text=text: sorted(
            crontab_parser(*size).parse(text)))  # fmt: skip
    for given in CRONTABS:
        yield str(given), ask(lambda given=given: repr(crontab(**given)))
    for line in LINES:
        yield line, ask(lambda line=line: repr(crontab.from_string(line)))
    for every in (5, 5.5, timedelta(days=1), 90, 0, -5, crontab(minute=1), None, "x"):
        yield f"maybe {every!r}", ask(lambda every=every: repr(maybe_schedule(every)))
    one, clocked = crontab(1, "2"), crontab(1, "2", nowfun=datetime.now)
    yield "equal", [
        one == crontab("1", {2}), one == clocked, one == crontab(2, 2), one == 5,
        schedule(5) == schedule(5.0, True), schedule(5) == schedule(6), schedule(5) == 5,
    ]  # fmt: skip
    again = pickle.loads(pickle.dumps([one, clocked, schedule(5, True)]))
    yield "pickled", [
        repr(again), again[0] == one, again[1].nowfun is datetime.now, again[2].relative,
    ]  # fmt: skip


def main():
    parts = {"crontabs": crontabs(700), "intervals": intervals(), "words": words()}
    answers = {name: dict(part) for name, part in parts.items()}
    try:
        answers["solars"] = dict(solars())
    except Exception as exc:
        answers["solars"] = {"not asked": str(exc)}
    print(json.dumps(answers, indent=0))


if __name__ == "__main__":
    main()
