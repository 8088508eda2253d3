"""Moments, durations, time zones, rates: everything the queue knows about time.

Where "now" matters it can be passed in.
"""

from __future__ import annotations

import random
import time as _time
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from datetime import timezone as _timezone
from functools import cached_property
from math import inf
from types import ModuleType
from typing import Any, overload

from taskq.utils.imports import lazy_function
from taskq.utils.text import pluralize

__all__ = (
    "LocalTimezone",
    "add_seconds_to_datetime",
    "adjust_timestamp",
    "delta_resolution",
    "ffwd",
    "get_exponential_backoff_interval",
    "humanize_seconds",
    "is_naive",
    "localize",
    "make_aware",
    "maybe_iso8601",
    "maybe_make_aware",
    "maybe_timedelta",
    "parse_iso8601",
    "rate",
    "remaining",
    "subtract_datetimes",
    "timezone",
    "to_utc",
    "utcoffset",
    "weekday",
)

# Clients that give no times do without these libraries.
ZoneInfo: Callable[[str], tzinfo] = lazy_function("zoneinfo:ZoneInfo")
isoparse: Callable[[str], datetime] = lazy_function("dateutil.parser:isoparse")
get_localzone: Callable[[], tzinfo] = lazy_function("tzlocal:get_localzone")

DAYNAMES = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
WEEKDAYS = {name: number for number, name in enumerate(DAYNAMES)}

#: Runs a second, of one run in each unit.
RATE_MODIFIER_MAP: dict[str, Callable[[float], float]] = {
    "s": lambda n: n,
    "m": lambda n: n / 60.0,
    "h": lambda n: n / 60.0 / 60.0,
}

_TIME_UNITS = (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0))


class LocalTimezone(tzinfo):
    """The time zone this machine is set to, whatever it is at the moment of asking."""

    def __repr__(self) -> str:
        offset = self.utcoffset(datetime.now())
        return f"<LocalTimezone: UTC{int(offset.total_seconds() / 3600):+03d}>"

    def utcoffset(self, dt: datetime | None) -> timedelta:
        return self._at(dt).utcoffset() or timedelta(0)

    def dst(self, dt: datetime | None) -> timedelta:
        is_dst = _time.localtime(self._at(dt).timestamp()).tm_isdst > 0
        return timedelta(seconds=_time.timezone - _time.altzone) if is_dst else timedelta(0)

    def tzname(self, dt: datetime | None) -> str:
        return self._at(dt).tzname() or ""

    def fromutc(self, dt: datetime) -> datetime:
        local = dt.replace(tzinfo=_timezone.utc).astimezone()
        return local.replace(tzinfo=self)

    @staticmethod
    def _at(dt: datetime | None) -> datetime:
        return (dt or datetime.now()).replace(tzinfo=None).astimezone()


class _Zone:
    """Time zones by name, and moments between them."""

    def tz_or_local(self, tzinfo: tzinfo | str | None = None) -> tzinfo:
        """The zone given, or this machine's."""
        return self.local if tzinfo is None else self.get_timezone(tzinfo)

    def to_local(
        self,
        dt: datetime,
        local: tzinfo | str | None = None,
        orig: tzinfo | str | None = None,
    ) -> datetime:
        """`dt` in the zone `local`; a naive one is read as of the zone `orig` (UTC)."""
        if is_naive(dt):
            dt = make_aware(dt, self.utc if orig is None else self.get_timezone(orig))
        return localize(dt, self.tz_or_local(local))

    def to_system(self, dt: datetime) -> datetime:
        """`dt` in this machine's zone, with a fixed offset."""
        return dt.astimezone()

    def to_local_fallback(self, dt: datetime) -> datetime:
        """`dt` in this machine's zone; a naive one is taken to be in it already."""
        return make_aware(dt, self.local) if is_naive(dt) else localize(dt, self.local)

    def get_timezone(self, zone: tzinfo | str) -> tzinfo:
        """A zone by name (`Europe/Oslo`).

        Raises:
            zoneinfo.ZoneInfoNotFoundError: there is no such zone.
        """
        if isinstance(zone, str):
            return ZoneInfo(zone)
        return zone

    @cached_property
    def local(self) -> tzinfo:
        """This machine's zone."""
        return get_localzone()

    @cached_property
    def utc(self) -> tzinfo:
        return ZoneInfo("UTC")


timezone = _Zone()


@overload
def maybe_timedelta(delta: None) -> None: ...
@overload
def maybe_timedelta(delta: float) -> timedelta: ...
@overload
def maybe_timedelta(delta: Any) -> Any: ...
def maybe_timedelta(delta: Any) -> Any:
    """A number of seconds as a timedelta; anything else comes back as it is."""
    if isinstance(delta, (int, float)):
        return timedelta(seconds=delta)
    return delta


