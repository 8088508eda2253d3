"""When something is due again. That Celery says the same is checked in tests/compat."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from taskq import Celery
from taskq.exceptions import ImproperlyConfigured
from taskq.schedules import (
    BaseSchedule,
    ParseException,
    crontab,
    crontab_parser,
    maybe_schedule,
    schedstate,
    schedule,
    solar,
)

UTC = timezone.utc
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("times", set_as_current=False)
    app.conf.timezone = "Europe/Berlin"
    yield app


def next_run(one: Any, now: datetime) -> datetime:
    """The moment at which it runs next, if it has run just now."""
    one.nowfun = lambda: now
    state = one.is_due(now)
    assert not state.is_due
    return (now.astimezone(UTC) + timedelta(seconds=state.next)).astimezone(BERLIN)


# -- intervals


def test_an_interval_is_due_when_it_is_over() -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    one = schedule(10, nowfun=lambda: now)
    assert one.is_due(now - timedelta(seconds=3)) == schedstate(is_due=False, next=7.0)
    assert one.is_due(now - timedelta(seconds=10)) == (True, 10.0)
    assert one.is_due(now - timedelta(days=9)) == (True, 10.0)
    assert one.remaining_estimate(now - timedelta(seconds=30)) == timedelta(seconds=-20)


def test_a_relative_interval_ends_at_full_minutes_or_days(app: Celery) -> None:
    now = datetime(2026, 1, 1, 12, 0, 10, 500, tzinfo=BERLIN)
    one = schedule(timedelta(minutes=1), relative=True, app=app)
    assert next_run(one, now) == datetime(2026, 1, 1, 12, 1, tzinfo=BERLIN)
    one = schedule(timedelta(days=1), relative=True, app=app)
    assert next_run(one, now) == datetime(2026, 1, 2, tzinfo=BERLIN)


def test_an_interval_is_elapsed_time_when_the_clocks_change(app: Celery) -> None:
    before = datetime(2024, 3, 30, 12, tzinfo=BERLIN)
    assert next_run(schedule(timedelta(days=1), app=app), before).hour == 13


def test_an_interval_in_words() -> None:
    assert repr(schedule(90)) == "<freq: 1.50 minutes>"
    assert (schedule(-5).seconds, schedule(0).human_seconds) == (0, "now")


# -- crontabs


@pytest.mark.parametrize(
    ("fields", "last", "following"),
    [
        ({"minute": "*/15"}, (2026, 1, 1, 12, 45), (2026, 1, 1, 13, 0)),
        ({"minute": 0, "hour": 0}, (2026, 12, 31, 0, 0), (2027, 1, 1, 0, 0)),
        ({"minute": 0, "hour": 0, "day_of_month": 31}, (2026, 1, 31), (2026, 3, 31)),
        ({"minute": 0, "hour": 0, "day_of_month": "29-31"}, (2026, 1, 31), (2026, 3, 29)),
        (
            {"minute": 0, "hour": 0, "day_of_month": 29, "month_of_year": 2},
            (2026, 1, 1), (2028, 2, 29),
        ),
        # Both kinds of day must agree: a Friday that is a 13th; a leap day that is a Sunday.
        ({"minute": 0, "hour": 0, "day_of_month": 13, "day_of_week": "fri"}, (2026, 3, 14),
         (2026, 11, 13)),
        (
            {"minute": 0, "hour": 0, "day_of_month": 29, "month_of_year": 2, "day_of_week": 0},
            (2088, 3, 1), (2128, 2, 29),
        ),
        # The clock skips this time in spring; in autumn it is shown twice and runs once.
        ({"minute": 30, "hour": 2}, (2024, 3, 30, 2, 30), (2024, 3, 31, 3, 30)),
        ({"minute": 30, "hour": 2}, (2024, 10, 27, 2, 30), (2024, 10, 28, 2, 30)),
    ],
)  # fmt: skip
def test_the_next_run(app: Celery, fields: Any, last: Any, following: Any) -> None:
    one = crontab(**fields, app=app)
    assert next_run(one, datetime(*last, tzinfo=BERLIN)) == datetime(*following, tzinfo=BERLIN)


def test_a_missed_run_is_made_up_for(app: Celery) -> None:
    now = datetime(2026, 1, 2, 12, 30, tzinfo=UTC)
    one = crontab(minute=0, app=app, nowfun=lambda: now)
    assert one.is_due(now - timedelta(days=1)) == (True, 1800)
    assert one.is_due(now) == (False, 1800)


def test_a_run_missed_by_more_than_the_deadline_is_not(app: Celery) -> None:
    now = datetime(2026, 1, 2, 12, 30, tzinfo=UTC)
    one = crontab(minute=0, app=app, nowfun=lambda: now)
    app.conf.beat_cron_starting_deadline = 1800
    assert one.is_due(now - timedelta(days=1)) == (True, 1800)
    app.conf.beat_cron_starting_deadline = 1799
    assert one.is_due(now - timedelta(days=1)) == (False, 1800)


def test_what_to_add_to_the_last_run(app: Celery) -> None:
    now = datetime(2026, 1, 2, 12, 30, tzinfo=UTC)
    one = crontab(minute=7, app=app, nowfun=lambda: now)
    last, delta, present = one.remaining_delta(now.replace(tzinfo=None), tz=BERLIN)
    assert (last, present) == (now, now)
    assert last.tzinfo is BERLIN
    assert last + delta == datetime(2026, 1, 2, 13, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("*/6", {0, 6, 12, 18}),
        ("22-2", {22, 23, 0, 1, 2}),
        ("20-4/3", {20, 23, 2}),
        ("1,3-5,*/12", {0, 1, 3, 4, 5, 12}),
    ],
)
def test_fields(text: str, values: set[int]) -> None:
    assert crontab_parser(24).parse(text) == values


@pytest.mark.parametrize("text", ["", "1,", "*/", "-1"])
def test_fields_that_are_not_written_as_such(text: str) -> None:
    with pytest.raises(ParseException):
        crontab_parser(24).parse(text)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"minute": 60}, r"Valid range is 0-59. '60' was found"),
        ({"hour": "24"}, "Invalid end range: 24 > 23"),
        ({"day_of_month": "0"}, "Invalid beginning range: 0 < 1"),
        (
            {"day_of_week": "mo"},
            "Invalid weekday literal 'mo'. Expected a number from 0 to 6, .*mon",
        ),
        ({"minute": "*/0"}, "step cannot be zero: use a step of 1 or more"),
        ({"day_of_month": 31, "month_of_year": "2,4"}, "31 never occurs in month_of_year '2,4'"),
    ],
)
def test_fields_that_cannot_be(fields: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        crontab(**fields)


def test_a_field_of_the_wrong_type() -> None:
    with pytest.raises(TypeError, match=r"int, str, or an iterable type.*float"):
        crontab(minute=1.5)  # type: ignore[arg-type]


def test_an_empty_field_never_comes() -> None:
    with pytest.raises(ValueError, match="never runs"):
        crontab(minute=[]).is_due(datetime(2026, 1, 1))


def test_a_line_of_cron() -> None:
    one = crontab.from_string("*/5 1 2 3 mon")
    assert repr(one) == "<crontab: */5 1 2 3 mon (m/h/dM/MY/d)>"
    with pytest.raises(ValueError, match=r"expected 5 fields .* got 4 in '1 2 3 4'"):
        crontab.from_string("1 2 3 4")


def test_crontabs_are_equal_by_their_values() -> None:
    assert crontab(minute="0,30") == crontab(minute="*/30")
    assert crontab() != crontab(minute=1)
    assert crontab() != schedule(60)
    with pytest.raises(TypeError, match="unhashable"):
        hash(crontab())


@pytest.mark.parametrize("again", [copy.copy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_and_pickles(again: Any) -> None:
    one = crontab(5, "*/2", "mon", nowfun=datetime.now)
    assert again(one) == one
    assert repr(again(one)) == repr(one)
    assert again(one).nowfun == datetime.now
    assert again(schedule(5, True)).relative is True


# -- what all have


def test_the_application_says_what_time_it_is_and_where(app: Celery) -> None:
    one = BaseSchedule(app=app)
    assert one.app is app
    assert one.tz == one.now().tzinfo == BERLIN
    assert one.utc_enabled is True
    noon = datetime(2026, 1, 1, 12)
    assert one.maybe_make_aware(noon) == noon.replace(tzinfo=UTC)
    assert one.maybe_make_aware(noon, naive_as_utc=False) == noon.replace(tzinfo=BERLIN)
    assert one.to_local(noon) is noon
    app.conf.enable_utc = False
    assert BaseSchedule(app=app).to_local(noon).tzinfo is not None
    for ask in (one.is_due, one.remaining_estimate):
        with pytest.raises(NotImplementedError, match="BaseSchedule"):
            ask(noon)


def test_a_schedule_from_what_is_given(app: Celery) -> None:
    assert maybe_schedule(None) is None
    assert maybe_schedule(5, relative=True).relative is True
    assert maybe_schedule(timedelta(minutes=1), app=app).app is app
    one = crontab()
    assert maybe_schedule(one, app=app) is one
    assert one.app is app


# -- the sun


def test_the_sun(app: Celery) -> None:
    pytest.importorskip("ephem")
    now = datetime(2026, 6, 21, 12, tzinfo=UTC)
    sets = next_run(solar("sunset", 52.52, 13.4, app=app), now)
    assert (sets.day, sets.hour, sets.minute) == (21, 21, 33)
    # At midsummer it does not set in the far north: the days without are skipped.
    assert next_run(solar("sunset", 78.2, 15.6, app=app), now).month == 8
    one = solar("dawn_civil", 1, 2, nowfun=lambda: now)
    assert one.is_due(now - timedelta(days=1)).is_due
    assert pickle.loads(pickle.dumps(one)) == one != solar("dawn_civil", 1, 3)
    assert repr(one) == "<solar: dawn_civil at latitude 1, longitude: 2>"


@pytest.mark.parametrize(
    ("event", "lat", "lon", "says"),
    [
        ("noon", 0, 0, '"noon" is invalid, must be one of dawn_astronomical, .*sunset'),
        ("sunset", 91, 0, "latitude 91 is invalid"),
        ("sunset", 0, -181, "longitude -181 is invalid"),
    ],
)
def test_no_such_event_or_place(event: str, lat: float, lon: float, says: str) -> None:
    pytest.importorskip("ephem")
    with pytest.raises(ValueError, match=says):
        solar(event, lat, lon)


def test_without_its_library_the_sun_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ephem", None)
    with pytest.raises(ImproperlyConfigured, match=r"ephem.*pip install \"taskq\[solar\]\""):
        solar("sunset", 0, 0)
