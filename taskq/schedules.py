"""When something is due again: every so often, by a crontab, or by the sun.

The journey of a periodic task starts here: beat asks `is_due` of each entry. The present is asked
of `nowfun`, by default of the application, whose time zone crontabs are read in.

How a crontab finds its next run. It goes through years, months, days, hours and minutes as they
stand on the clock of its zone, so a time the clock skips in spring is taken as if it had not, and
one it shows twice in autumn runs once. How long it is until then is elapsed time.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from functools import cached_property
from typing import Any, NamedTuple

from taskq._state import get_current_app
from taskq.exceptions import ImproperlyConfigured
from taskq.utils.crontab import (
    CRON_DAYS_IN_MONTH,
    CRON_INVALID_DATE,
    CRON_INVALID_TYPE,
    CRON_PATTERN_INVALID,
    CRON_REPR,
    CronFields,
    Cronspec,
    ParseException,
    cronfield,
    crontab_parser,
    expand,
    find_run,
)
from taskq.utils.time import (
    ffwd,
    humanize_seconds,
    is_naive,
    localize,
    maybe_make_aware,
    maybe_timedelta,
    remaining,
    subtract_datetimes,
    timezone,
)

__all__ = (
    "CRON_DAYS_IN_MONTH",
    "CRON_INVALID_DATE",
    "CRON_INVALID_TYPE",
    "CRON_PATTERN_INVALID",
    "CRON_REPR",
    "Cronspec",
    "ParseException",
    "cronfield",
    "crontab",
    "crontab_parser",
    "maybe_schedule",
    "schedule",
    "solar",
)

SOLAR_INVALID_LATITUDE = "Argument latitude {lat} is invalid, must be between -90 and 90."
SOLAR_INVALID_LONGITUDE = "Argument longitude {lon} is invalid, must be between -180 and 180."
SOLAR_INVALID_EVENT = 'Argument event "{event}" is invalid, must be one of {all_events}.'
SOLAR_EPHEM_NOT_INSTALLED = (
    "Schedules by the sun need the library ephem, which comes with an extra: pip install"
    ' "taskq[solar]".'
)


class schedstate(NamedTuple):
    """What `is_due` gives: whether to run now, and in how many seconds to ask again."""

    is_due: bool
    next: float


class BaseSchedule:
    """What all schedules have: a clock and a zone.

    Arguments:
        nowfun: gives the present; `app.now` by default.
        app: whose time zone and settings count; the current application by default.
    """

    def __init__(self, nowfun: Callable[[], datetime] | None = None, app: Any = None) -> None:
        self.nowfun = nowfun
        self._app = app

    def now(self) -> datetime:
        """The present."""
        now: datetime = (self.nowfun or self.app.now)()
        return now

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """How long it is until the next run; negative when that is overdue."""
        raise NotImplementedError(
            f"{type(self).__name__} does not say how long it is to its next run"
        )

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """Whether to run now, and in how many seconds to ask again."""
        raise NotImplementedError(f"{type(self).__name__} has no is_due")

    def _state(self, last_run_at: datetime) -> schedstate:
        """What `is_due` gives by `remaining_estimate`."""
        left = self.remaining_estimate(last_run_at).total_seconds()
        if left > 0:
            return schedstate(False, left)
        return schedstate(True, max(self.remaining_estimate(self.now()).total_seconds(), 0))

    def maybe_make_aware(self, dt: datetime, naive_as_utc: bool = True) -> datetime:
        """A naive moment, which is UTC or else local, in the schedule's zone."""
        return maybe_make_aware(dt, self.tz, naive_as_utc=naive_as_utc)

    @property
    def app(self) -> Any:
        """The application given, or the current one."""
        return self._app or get_current_app()

    @app.setter
    def app(self, app: Any) -> None:
        self._app = app

    @cached_property
    def tz(self) -> tzinfo:
        """The application's time zone."""
        zone: tzinfo = self.app.timezone
        return zone

    @cached_property
    def utc_enabled(self) -> bool:
        """The setting `enable_utc`."""
        return bool(self.app.conf.enable_utc)

    def to_local(self, dt: datetime) -> datetime:
        """A naive moment is in this machine's zone, if the application does not use UTC."""
        if self.utc_enabled or not is_naive(dt):
            return dt
        return timezone.to_local_fallback(dt)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, BaseSchedule):
            return other.nowfun == self.nowfun
        return NotImplemented


