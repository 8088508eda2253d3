"""How an exception travels: packed by the worker, rebuilt in the client as its own class.

With pickle the exception itself travels (or the nearest base class that can be pickled); with
every other serializer its class name, module and arguments do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from taskq.exceptions import SecurityError
from taskq.utils.serialization import (
    UnpickleableExceptionWrapper,
    create_exception_cls,
    ensure_serializable,
    get_pickleable_exception,
    get_pickled_exception,
    home_module,
    wire_module,
)

__all__ = ("EXCEPTION_ABLE_CODECS", "pack_exception", "unpack_exception")

#: Serializers that carry exceptions themselves.
EXCEPTION_ABLE_CODECS = frozenset({"pickle"})

#: Home of classes made for exceptions that came without a module.
_NO_MODULE = "taskq.backends.base"
#: Home of classes made for exceptions this process does not have.
_UNKNOWN = "taskq.exceptions"


def pack_exception(exc: BaseException, serializer: str, encode: Callable[[Any], Any]) -> Any:
    """`exc` in a form that `serializer` can carry; `encode` tells whether it can carry a value."""
    if serializer in EXCEPTION_ABLE_CODECS:
        return get_pickleable_exception(exc)
    cls = type(exc)
    return {
        "exc_type": cls.__qualname__,
        "exc_message": ensure_serializable(_find_arguments(exc), encode),
        "exc_module": wire_module(cls.__module__),
    }


def _find_arguments(exc: BaseException) -> tuple[Any, ...]:
    """What the exception is rebuilt from; its text when it cannot be, and would say nothing."""
    if exc.args:
        return exc.args
    try:
        type(exc)()
    except Exception:  # the constructor is a user's code
        try:
            text = str(exc)
        except Exception:
            text = ""
        if text:
            return (text,)
    return ()


def unpack_exception(stored: Any) -> BaseException | None:
    """The exception that pack_exception() has packed; None when nothing is there.

    Raises SecurityError when the name given is not that of an exception, so that a forged result
    can not make us call anything; TypeError or ValueError when `stored` is something else.
    """
    if not stored:
        return None
    if isinstance(stored, UnpickleableExceptionWrapper):
        return get_pickled_exception(stored)
    if isinstance(stored, BaseException):
        return stored
    if not isinstance(stored, Mapping):
        raise TypeError(
            "If the stored exception isn't an instance of BaseException, it must be a dictionary.\n"
            f"Instead got: {stored!r}"
        )
    try:
        name = stored["exc_type"]
    except KeyError as exc:
        raise ValueError("Exception information must include the exception type") from exc
    if not isinstance(name, str):
        raise TypeError(f"exc_type must be the name of an exception class, got: {name!r}")
    return _build(_find_class(name, stored), stored)


def _find_class(name: str, stored: Mapping[str, Any]) -> type[BaseException]:
    module = stored.get("exc_module")
    if module is None:
        return create_exception_cls(name, _NO_MODULE)
    # Only what is imported already: reading a result must not import code of its choosing.
    found: Any = sys.modules.get(home_module(module))
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError:
        return create_exception_cls(name, _UNKNOWN)
    if not isinstance(found, type) or not issubclass(found, BaseException):
        raise SecurityError(
            f"Expected an exception class, got {module}.{name} "
            f"with payload {stored.get('exc_message', '')}"
        )
    return found


def _build(cls: type[BaseException], stored: Mapping[str, Any]) -> BaseException:
    message = stored.get("exc_message", "")
    try:
        return cls(*message) if isinstance(message, (tuple, list)) else cls(message)
    except Exception as exc:  # the constructor is a user's code
        rebuilt = Exception(f"{cls}({message})")
        rebuilt.__cause__ = exc
        return rebuilt
