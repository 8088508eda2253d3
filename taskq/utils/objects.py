"""Small tools on objects and classes."""

from __future__ import annotations

from collections.abc import Callable, Container
from types import TracebackType
from typing import Any

__all__ = ("Bunch", "FallbackContext", "getitem_property", "mro_lookup")


class Bunch:
    """An object with the attributes it is made with."""

    def __init__(self, **kwargs: Any) -> None:
        self.__dict__.update(kwargs)


def mro_lookup(
    cls: type,
    attr: str,
    stop: Container[type] | None = None,
    monkey_patched: Container[str] | None = None,
) -> type | None:
    """The first class in the mro of `cls` that defines `attr`, or None.

    Arguments:
        stop: at one of these the search ends, as if nothing were defined.
        monkey_patched: an attribute at a stop still counts if its module is not among these.
    """
    for node in cls.mro():
        if stop and node in stop:
            value = node.__dict__.get(attr)
            module = getattr(value, "__module__", None)
            if value is None or not monkey_patched or module in monkey_patched:
                return None
            return node
        if attr in node.__dict__:
            return node
    return None


class FallbackContext:
    """Gives what was provided, or else the result of a context manager that is then closed.

    `with FallbackContext(connection, pool.acquire, block=True) as connection: ...`
    """

    def __init__(
        self, provided: Any, fallback: Callable[..., Any], *fb_args: Any, **fb_kwargs: Any
    ) -> None:
        self.provided = provided
        self.fallback = fallback
        self.fb_args = fb_args
        self.fb_kwargs = fb_kwargs
        self._context: Any = None

    def __enter__(self) -> Any:
        if self.provided is not None:
            return self.provided
        self._context = self.fallback(*self.fb_args, **self.fb_kwargs)
        return self._context.__enter__()

    def __exit__(
        self,
        *exc_info: type[BaseException] | BaseException | TracebackType | None,
    ) -> Any:
        if self._context is not None:
            return self._context.__exit__(*exc_info)
        return None


class getitem_property:
    """An attribute that reads and writes an item of the object: `getitem_property("a.b.c")`."""

    def __init__(self, keypath: str, doc: str | None = None) -> None:
        path, _, self.key = keypath.rpartition(".")
        self.path = path.split(".") if path else []
        self.__doc__ = doc

    def _holder(self, obj: Any) -> Any:
        for key in self.path:
            obj = obj[key]
        return obj

    def __get__(self, obj: Any, type: type | None = None) -> Any:
        if obj is None:
            return self
        return self._holder(obj).get(self.key)

    def __set__(self, obj: Any, value: Any) -> None:
        self._holder(obj)[self.key] = value