def delta_resolution(dt: datetime, delta: timedelta) -> datetime:
    """`dt` rounded down to the unit in which `delta` is large: days, hours or minutes."""
    seconds = max(delta.total_seconds(), 0)
    fields = ("hour", "minute", "second", "microsecond")
    for index, (_, unit) in enumerate(_TIME_UNITS):
        if seconds >= unit:
            return dt.replace(**dict.fromkeys(fields[index:], 0))  # type: ignore[arg-type]  # all int
    return dt


def remaining(
    start: datetime,
    ends_in: Any,
    now: datetime | None = None,
    relative: bool = False,
) -> timedelta:
    """How long it is from `now` until `start` plus `ends_in`; negative when that is over.

    Arguments:
        ends_in: a timedelta (elapsed time, also across a change of the clocks) or `ffwd`.
        now: the present, by default.
        relative: the end is rounded down to the unit of `ends_in`, at least to seconds.
    """
    now = now or datetime.now(_timezone.utc)
    if isinstance(ends_in, timedelta):
        end = add_seconds_to_datetime(start, ends_in.total_seconds())
    else:
        end = start + ends_in
    if relative:
        end = delta_resolution(end, ends_in).replace(microsecond=0)
    return subtract_datetimes(end, now)


def rate(r: str | float | None) -> float:
    """Runs per second of a rate limit: `"10/m"`, `"100/h"`, `"5"` or a number; 0 is no limit.

    Raises:
        ValueError: it is not of that form.
    """
    if not r:
        return 0
    try:
        if not isinstance(r, str):
            per_second: float = r
        else:
            ops, _, modifier = r.partition("/")
            per_second = RATE_MODIFIER_MAP[modifier or "s"](float(ops))
        if 0 <= per_second < inf:
            return per_second or 0
    except (KeyError, ValueError, TypeError):
        pass
    raise ValueError(
        f"{r!r} is not a rate limit; write a number of runs and a unit, s, m or h: '10/m'"
    )


def weekday(name: str) -> int:
    """The number of a day by its name or its first three letters; Sunday is 0.

    Raises:
        KeyError: no day has that name.
    """
    abbreviation = name[0:3].lower()
    try:
        return WEEKDAYS[abbreviation]
    except KeyError:
        raise KeyError(name) from None


def humanize_seconds(
    secs: float, prefix: str = "", sep: str = "", now: str = "now", microseconds: bool = False
) -> str:
    """A duration in its largest unit: `1.02 minutes`; `now` for less than a second."""
    secs = float(secs)
    for unit, divider in _TIME_UNITS:
        if secs >= divider:
            n = secs / divider
            return f"{prefix}{sep}{n:.2f} {pluralize(n, unit)}"
    if secs >= 1 or (microseconds and secs > 0):
        return f"{prefix}{sep}{secs:.2f} {pluralize(secs, 'second')}"
    return now


def parse_iso8601(datestring: str) -> datetime:
    """The moment written in ISO 8601; naive if it names no offset.

    Raises:
        ValueError: it is not a date in that form.
    """
    try:
        # All our own texts have the form Python reads fastest.
        return datetime.fromisoformat(datestring)
    except ValueError:
        pass
    try:
        return isoparse(datestring)
    except ValueError as exc:
        raise ValueError(
            f"unable to parse date string {datestring!r}: expected ISO 8601, as in "
            f"2026-01-31T12:00:00+00:00 ({exc})"
        ) from None


@overload
def maybe_iso8601(dt: None) -> None: ...
@overload
def maybe_iso8601(dt: datetime) -> datetime: ...
@overload
def maybe_iso8601(dt: str | None) -> datetime | None: ...
def maybe_iso8601(dt: Any) -> datetime | None:
    """A moment from its text; a datetime comes back as it is, and nothing as None."""
    if not dt:
        return None
    return dt if isinstance(dt, datetime) else parse_iso8601(dt)


def is_naive(dt: datetime) -> bool:
    """Whether `dt` says nothing about its time zone."""
    return dt.tzinfo is None or dt.tzinfo.utcoffset(dt) is None


def add_seconds_to_datetime(dt: datetime, seconds: float) -> datetime:
    """The moment `seconds` of elapsed time after `dt`, in its zone.

    Python adds in wall clock time, which is an hour off across a change of the clocks.
    """
    if is_naive(dt):
        return dt + timedelta(seconds=seconds)
    return (dt.astimezone(_timezone.utc) + timedelta(seconds=seconds)).astimezone(dt.tzinfo)


