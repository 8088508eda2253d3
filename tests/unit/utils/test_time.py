"""Moments, durations and rates, also across a change of the clocks."""

from __future__ import annotations

import pickle
import random
import time as system_time
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest

from taskq.utils import time
from taskq.utils.time import ffwd

UTC = timezone.utc
NEW_YORK = ZoneInfo("America/New_York")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-02", datetime(2026, 1, 2)),
        ("2026-01-02T03:04:05", datetime(2026, 1, 2, 3, 4, 5)),
        ("2026-01-02T03:04:05.123456Z", datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)),
        ("2026-01-02T03:04:05+02:00", datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05-0230", datetime(2026, 1, 2, 5, 34, 5, tzinfo=UTC)),
        ("20260102T030405Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
    ],
)
def test_iso8601(text: str, moment: datetime) -> None:
    assert time.parse_iso8601(text) == moment
    assert time.maybe_iso8601(text) == moment


def test_what_is_no_date() -> None:
    with pytest.raises(ValueError, match="unable to parse date string 'tomorrow'"):
        time.parse_iso8601("tomorrow")
    assert time.maybe_iso8601(None) is None
    assert time.maybe_iso8601("") is None
    now = datetime(2026, 1, 1)
    assert time.maybe_iso8601(now) is now


@pytest.mark.parametrize(
    ("limit", "per_second"),
    [("10/s", 10), ("60/m", 1), ("36/h", 0.01), ("5", 5), (5, 5), (None, 0), (0, 0), ("0/s", 0)],
)
def test_rates(limit: str | int | None, per_second: float) -> None:
    assert time.rate(limit) == pytest.approx(per_second)


