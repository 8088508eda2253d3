"""Stand-ins for objects that are looked up at every use, or made at first use; Celery's `local`.

`current_app` is a Proxy; a task that was declared before its app is finalised is a PromiseProxy.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

__all__ = ("Proxy", "PromiseProxy", "maybe_evaluate", "try_import")


def try_import(module: str, default: Any = None) -> Any:
    """The module of that name, or `default` if it cannot be imported."""
    try:
        return import_module(module)
    except ImportError:
        return default


def _unary(operation: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def forward(self: Any) -> Any:
        return operation(self._get_current_object())

    return forward


def _binary(operation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def forward(self: Any, other: Any) -> Any:
        return operation(self._get_current_object(), other)

    return forward


class _OwnOrTarget(str):
    """An attribute that has one value on the class and the target's value on an instance.

    It is a str because Python reads `__module__` of a class without asking descriptors.
    """

    name: str

    def __new__(cls, name: str, own: str) -> _OwnOrTarget:
        self = super().__new__(cls, own)
        self.name = name
        return self

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return str(self)
        told = _get_slot(instance, "_Proxy__told").get(self.name)
        return getattr(instance._get_current_object(), self.name) if told is None else told


def _get_slot(proxy: Any, name: str) -> Any:
    return object.__getattribute__(proxy, name)


class Proxy:
    __doc__ = _OwnOrTarget(
        "__doc__",
        """Behaves as the object that `local(*args, **kwargs)` gives at the moment of use.

        Arguments:
            name, __doc__: what the proxy says without asking the object.
        """,
    )
    __module__ = _OwnOrTarget("__module__", __name__)
    __name__ = _OwnOrTarget("__name__", "Proxy")

    __slots__ = ("__args", "__kwargs", "__local", "__told", "__weakref__")

    __local: Callable[..., Any]
    __args: tuple[Any, ...]
    __kwargs: Mapping[str, Any]
    __told: dict[str, str]

    def __init__(
        self,
        local: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        __doc__: str | None = None,
    ) -> None:
        put = object.__setattr__
        told = {"__name__": name, "__doc__": __doc__}
        put(self, "_Proxy__local", local)
        put(self, "_Proxy__args", args or ())
        put(self, "_Proxy__kwargs", kwargs or {})
        put(self, "_Proxy__told", {key: text for key, text in told.items() if text is not None})

    def _get_current_object(self) -> Any:
        """The object itself, for speed or where its identity counts."""
        local = _get_slot(self, "_Proxy__local")
        return local(*_get_slot(self, "_Proxy__args"), **_get_slot(self, "_Proxy__kwargs"))

    @property
    def __class__(self) -> Any:
        return self._get_current_object().__class__

    @__class__.setter
    def __class__(self, klass: Any) -> None:
        raise AttributeError("the class of a proxied object cannot be changed through the proxy")

    @property
    def __dict__(self) -> Any:  # type: ignore[override]  # the target's
        try:
            return self._get_current_object().__dict__
        except RuntimeError:  # a LocalStack with nothing on it
            raise AttributeError("__dict__") from None

    def __repr__(self) -> str:
        try:
            return repr(self._get_current_object())
        except RuntimeError:
            return f"<{type(self).__name__} unbound>"

    def __bool__(self) -> bool:
        try:
            return bool(self._get_current_object())
        except RuntimeError:
            return False

    def __dir__(self) -> list[str]:
        try:
            return dir(self._get_current_object())
        except RuntimeError:
            return []

    def __getattr__(self, name: str) -> Any:
        if name == "__members__":
            return dir(self._get_current_object())
        return getattr(self._get_current_object(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._get_current_object(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._get_current_object(), name)

    def __call__(self, *a: Any, **kw: Any) -> Any:
        return self._get_current_object()(*a, **kw)

    def __getitem__(self, i: Any) -> Any:
        return self._get_current_object()[i]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._get_current_object()[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._get_current_object()[key]

    def __len__(self) -> int:
        return len(self._get_current_object())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._get_current_object())

    def __contains__(self, i: Any) -> bool:
        return i in self._get_current_object()

    def __enter__(self) -> Any:
        return self._get_current_object().__enter__()

    def __exit__(self, *a: Any, **kw: Any) -> Any:
        return self._get_current_object().__exit__(*a, **kw)

    def __reduce__(self) -> Any:
        return self._get_current_object().__reduce__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._get_current_object().__reduce_ex__(protocol)

    __str__ = _unary(str)
    __hash__ = _unary(hash)
    __eq__ = _binary(operator.eq)
    __ne__ = _binary(operator.ne)
    __lt__ = _binary(operator.lt)
    __le__ = _binary(operator.le)
    __gt__ = _binary(operator.gt)
    __ge__ = _binary(operator.ge)
    __add__ = _binary(operator.add)
    __sub__ = _binary(operator.sub)
    __mul__ = _binary(operator.mul)
    __matmul__ = _binary(operator.matmul)
    __truediv__ = _binary(operator.truediv)
    __floordiv__ = _binary(operator.floordiv)
    __mod__ = _binary(operator.mod)
    __divmod__ = _binary(divmod)
    __pow__ = _binary(operator.pow)
    __lshift__ = _binary(operator.lshift)
    __rshift__ = _binary(operator.rshift)
    __and__ = _binary(operator.and_)
    __xor__ = _binary(operator.xor)
    __or__ = _binary(operator.or_)
    __neg__ = _unary(operator.neg)
    __pos__ = _unary(operator.pos)
    __abs__ = _unary(abs)
    __invert__ = _unary(operator.invert)
    __int__ = _unary(int)
    __float__ = _unary(float)
    __complex__ = _unary(complex)
    __index__ = _unary(operator.index)


class PromiseProxy(Proxy):
    __doc__ = _OwnOrTarget(
        "__doc__",
        """A proxy that makes its object once, at first use, and keeps it.

        `__then__(callback)` runs the callback when the object has been made, or at once if it has.
        """,
    )

    __slots__ = ("__pending__", "__thing")

    __pending__: deque[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]

    def _get_current_object(self) -> Any:
        try:
            return _get_slot(self, "_PromiseProxy__thing")
        except AttributeError:
            return self.__evaluate__()

    def __then__(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call `fun(*args, **kwargs)` as soon as the object exists."""
        if self.__evaluated__():
            fun(*args, **kwargs)
            return
        try:
            pending = _get_slot(self, "__pending__")
        except AttributeError:
            pending = deque()
            object.__setattr__(self, "__pending__", pending)
        pending.append((fun, args, kwargs))

    def __evaluated__(self) -> bool:
        """Whether the object exists."""
        try:
            _get_slot(self, "_PromiseProxy__thing")
        except AttributeError:
            return False
        return True

    def __maybe_evaluate__(self) -> Any:
        return self._get_current_object()

    def __evaluate__(self) -> Any:
        """Make the object now, and call who waits for it."""
        names = ("_Proxy__local", "_Proxy__args", "_Proxy__kwargs")
        make, args, kwargs = (_get_slot(self, name) for name in names)
        if make is None or args is None or kwargs is None:
            # Another thread has made it since we looked.
            return _get_slot(self, "_PromiseProxy__thing")
        thing = make(*args, **kwargs)
        object.__setattr__(self, "_PromiseProxy__thing", thing)
        # Frees what the recipe holds: the decorated function's options, the app.
        for name in names:
            object.__setattr__(self, name, None)
        try:
            pending = _get_slot(self, "__pending__")
        except AttributeError:
            return thing
        while pending:
            fun, args, kwargs = pending.popleft()
            fun(*args, **kwargs)
        return thing


def maybe_evaluate(obj: Any) -> Any:
    """The object behind a PromiseProxy; anything else comes back as it is."""
    try:
        return obj.__maybe_evaluate__()
    except AttributeError:
        return obj