def subtract_datetimes(end: datetime, start: datetime) -> timedelta:
    """Elapsed time between two moments, both naive or both aware.

    Python subtracts in wall clock time when both are in the same zone.
    """
    if is_naive(end) or is_naive(start):
        return end - start
    return end.astimezone(_timezone.utc) - start.astimezone(_timezone.utc)


def make_aware(dt: datetime, tz: tzinfo) -> datetime:
    """The same wall clock time, said to be in the zone `tz`."""
    return dt.replace(tzinfo=tz)


def localize(dt: datetime, tz: tzinfo) -> datetime:
    """The same moment in the zone `tz`; a naive one is taken to be in it."""
    return make_aware(dt, tz) if is_naive(dt) else dt.astimezone(tz)


def to_utc(dt: datetime) -> datetime:
    """The same wall clock time in UTC (not the same moment)."""
    return make_aware(dt, timezone.utc)


def maybe_make_aware(
    dt: datetime, tz: tzinfo | None = None, naive_as_utc: bool = True
) -> datetime:
    """A naive moment in the zone `tz` (UTC); an aware one as it is.

    Arguments:
        naive_as_utc: a naive moment is UTC; otherwise it is taken to be in `tz`.
    """
    if not is_naive(dt):
        return dt
    zone = tz or timezone.utc
    return localize(make_aware(dt, timezone.utc if naive_as_utc else zone), zone)


class ffwd:
    """Goes forward to fixed fields of a date: `datetime(2020, 1, 1) + ffwd(weekday=2, hour=3)`.

    Arguments:
        weekday: 0 is Monday; today counts.
        weeks: how many weeks later.
    """

    def __init__(
        self,
        year: int | None = None,
        month: int | None = None,
        weeks: int = 0,
        weekday: int | None = None,
        day: int | None = None,
        hour: int | None = None,
        minute: int | None = None,
        second: int | None = None,
        microsecond: int | None = None,
        **kwargs: Any,
    ) -> None:
        # weekday is also the name of a function here, so it is named like its field.
        self.year = year
        self.month = month
        self.weeks = weeks
        self.weekday = weekday
        self.day = day
        self.hour = hour
        self.minute = minute
        self.second = second
        self.microsecond = microsecond
        self.days = weeks * 7

    def __repr__(self) -> str:
        shown = ("year", "month", "day", "hour", "minute", "second", "microsecond")
        fields = [f"{k}={getattr(self, k)}" for k in shown if getattr(self, k) is not None]
        fields.append(f"weeks={self.weeks}")
        if self.weekday is not None:
            fields.append(f"weekday={self.weekday}")
        return f"ffwd({', '.join(fields)})"

    def __radd__(self, other: Any) -> Any:
        if not isinstance(other, datetime):
            return NotImplemented
        fields = self._fields()
        year, month = fields.get("year", other.year), fields.get("month", other.month)
        # The 31st of a shorter month is its last day.
        fields["day"] = min(_days_in_month(year, month), self.day or other.day)
        found = other.replace(**fields) + timedelta(days=self.days)  # type: ignore[arg-type]  # all int
        if self.weekday is not None:
            found += timedelta(days=(self.weekday - found.weekday()) % 7)
        return found

    def _fields(self) -> dict[str, int]:
        names = ("year", "month", "hour", "minute", "second", "microsecond")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def _days_in_month(year: int, month: int) -> int:
    following = datetime(year + month // 12, month % 12 + 1, 1)
    return (following - timedelta(days=1)).day


def utcoffset(
    time: ModuleType = _time, localtime: Callable[..., Any] = _time.localtime
) -> float:
    """Hours to add to local time to get UTC, summer time included."""
    offset: float = time.altzone if localtime().tm_isdst else time.timezone
    return offset / 3600


def adjust_timestamp(ts: float, offset: float, here: Callable[..., float] = utcoffset) -> float:
    """A timestamp made in a zone of that utcoffset, as it is here."""
    return ts - (offset - here()) * 3600


def get_exponential_backoff_interval(
    factor: int, retries: int, maximum: int, full_jitter: bool = False
) -> int:
    """Seconds to wait before retry number `retries`: `factor` doubled each time, up to `maximum`.

    Arguments:
        full_jitter: any number of seconds up to that instead.
    """
    # 2 to the power of 64 seconds is more than any maximum means.
    countdown: int = min(maximum, factor * 2 ** min(retries, 64))
    if full_jitter:
        countdown = random.randrange(max(countdown, 0) + 1)
    return max(0, countdown)
