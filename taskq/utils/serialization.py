"""Exceptions and pickles that cross a process border, and the names they carry there.

What leaves the process names Celery's modules, so that a Celery peer can read it; what comes in
under "celery." is ours.
"""

from __future__ import annotations

import datetime
import io
import json
import numbers
import pickle
import sys
import types
from base64 import b64decode as base64decode
from base64 import b64encode as base64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from inspect import getmro
from typing import Any, NoReturn

from kombu.serialization import registry
from kombu.utils import imports as kombu_imports
from kombu.utils.encoding import bytes_to_str, safe_repr, str_to_bytes
from kombu.utils.json import loads as load_json

from taskq.utils.imports import home_module, symbol_by_name

__all__ = (
    "UnpickleableExceptionWrapper",
    "b64decode",
    "b64encode",
    "create_exception_cls",
    "ensure_serializable",
    "find_pickleable_exception",
    "get_pickleable_etype",
    "get_pickleable_exception",
    "get_pickled_exception",
    "home_module",
    "itermro",
    "jsonify",
    "pickle_dumps",
    "pickle_loads",
    "raise_with_context",
    "read_payload",
    "strtobool",
    "subclass_exception",
    "wire_module",
)

#: Base classes that say nothing about what went wrong.
UNWANTED_BASE_CLASSES = (Exception, BaseException, object)

STRTOBOOL_DEFAULT_TABLE = {
    "false": False,
    "no": False,
    "0": False,
    "true": True,
    "yes": True,
    "1": True,
    "on": True,
    "off": False,
}

#: Modules whose Celery address is not their own with the root exchanged.
_WIRE_ADDRESSES = {
    "taskq.app.pickling": "celery.app.base",
    "taskq.backends.abstract": "celery.backends.base",
    "taskq.context": "celery.app.task",
    "taskq.result_sets": "celery.result",
    "taskq.utils.proxy": "celery.local",
    "taskq.utils.signalling": "celery.utils.dispatch.signal",
    "taskq.utils.bounded": "celery.utils.collections",
}

Loader = Callable[[bytes], Any]
Dumper = Callable[[Any], bytes]


def wire_module(module: str) -> str:
    """The name of a module as peers know it: `taskq.x` -> `celery.x`, others as they are."""
    if module != "taskq" and not module.startswith("taskq."):
        return module
    if module.startswith("taskq.canvas."):
        # One module there, a package here.
        return "celery.canvas"
    return _WIRE_ADDRESSES.get(module, "celery" + module[5:])


class _WirePickler(pickle.Pickler):
    """Names our classes and functions as Celery's.

    Pickle insists that a global can be found under the name it writes. So that the name may be
    Celery's without Celery being here, it is written as a look-up by name, with a function of
    kombu's that every peer has.
    """

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, (type, types.FunctionType)):
            return NotImplemented
        module, name = obj.__module__, obj.__qualname__
        if type(module) is not str or not module.startswith("taskq.") or "." in name:
            return NotImplemented
        return kombu_imports.symbol_by_name, (f"{wire_module(module)}:{name}",)