class schedule(BaseSchedule):
    """Every so often.

    Arguments:
        run_every: seconds, or a timedelta: elapsed time, also across a change of the clocks.
        relative: runs are at full days, hours or minutes, whichever `run_every` is counted in.
    """

    relative: bool = False

    def __init__(
        self,
        run_every: float | timedelta | None = None,
        relative: bool = False,
        nowfun: Callable[[], datetime] | None = None,
        app: Any = None,
    ) -> None:
        self.run_every: Any = maybe_timedelta(run_every)
        self.relative = relative
        super().__init__(nowfun=nowfun, app=app)

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        return remaining(
            self.maybe_make_aware(last_run_at),
            self.run_every,
            self.maybe_make_aware(self.now()),
            self.relative,
        )

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        state = self._state(last_run_at)
        # Rounding may leave nothing until the next run: not all at once, then.
        return schedstate(state.is_due, state.next or self.seconds)

    def __repr__(self) -> str:
        return f"<freq: {self.human_seconds}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, schedule) and self.run_every == other.run_every

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__class__, (self.run_every, self.relative, self.nowfun)

    @property
    def seconds(self) -> float:
        """The interval in seconds."""
        return float(max(self.run_every.total_seconds(), 0))

    @property
    def human_seconds(self) -> str:
        """The interval in words."""
        return humanize_seconds(self.seconds)


class crontab(BaseSchedule):
    """Like an entry of cron: all five fields must agree with the clock, also both kinds of day.

    Arguments:
        minute, hour, day_of_week, day_of_month, month_of_year: a number, a text as
            `crontab_parser` reads it, or several numbers. Sunday is 0.
        kwargs: `nowfun` and `app`.

    Raises:
        ValueError: a field is wrong, or no month chosen has any of the days chosen.
    """

    def __init__(
        self,
        minute: Cronspec = "*",
        hour: Cronspec = "*",
        day_of_week: Cronspec = "*",
        day_of_month: Cronspec = "*",
        month_of_year: Cronspec = "*",
        **kwargs: Any,
    ) -> None:
        # As they were given: shown, and what a copy is made of.
        self._orig_minute = cronfield(minute)
        self._orig_hour = cronfield(hour)
        self._orig_day_of_week = cronfield(day_of_week)
        self._orig_day_of_month = cronfield(day_of_month)
        self._orig_month_of_year = cronfield(month_of_year)
        self._orig_kwargs = kwargs
        self.hour = expand(hour, 24)
        self.minute = expand(minute, 60)
        self.day_of_week = expand(day_of_week, 7)
        self.day_of_month = expand(day_of_month, 31, 1)
        self.month_of_year = expand(month_of_year, 12, 1)
        self._check_days()
        super().__init__(**kwargs)

    @classmethod
    def from_string(cls, crontab: str) -> crontab:
        """One from a line of cron: minute, hour, day of month, month, day of week.

        Raises:
            ValueError: there are not five fields with one space between them, or one is wrong.
        """
        fields = crontab.split(" ")
        if len(fields) != 5:
            raise ValueError(
                f"expected 5 fields with one space between them (minute, hour, day of month,"
                f" month, day of week), got {len(fields)} in {crontab!r}"
            )
        minute, hour, day_of_month, month_of_year, day_of_week = fields
        return cls(minute, hour, day_of_week, day_of_month, month_of_year)

    def _check_days(self) -> None:
        first, months = min(self.day_of_month, default=0), self.month_of_year
        if months and all(first > CRON_DAYS_IN_MONTH[month] for month in months):
            raise ValueError(
                CRON_INVALID_DATE.format(
                    day_of_month=self._orig_day_of_month, month_of_year=self._orig_month_of_year
                )
            )

    def remaining_delta(
        self, last_run_at: datetime, tz: tzinfo | None = None, ffwd: Any = ffwd
    ) -> tuple[datetime, Any, datetime]:
        """The last run, what to add to it for the next one, and the present.

        Arguments:
            tz: whose clock counts; the schedule's zone by default.
        """
        zone = tz or self.tz
        last, now = (localize(maybe_make_aware(dt, zone), zone) for dt in (last_run_at, self.now()))
        year, month, day, hour, minute = find_run(self._fields(), last)
        delta = ffwd(
            year=year, month=month, day=day, hour=hour, minute=minute, second=0, microsecond=0
        )
        return self.to_local(last), delta, self.to_local(now)

    def remaining_estimate(self, last_run_at: datetime, ffwd: Any = ffwd) -> timedelta:
        return remaining(*self.remaining_delta(last_run_at, ffwd=ffwd))

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """Whether to run now, and in how many seconds to ask again.

        With the setting `beat_cron_starting_deadline` a run that was missed by more seconds than
        that is not made up for.
        """
        state = self._state(last_run_at)
        deadline_s = self.app.conf.beat_cron_starting_deadline
        if state.is_due and deadline_s is not None:
            now = localize(self.maybe_make_aware(self.now()), self.tz)
            year, month, day, hour, minute = find_run(self._fields(), now, backwards=True)
            missed = datetime(year, month, day, hour, minute, tzinfo=now.tzinfo, fold=now.fold)
            if subtract_datetimes(now, missed).total_seconds() > deadline_s:
                return schedstate(False, state.next)
        return state

    def _fields(self) -> CronFields:
        return CronFields(
            self.minute, self.hour, self.day_of_week, self.day_of_month, self.month_of_year
        )

    def __repr__(self) -> str:
        return CRON_REPR.format(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, crontab):
            return NotImplemented
        return other._fields() == self._fields() and super().__eq__(other)

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (
            self._orig_minute, self._orig_hour, self._orig_day_of_week,
            self._orig_day_of_month, self._orig_month_of_year,
        )  # fmt: skip
        return self.__class__, fields, self._orig_kwargs

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._orig_kwargs = state
        super().__init__(**state)


