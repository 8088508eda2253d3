"""The fields of a crontab: reading them, and finding the times on a calendar that agree with them.

Knows nothing of tasks; taskq/schedules.py makes schedules of it.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple, Union

from taskq.utils.time import weekday

__all__ = ("CronFields", "ParseException", "cronfield", "crontab_parser", "expand", "find_run")

Cronspec = Union[int, str, Iterable[int]]

CRON_PATTERN_INVALID = "Invalid crontab pattern.  Valid range is {min}-{max}. '{value}' was found."
CRON_INVALID_TYPE = (
    "Argument cronspec needs to be of any of the following types: int, str, or an iterable type."
    " {type!r} was given."
)
CRON_INVALID_DATE = (
    "Invalid crontab: day_of_month {day_of_month!r} never occurs in month_of_year"
    " {month_of_year!r}."
)
CRON_REPR = (
    "<crontab: {0._orig_minute} {0._orig_hour} {0._orig_day_of_month} {0._orig_month_of_year}"
    " {0._orig_day_of_week} (m/h/dM/MY/d)>"
)
#: The most days a month of any year has.
CRON_DAYS_IN_MONTH = {month: monthrange(2024, month)[1] for month in range(1, 13)}


#: After so many years weekdays fall on the same dates again: what has not occurred never does.
CALENDAR_YEARS = 400

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


class ParseException(Exception):
    """A field of a crontab is not written as one."""


class crontab_parser:
    """Reads one field of a crontab: `crontab_parser(24).parse("9-17/2,22")`.

    A field is `*`, a number or name, a range (`22-2` goes on over the end), a range or `*` with
    steps (`*/15`, counted from the lowest value), or several of these with commas between them.

    Arguments:
        max_: how many values there are.
        min_: the lowest one.
    """

    ParseException = ParseException

    def __init__(self, max_: int = 60, min_: int = 0) -> None:
        self.max_ = max_
        self.min_ = min_
        #: What follows a part that is understood is not looked at.
        self.pats: tuple[tuple[re.Pattern[str], Callable[[Any], list[int]]], ...] = (
            (re.compile(r"(\w+?)-(\w+)/(\w+)?"), self._read_range_with_steps),
            (re.compile(r"(\w+?)-(\w+)"), self._read_range),
            (re.compile(r"\*/(\w+)?"), self._read_all_with_steps),
            (re.compile(r"^\*$"), lambda groups: self._all()),
        )

    def parse(self, spec: str) -> set[int]:
        """The values of a field.

        Raises:
            ParseException: there is nothing between commas or after a slash, or a negative number.
            ValueError: a number is out of range, or a word is no name.
        """
        return {number for part in spec.split(",") for number in self._parse_part(part)}

    def _parse_part(self, part: str) -> list[int]:
        if not part:
            raise self.ParseException("empty part")
        for pattern, read in self.pats:
            found = pattern.match(part)
            if found:
                return read(found.groups())
        return [self._read_number(part)]

    def _all(self) -> list[int]:
        return list(range(self.min_, self.min_ + self.max_))

    def _read_range(self, groups: tuple[str, ...]) -> list[int]:
        first, last = (self._read_number(text) for text in groups[:2])
        if first <= last:
            return list(range(first, last + 1))
        values = self._all()
        return values[first - self.min_ :] + values[: last - self.min_ + 1]

    def _read_range_with_steps(self, groups: tuple[str, ...]) -> list[int]:
        return self._take_steps(self._read_range(groups), groups[2])

    def _read_all_with_steps(self, groups: tuple[str, ...]) -> list[int]:
        return self._take_steps(self._all(), groups[0])

    def _take_steps(self, values: list[int], step: str | None) -> list[int]:
        if not step:
            raise self.ParseException("empty filter")
        if int(step) == 0:
            raise ValueError("slice step cannot be zero: use a step of 1 or more, as in */5")
        return values[:: int(step)]

    def _read_number(self, text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = self._read_name(text)
        if number < 0:
            raise self.ParseException("negative numbers not supported")
        highest = self.min_ + self.max_ - 1
        if number > highest:
            raise ValueError(f"Invalid end range: {number} > {highest}.")
        if number < self.min_:
            raise ValueError(f"Invalid beginning range: {number} < {self.min_}.")
        return number

    def _read_name(self, text: str) -> int:
        short = text[:3].lower()
        if short in _MONTHS:
            return _MONTHS.index(short) + 1
        try:
            return weekday(text)
        except KeyError:
            raise ValueError(
                f"Invalid weekday literal {text!r}. Expected a number from {self.min_} to"
                f" {self.min_ + self.max_ - 1}, *, a range (1-5), steps (*/2, 1-9/2), or the name"
                " of a day or month (mon, jan)."
            ) from None


def cronfield(s: Cronspec | None) -> Cronspec:
    """The field itself; `*` for None."""
    return "*" if s is None else s


def expand(cronspec: Cronspec, max_: int, min_: int = 0) -> set[int]:
    """The values of a field, however it is given.

    Raises:
        TypeError: it is no number, no text and no collection of numbers.
        ValueError: a value is out of range.
    """
    if isinstance(cronspec, int):
        values = {cronspec}
    elif isinstance(cronspec, str):
        values = crontab_parser(max_, min_).parse(cronspec)
    elif isinstance(cronspec, Iterable):
        values = set(cronspec)
    else:
        raise TypeError(CRON_INVALID_TYPE.format(type=type(cronspec)))
    for number in values:
        if number >= max_ + min_ or number < min_:
            text = CRON_PATTERN_INVALID.format(min=min_, max=max_ - 1 + min_, value=number)
            raise ValueError(text)
    return values


class CronFields(NamedTuple):
    """What the clock and the calendar must show; Sunday is 0."""

    minutes: set[int]
    hours: set[int]
    weekdays: set[int]
    days: set[int]
    months: set[int]


def find_run(fields: CronFields, at: datetime, backwards: bool = False) -> tuple[int, ...]:
    """The first run on the clock after `at`, or the last one up to it: year, ..., minute.

    Raises:
        ValueError: there is none in all years.
    """
    limit = (at.year, at.month, at.day, at.hour, at.minute)
    hours, minutes = (sorted(v, reverse=backwards) for v in (fields.hours, fields.minutes))
    for day in _find_days(fields, at, backwards) if all(fields) else ():
        for hour in hours:
            for minute in minutes:
                found = (*day, hour, minute)
                if (found <= limit) if backwards else (found > limit):
                    return found
    raise ValueError(f"this crontab never runs, no date and time has all of {fields}")


def _find_days(fields: CronFields, at: datetime, backwards: bool) -> Iterator[tuple[int, int, int]]:
    """The days that agree, from that of `at` on."""
    step = -1 if backwards else 1
    here = (at.year, at.month, at.day)
    last_year = min(max(at.year + step * CALENDAR_YEARS, 1), 9999)
    for year in range(at.year, last_year + step, step):
        for month in sorted(fields.months, reverse=backwards):
            # Its first weekday, counted from Monday; crontabs count from Sunday.
            first, length = monthrange(year, month)
            for day in sorted(fields.days, reverse=backwards):
                found = (year, month, day)
                is_ahead = found <= here if backwards else found >= here
                if is_ahead and day <= length and (first + day) % 7 in fields.weekdays:
                    yield found