class _WireUnpickler(pickle.Unpickler):
    """Reads names of Celery's as ours."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "kombu.utils.imports" and name == "symbol_by_name":
            return symbol_by_name
        return super().find_class(home_module(module), name)


def pickle_dumps(obj: Any, protocol: int = 2) -> bytes:
    """Pickle `obj` so that a Celery peer can read it."""
    buffer = io.BytesIO()
    _WirePickler(buffer, protocol).dump(obj)
    return buffer.getvalue()


def pickle_loads(data: bytes | str | memoryview) -> Any:
    """The object in a pickle of a taskq or a Celery peer.

    Like every pickle it can run any code: read only what you trust.
    """
    return _WireUnpickler(io.BytesIO(str_to_bytes(data))).load()


def subclass_exception(name: str, parent: type[BaseException], module: str) -> type[BaseException]:
    """A new exception class of that name."""
    return type(name, (parent,), {"__module__": module})


def create_exception_cls(
    name: str, module: str, parent: type[BaseException] | None = None
) -> type[BaseException]:
    """A stand-in for an exception class that cannot be found here."""
    return subclass_exception(name, parent or Exception, module)


def itermro(cls: type, stop: Iterable[type]) -> Iterator[type]:
    """The classes `cls` is made of, up to those in `stop`."""
    unwanted = set(stop)
    for base in getmro(cls):
        if base in unwanted:
            return
        yield base


def find_pickleable_exception(
    exc: BaseException, loads: Loader = pickle_loads, dumps: Dumper = pickle_dumps
) -> BaseException | None:
    """`exc` as the nearest of its classes that survives pickling; None if there is none.

    Built-in bases that say nothing (Exception) are not tried.
    """
    for cls in itermro(exc.__class__, UNWANTED_BASE_CLASSES):
        # A user's class may raise anything at all while it is made or pickled.
        try:
            superexc: BaseException = cls(*exc.args)
            if isinstance(loads(dumps(superexc)), BaseException):
                return superexc
        except Exception:
            continue
    return None


def get_pickleable_etype(
    cls: type[BaseException], loads: Loader = pickle_loads, dumps: Dumper = pickle_dumps
) -> type[BaseException]:
    """The nearest base of an exception class that can be pickled."""
    for base in getmro(cls):
        try:
            loads(dumps(base))
        except Exception:  # see find_pickleable_exception
            continue
        return base
    return Exception


def get_pickleable_exception(exc: BaseException) -> BaseException:
    """`exc` if it can be pickled; else as its nearest base that can; else wrapped."""
    try:
        # A class may have itself pickled as something else.
        if isinstance(pickle_loads(pickle_dumps(exc)), BaseException):
            return exc
    except Exception:  # see find_pickleable_exception
        pass
    nearest = find_pickleable_exception(exc)
    return nearest or UnpickleableExceptionWrapper.from_exception(exc)


def get_pickled_exception(exc: BaseException) -> BaseException:
    """The exception a client raises for one that was pickled: wrapped ones are unwrapped."""
    if isinstance(exc, UnpickleableExceptionWrapper):
        return exc.restore()
    return exc


class UnpickleableExceptionWrapper(Exception):
    """Carries an exception that cannot be pickled: its names, and its arguments or their repr.

    Arguments:
        exc_module: module of its class.
        exc_cls_name: name of its class.
        exc_args: its arguments, each of them picklable.
        text: what it says.
    """

    exc_module: str = ""
    exc_cls_name: str = ""
    exc_args: tuple[Any, ...] = ()

    def __init__(
        self, exc_module: str, exc_cls_name: str, exc_args: Iterable[Any], text: str | None = None
    ) -> None:
        safe_args = ensure_serializable(exc_args, lambda arg: pickle_loads(pickle_dumps(arg)))
        self.exc_module = exc_module
        self.exc_cls_name = exc_cls_name
        self.exc_args = safe_args
        self.text = text
        super().__init__(exc_module, exc_cls_name, safe_args, text)

    def restore(self) -> BaseException:
        """An exception of a class that has the same name."""
        return create_exception_cls(self.exc_cls_name, self.exc_module)(*self.exc_args)

    def __str__(self) -> str:
        return self.text or ""

    @classmethod
    def from_exception(cls, exc: BaseException) -> UnpickleableExceptionWrapper:
        """Wrap `exc`."""
        return cls(
            wire_module(exc.__class__.__module__),
            exc.__class__.__name__,
            getattr(exc, "args", []),
            safe_repr(exc),
        )


def ensure_serializable(items: Iterable[Any], encoder: Callable[[Any], Any]) -> tuple[Any, ...]:
    """`items`, each that `encoder` cannot encode replaced by its repr."""
    safe = []
    for item in items:
        # Serializers raise their own errors, and objects whatever they like.
        try:
            encoder(item)
            safe.append(item)
        except Exception:
            safe.append(safe_repr(item))
    return tuple(safe)


def raise_with_context(exc: BaseException) -> NoReturn:
    """Raise `exc`, caused by the exception that is being handled, if there is one."""
    current = sys.exc_info()[1]
    if current is None or current is exc:
        raise exc
    raise exc from current


def strtobool(term: Any, table: Mapping[str, bool] | None = None) -> Any:
    """True or False for a text that means it (`yes`, `off`, ...); other types as they are.

    Raises:
        TypeError: the text means neither.
    """
    table = STRTOBOOL_DEFAULT_TABLE if table is None else table
    if not isinstance(term, str):
        return term
    try:
        return table[term.lower()]
    except KeyError:
        raise TypeError(
            f"Cannot coerce {term!r} to type bool: expected one of {', '.join(sorted(table))}"
        ) from None


def b64encode(s: bytes | str) -> str:
    """Base64 text of bytes or text."""
    return bytes_to_str(base64encode(str_to_bytes(s)))


def b64decode(s: bytes | str) -> bytes:
    """The bytes in a base64 text."""
    return base64decode(str_to_bytes(s))


def jsonify(
    obj: Any,
    builtin_types: tuple[type, ...] = (numbers.Real, str),
    key: Any = None,
    keyfilter: Callable[[Any], Any] | None = None,
    unknown_type_filter: Callable[[Any], Any] | None = None,
) -> Any:
    """`obj` in types any JSON encoder takes.

    Arguments:
        key: what `obj` is called, for errors.
        keyfilter: keys of mappings for which it is false are left out.
        unknown_type_filter: converts what has no form in JSON.

    Raises:
        ValueError: a value has no form in JSON and there is no filter.
    """
    convert = partial(
        jsonify,
        builtin_types=builtin_types,
        keyfilter=keyfilter,
        unknown_type_filter=unknown_type_filter,
    )
    if hasattr(obj, "__json__"):
        return obj.__json__()
    if obj is None or isinstance(obj, builtin_types):
        return obj
    if isinstance(obj, (tuple, list)):
        return [convert(value) for value in obj]
    if isinstance(obj, dict):
        return {
            name: convert(value, key=name)
            for name, value in obj.items()
            if keyfilter is None or keyfilter(name)
        }
    if isinstance(obj, (datetime.date, datetime.time)):
        return _jsonify_moment(obj)
    if isinstance(obj, datetime.timedelta):
        return str(obj)
    if unknown_type_filter is None:
        raise ValueError(f"Unsupported type: {type(obj)!r} {obj!r} (parent: {key})")
    return unknown_type_filter(obj)


def _jsonify_moment(value: datetime.date | datetime.time) -> str:
    if isinstance(value, (datetime.datetime, datetime.time)) and value.microsecond:
        # JavaScript knows milliseconds.
        text = value.isoformat(timespec="milliseconds")
    else:
        text = value.isoformat()
    return text[:-6] + "Z" if text.endswith("+00:00") else text


JSON = "application/json"

_decoder = json.JSONDecoder()


def read_json(text: str) -> Any:
    """Decode JSON without types of ours; ValueError when it is none."""
    # The decoder's own way to its end begins and ends with a search for blanks.
    value, end = _decoder.raw_decode(text)
    return value if end == len(text) else _decoder.decode(text)


def read_payload(message: Any) -> Any:
    """The decoded body of a kombu message, as its `payload` gives it and keeps it.

    Plain JSON, which nearly all bodies are, is read a shorter way; what is wrong with any other
    body is for `payload` to say.
    """
    body = message.body
    if (
        message._decoded_cache is None
        and message.content_type == JSON
        and (message.accept is None or JSON in message.accept)
        and registry._decoders.get(JSON) is load_json
        and type(body) is bytes
        and b"__type__" not in body
    ):
        try:
            message._decoded_cache = read_json(body.decode())
        except (ValueError, RecursionError):
            pass
    return message.payload