def maybe_schedule(s: Any, relative: bool = False, app: Any = None) -> Any:
    """A schedule from seconds or a timedelta; one that is a schedule gets the `app`."""
    if s is None:
        return None
    if isinstance(s, (int, float)):
        s = timedelta(seconds=s)
    if isinstance(s, timedelta):
        return schedule(s, relative, app=app)
    s.app = app
    return s


class solar(BaseSchedule):
    """When the sun does something at a place; a day on which it does not is skipped.

    Arguments:
        event: `sunrise`, `sunset`, `solar_noon`, or `dawn_` and `dusk_` with `civil`, `nautical`
            or `astronomical`: the sun is 6, 12 or 18 degrees below the horizon.
        lat, lon: of the place, in degrees; north and east are positive.
        kwargs: `nowfun` and `app`.

    Raises:
        ImproperlyConfigured: the library ephem is not installed (extra `solar`).
        ValueError: there is no such event or place.
    """

    #: Event -> how ephem calls it, where the horizon is, whether the sun's middle counts.
    _EVENTS = {
        "dawn_astronomical": ("next_rising", "-18", True),
        "dawn_nautical": ("next_rising", "-12", True),
        "dawn_civil": ("next_rising", "-6", True),
        # Refraction and the sun's radius, as almanacs have it.
        "sunrise": ("next_rising", "-0:34", False),
        "solar_noon": ("next_transit", "0", False),
        "sunset": ("next_setting", "-0:34", False),
        "dusk_civil": ("next_setting", "-6", True),
        "dusk_nautical": ("next_setting", "-12", True),
        "dusk_astronomical": ("next_setting", "-18", True),
    }
    #: Near the poles events are up to half a year apart; at the pole ephem finds none.
    max_search_days = 366

    def __init__(self, event: str, lat: float, lon: float, **kwargs: Any) -> None:
        self.ephem = _import_ephem()
        self.event = event
        self.lat = lat
        self.lon = lon
        super().__init__(**kwargs)
        if event not in self._EVENTS:
            names = ", ".join(sorted(self._EVENTS))
            raise ValueError(SOLAR_INVALID_EVENT.format(event=event, all_events=names))
        if lat < -90 or lat > 90:
            raise ValueError(SOLAR_INVALID_LATITUDE.format(lat=lat))
        if lon < -180 or lon > 180:
            raise ValueError(SOLAR_INVALID_LONGITUDE.format(lon=lon))
        self.method, horizon, self.use_center = self._EVENTS[event]
        self.cal = self.ephem.Observer()
        self.cal.lat, self.cal.lon = str(lat), str(lon)
        self.cal.elev, self.cal.horizon, self.cal.pressure = 0, horizon, 0

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__class__, (self.event, self.lat, self.lon)

    def __repr__(self) -> str:
        return f"<solar: {self.event} at latitude {self.lat}, longitude: {self.lon}>"

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        found = self._next_event(self.maybe_make_aware(last_run_at))
        return subtract_datetimes(self.maybe_make_aware(found), self.maybe_make_aware(self.now()))

    def _next_event(self, after: datetime) -> datetime:
        """The event after a moment; the midnight at which the search ends, if there is none."""
        sun = self.ephem.Sun()
        options = {"use_center": True} if self.use_center else {}
        start: Any = after
        for _ in range(self.max_search_days):
            try:
                found = getattr(self.cal, self.method)(sun, start=start, **options)
            except self.ephem.CircumpolarError:
                start = self.cal.next_antitransit(sun, start=start)
            else:
                start = found
                break
        moment: datetime = start.datetime()
        return moment

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        return self._state(last_run_at)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, solar):
            return NotImplemented
        return (other.event, other.lat, other.lon) == (self.event, self.lat, self.lon)


def _import_ephem() -> Any:
    try:
        import ephem
    except ImportError:
        raise ImproperlyConfigured(SOLAR_EPHEM_NOT_INSTALLED) from None
    return ephem
