"""Exception classes that do everything wrong, for tests of how errors travel; some 300 of them.

Every class is one way of being built, times one thing it carries, times one way of being shown or
pickled. `ALL` has a function per class that raises it.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any


class Loop(list):  # type: ignore[type-arg]
    """Contains itself."""

    def __init__(self) -> None:
        super().__init__([self])


class Unreprable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("no pickle")


class Unreadable:
    """Can be pickled, and not unpickled."""

    def __reduce__(self) -> Any:
        return (int, ("not a number",))


#: what an exception carries in its args
CARRIED: dict[str, Callable[[], Any]] = {
    "text": lambda: "text",
    "surrogate": lambda: "\udc80 half a character",
    "bytes": lambda: b"\xff\x00",
    "lambda": lambda: lambda: None,
    "lock": threading.Lock,
    "loop": Loop,
    "unreprable": Unreprable,
    "unpicklable": Unpicklable,
    "unreadable": Unreadable,
    "keys": lambda: {(1, 2): object()},
    "generator": lambda: (each for each in ()),
    "itself": lambda: ValueError(ValueError("inner")),
}

#: how it is built: (body of the class, how to make one of a value)
Recipe = tuple[dict[str, Any], Callable[[Any, Any], BaseException]]


def _takes_two(self: Any, first: Any, second: Any) -> None:
    Exception.__init__(self, first)


def _takes_named(self: Any, *, value: Any) -> None:
    Exception.__init__(self, value)


def _forgets(self: Any, value: Any, more: Any) -> None:
    self.value = value


BUILT: dict[str, Recipe] = {
    "plainly": ({}, lambda cls, value: cls(value)),
    "of_two": ({"__init__": _takes_two}, lambda cls, value: cls(value, 2)),
    "by_name": ({"__init__": _takes_named}, lambda cls, value: cls(value=value)),
    "without_super": ({"__init__": _forgets}, lambda cls, value: cls(value, 1)),
}


def _raises(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("hostile")


#: how it behaves when it is looked at
BEHAVING: dict[str, dict[str, Any]] = {
    "well": {},
    "no_repr": {"__repr__": _raises},
    "no_str": {"__str__": _raises, "__repr__": _raises},
    "no_reduce": {"__reduce__": _raises, "__reduce_ex__": _raises},
    "reduces_to_nothing": {"__reduce__": lambda self: (dict, ())},
    "no_state": {"__setstate__": _raises},
    "no_equality": {"__eq__": _raises, "__hash__": None},
}


def _make(built: str, carried: str, behaving: str) -> Callable[[], None]:
    body, make = BUILT[built]
    name = f"Built_{built}_with_{carried}_behaving_{behaving}"
    # Half of them are in this module, where readers find them; half are nobody's.
    cls = type(name, (Exception,), {**body, **BEHAVING[behaving], "__module__": __name__})
    if (len(built) + len(carried)) % 2:
        globals()[name] = cls

    def throw() -> None:
        raise make(cls, CARRIED[carried]())

    throw.__name__ = name
    return throw


ALL = [_make(*parts) for parts in itertools.product(BUILT, CARRIED, BEHAVING)]