@pytest.mark.parametrize("limit", ["10/d", "x/s", "fast", "1/2/s", "-1/s", -1, "inf", "nan/m"])
def test_what_is_no_rate(limit: str | int) -> None:
    with pytest.raises(ValueError, match="is not a rate limit"):
        time.rate(limit)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "now"),
        (0.5, "now"),
        (-3, "now"),
        (1, "1.00 second"),
        (1.5, "1.50 seconds"),
        (61, "1.02 minutes"),
        (3600, "1.00 hour"),
        (345600, "4.00 days"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert time.humanize_seconds(seconds) == text


def test_durations_with_more_words() -> None:
    assert time.humanize_seconds(0.5, microseconds=True) == "0.50 seconds"
    assert time.humanize_seconds(7200, prefix="in ", sep="about ") == "in about 2.00 hours"


def test_zones_by_name() -> None:
    assert time.timezone.get_timezone("America/New_York") is NEW_YORK
    assert time.timezone.get_timezone(UTC) is UTC
    assert time.timezone.tz_or_local() is time.timezone.local
    assert time.timezone.tz_or_local("UTC") == time.timezone.utc
    with pytest.raises(ZoneInfoNotFoundError):
        time.timezone.get_timezone("No/Where")


def test_from_one_zone_to_another() -> None:
    naive = datetime(2026, 1, 1)
    assert time.timezone.to_local(naive, local=NEW_YORK) == naive.replace(tzinfo=UTC)
    assert time.timezone.to_local(naive, local=NEW_YORK).tzinfo is NEW_YORK
    assert time.timezone.to_local(naive, NEW_YORK, NEW_YORK) == naive.replace(tzinfo=NEW_YORK)
    aware = naive.replace(tzinfo=UTC)
    assert time.localize(aware, NEW_YORK).hour == 19
    assert time.localize(naive, NEW_YORK) == naive.replace(tzinfo=NEW_YORK)
    assert time.make_aware(aware, NEW_YORK) == naive.replace(tzinfo=NEW_YORK)
    assert time.to_utc(aware.astimezone(NEW_YORK)).hour == 19
    assert time.is_naive(naive) and not time.is_naive(aware)
    assert time.timezone.to_system(aware) == aware
    assert time.timezone.to_local_fallback(aware) == aware


def test_naive_moments_are_utc_or_of_the_zone() -> None:
    naive = datetime(2026, 1, 1)
    assert time.maybe_make_aware(naive) == naive.replace(tzinfo=UTC)
    assert time.maybe_make_aware(naive, NEW_YORK) == naive.replace(tzinfo=UTC)
    local = time.maybe_make_aware(naive, NEW_YORK, naive_as_utc=False)
    assert local == naive.replace(tzinfo=NEW_YORK)


def test_elapsed_time_across_a_change_of_the_clocks() -> None:
    before = datetime(2026, 3, 8, 1, tzinfo=NEW_YORK)
    after = time.add_seconds_to_datetime(before, 7200)
    assert (after.hour, after.tzinfo) == (4, NEW_YORK)
    assert time.subtract_datetimes(after, before) == timedelta(hours=2)
    assert time.remaining(before, timedelta(hours=3), now=before) == timedelta(hours=3)
    naive = datetime(2026, 3, 8, 1)
    assert time.add_seconds_to_datetime(naive, 7200) == datetime(2026, 3, 8, 3)


def test_remaining() -> None:
    start = datetime(2026, 1, 1, 5)
    noon = datetime(2026, 1, 1, 12)
    assert time.remaining(start, timedelta(days=1), now=noon) == timedelta(hours=17)
    assert time.remaining(start, timedelta(days=1), now=noon, relative=True) == timedelta(hours=12)
    assert time.remaining(start, ffwd(hour=3), now=noon) == timedelta(hours=-9)


@pytest.mark.parametrize(
    ("delta", "rounded"),
    [
        (timedelta(days=2), datetime(2026, 3, 4)),
        (timedelta(hours=2), datetime(2026, 3, 4, 5)),
        (timedelta(minutes=2), datetime(2026, 3, 4, 5, 6)),
        (timedelta(seconds=2), datetime(2026, 3, 4, 5, 6, 7, 8)),
    ],
)
def test_resolution(delta: timedelta, rounded: datetime) -> None:
    assert time.delta_resolution(datetime(2026, 3, 4, 5, 6, 7, 8), delta) == rounded


@pytest.mark.parametrize(
    ("start", "forward", "end"),
    [
        (datetime(2020, 1, 1, 5, 5), ffwd(hour=3, minute=0), datetime(2020, 1, 1, 3)),
        (datetime(2020, 1, 1, 5, 5), ffwd(weekday=2, weeks=1), datetime(2020, 1, 8, 5, 5)),
        (datetime(2020, 1, 2), ffwd(weekday=2), datetime(2020, 1, 8)),
        (datetime(2020, 1, 31), ffwd(month=2), datetime(2020, 2, 29)),
        (datetime(2020, 2, 1), ffwd(day=31), datetime(2020, 2, 29)),
        (datetime(2020, 6, 1), ffwd(month=12, day=31, year=2021), datetime(2021, 12, 31)),
    ],
)
def test_ffwd(start: datetime, forward: ffwd, end: datetime) -> None:
    assert start + forward == end


def test_ffwd_is_added_to_dates_only() -> None:
    with pytest.raises(TypeError):
        ffwd(hour=1) + 3  # type: ignore[operator]  # that is the point
    with pytest.raises(TypeError):
        3 + ffwd(hour=1)
    assert repr(ffwd(hour=3, minute=0)) == "ffwd(hour=3, minute=0, weeks=0)"


def test_weekdays() -> None:
    assert [time.weekday(name) for name in ("sun", "Monday", "SATURDAY")] == [0, 1, 6]
    with pytest.raises(KeyError):
        time.weekday("xx")


def test_backoff_doubles_up_to_a_maximum() -> None:
    assert [time.get_exponential_backoff_interval(2, n, 100) for n in (0, 3, 10, 5000)] == [
        2,
        16,
        100,
        100,
    ]
    assert time.get_exponential_backoff_interval(2, 3, -5) == 0
    random.seed(1)
    jittered = {
        time.get_exponential_backoff_interval(2, 3, 100, full_jitter=True) for _ in range(200)
    }
    assert min(jittered) == 0 and max(jittered) == 16


def test_offsets_and_timestamps(monkeypatch: pytest.MonkeyPatch) -> None:
    assert time.adjust_timestamp(1000, 2, here=lambda: 0) == -6200
    assert time.maybe_timedelta(1.5) == timedelta(seconds=1.5)
    assert time.maybe_timedelta("x") == "x"
    assert time.maybe_timedelta(None) is None
    monkeypatch.setenv("TZ", "America/New_York")
    system_time.tzset()
    try:
        assert time.utcoffset(localtime=lambda: system_time.localtime(1767225600)) == 5.0
        local = time.LocalTimezone()
        assert local.utcoffset(datetime(2026, 1, 1)) == timedelta(hours=-5)
        assert local.dst(datetime(2026, 7, 1)) == timedelta(hours=1)
        assert local.tzname(datetime(2026, 1, 1)) == "EST"
        assert datetime(2026, 1, 1, tzinfo=UTC).astimezone(local).hour == 19
        assert repr(local).startswith("<LocalTimezone: UTC-0")
        assert isinstance(pickle.loads(pickle.dumps(local)), time.LocalTimezone)
    finally:
        monkeypatch.undo()
        system_time.tzset()
