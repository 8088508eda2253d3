"""One row of the settings table: a default, the type it must have, its names and its meaning.

Before the journey: `defaults.py` lays the table from these rows, `settings.py` reads values by it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta, tzinfo
from numbers import Real
from types import FunctionType
from typing import Any, ClassVar

__all__ = ["OLD_NS", "OLD_NS_BEAT", "OLD_NS_WORKER", "Namespace", "Option", "old_ns"]

OLD_NS: set[str] = {"celery_{0}"}
OLD_NS_BEAT: set[str] = {"celerybeat_{0}"}
OLD_NS_WORKER: set[str] = {"celeryd_{0}"}


# Inside Option, `type` is a setting's.
_Types = tuple[type, ...]


class Option:
    """One setting.

    Arguments: `default`; `type`, one of the names in `typemap`; `old`, patterns of its old names
    (`{0}` is the name inside its namespace); `meaning`, one line for the reference; `choices`, the
    only values it may have; `also`, further Python types it accepts; `reads`, the type values are
    checked by where it is wider than `type`; `needed`, that None is no value for it; `declared`,
    whether `app.conf` lists it when nobody set it; `since`, `deprecate_by`, `remove_by`, versions;
    `alt`, what replaces a setting on its way out.
    """

    default: Any
    type: str
    meaning: str = ""
    since: str | None = None
    alt: str | None = None
    deprecate_by: str | None = None
    remove_by: str | None = None
    old: set[str] = set()
    choices: tuple[Any, ...] = ()
    also: _Types = ()
    reads: str = ""
    needed: bool = False
    declared: bool = True

    typemap: ClassVar[dict[str, Callable[[Any], Any]]]

    def __init__(self, default: Any = None, *args: Any, **kwargs: Any) -> None:
        self.default = default
        self.type = "string"
        for attribute, value in kwargs.items():
            setattr(self, attribute, value)

    def to_python(self, value: Any) -> Any:
        """The value for a text from the command line; ValueError or TypeError if it is none."""
        return self.typemap[self.type](value)

    def read(self, value: Any) -> Any:
        """The value as the program uses it: text that names a number or a truth value becomes one.

        Raises ValueError with a description of what was expected.
        """
        if value is None:
            if self.needed:
                raise ValueError(self.expected)
            return None
        if self.also and isinstance(value, self.also):
            return value
        if self.choices:
            return self._read_choice(value)
        reader = _READERS.get(self.reads or self.type)
        if reader is None:
            return value
        try:
            return reader(value)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(self.expected) from None

    def _read_choice(self, value: Any) -> Any:
        if value in self.choices:
            return value
        for choice in self.choices:
            if str(value).lower() == str(choice).lower():
                return choice
        raise ValueError(self.expected)

    @property
    def expected(self) -> str:
        """What a value must be, in words."""
        if self.choices:
            words = [repr(choice) for choice in self.choices]
        else:
            words = [_EXPECTED.get(self.reads or self.type, self.type)]
        words += [_TYPE_WORDS.get(kind, "any object") for kind in self.also]
        return " or ".join(dict.fromkeys(words))

    def __repr__(self) -> str:
        return f"<Option: type->{self.type} default->{self.default!r}>"


def Namespace(__old__: Iterable[str] | None = None, **options: Any) -> dict[str, Any]:
    """A part of the table: all its rows get the patterns `__old__` unless they have their own."""
    if __old__ is not None:
        for option in options.values():
            if not option.old and option.declared:
                option.old = set(__old__)
    return options


def old_ns(ns: str) -> set[str]:
    """The pattern of old names that are the new ones in upper case."""
    return {f"{ns}_{{0}}"}


# The words the table is written in: one for each type of setting.


def flag(default: bool | None, meaning: str, **more: Any) -> Option:
    """A setting that is true or false."""
    return Option(default, type="bool", meaning=meaning, **more)


def whole(default: float | None, meaning: str, **more: Any) -> Option:
    """A setting that is a whole number."""
    return Option(default, type="int", meaning=meaning, **more)


def number(default: float | None, meaning: str, **more: Any) -> Option:
    """A setting that is any number."""
    return Option(default, type="float", meaning=meaning, **more)


def lifetime(default: timedelta | None, meaning: str, **more: Any) -> Option:
    """A setting that is a number of seconds or a timedelta."""
    return Option(default, type="float", also=(timedelta,), meaning=meaning, **more)


def text(default: Any, meaning: str, **more: Any) -> Option:
    """A setting that is a text."""
    return Option(default, type="string", meaning=meaning, **more)


def path(default: str | None, meaning: str, **more: Any) -> Option:
    """A setting that is the path of a file."""
    return Option(default, type="string", also=(os.PathLike,), meaning=meaning, **more)


def target(default: str | None, meaning: str, **more: Any) -> Option:
    """A setting that names a class or function, or is one."""
    return Option(default, type="string", also=(type, FunctionType), meaning=meaning, **more)


def texts(default: Iterable[str] | None, meaning: str, **more: Any) -> Option:
    """A setting that is a list of texts."""
    return Option(default, type="list", meaning=meaning, **more)


def mapping(default: Mapping[str, Any] | None, meaning: str, **more: Any) -> Option:
    """A setting that is a mapping."""
    return Option(default, type="dict", meaning=meaning, **more)


def anything(default: Any, meaning: str, **more: Any) -> Option:
    """A setting whose value only its user can judge."""
    return Option(default, type="any", meaning=meaning, **more)


_TRUTH: dict[str, bool] = {
    "false": False, "no": False, "0": False, "off": False,
    "true": True, "yes": True, "1": True, "on": True,
}  # fmt: skip


def to_bool(term: Any) -> Any:
    """Text as a truth value; what is not text stays as it is. TypeError for any other text."""
    if isinstance(term, str):
        try:
            return _TRUTH[term.strip().lower()]
        except KeyError:
            raise TypeError(f"cannot read {term!r} as true or false: write yes or no") from None
    return term


def _read_bool(value: Any) -> Any:
    # An empty environment variable has always meant "off".
    if value == "":
        return False
    if isinstance(value, (str, Real)):
        return to_bool(value)
    raise TypeError(value)


def _read_whole(value: Any) -> Any:
    # Any real number passes: where a count is multiplied or compared, 4.0 has always worked.
    if isinstance(value, str):
        return int(value)
    if isinstance(value, Real) or hasattr(value, "__index__"):
        return value
    raise TypeError(value)


def _read_number(value: Any) -> Any:
    if isinstance(value, str):
        return float(value)
    if isinstance(value, Real) or hasattr(value, "__float__"):
        return value
    raise TypeError(value)


def _read_count(value: Any) -> Any:
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"
    # An empty text counts as unset, as in `-c "$WORKERS"` without WORKERS.
    return None if value == "" else _read_whole(value)


def _read_text(value: Any) -> Any:
    # Lazy and marked-safe texts are no str, but stand for one.
    if isinstance(value, str) or hasattr(value, "__html__"):
        return value
    raise TypeError(value)


def _read_texts(value: Any) -> Any:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise TypeError(value)
    return value


def _read_modules(value: Any) -> Any:
    return value if isinstance(value, str) else _read_texts(value)


def _read_mapping(value: Any) -> Any:
    if isinstance(value, Mapping) or (hasattr(value, "keys") and hasattr(value, "__getitem__")):
        return value
    raise TypeError(value)


def _read_queues(value: Any) -> Any:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(value)
    return value


def _read_bytes(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray, str)):
        return value
    raise TypeError(value)


_READERS: dict[str, Callable[[Any], Any]] = {
    "bool": _read_bool,
    "int": _read_whole,
    "float": _read_number,
    "count": _read_count,
    "string": _read_text,
    "list": _read_texts,
    "tuple": _read_modules,
    "dict": _read_mapping,
    "queues": _read_queues,
    "bytes": _read_bytes,
}

_EXPECTED: dict[str, str] = {
    "any": "any value",
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "count": "a whole number or 'auto'",
    "string": "text",
    "list": "a list of texts",
    "tuple": "a list of module names",
    "dict": "a mapping",
    "queues": "a list of queues or a mapping of them",
    "bytes": "bytes",
}

_TYPE_WORDS: dict[Any, str] = {
    type: "a class", FunctionType: "a function", str: "text",
    list: "a list", tuple: "a list", dict: "a mapping", int: "a number", float: "a number",
    bool: "true or false", bytes: "bytes", timedelta: "a timedelta", tzinfo: "a tzinfo",
    os.PathLike: "a path",
}  # fmt: skip


def _to_list(value: Any) -> list[Any]:
    return value.split(",") if isinstance(value, str) else list(value)


Option.typemap = {
    "string": str,
    "int": int,
    "float": float,
    "any": lambda value: value,
    "bool": to_bool,
    "dict": dict,
    "list": _to_list,
    "tuple": lambda value: tuple(_to_list(value)),
    "bytes": lambda value: value.encode() if isinstance(value, str) else value,
}
