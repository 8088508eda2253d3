"""Stacks and values that belong to one thread or greenlet, and threads that do not die silently."""

from __future__ import annotations

import contextvars
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any, Generic, TypeVar

__all__ = (
    "Local",
    "LocalManager",
    "LocalStack",
    "bgThread",
    "default_socket_timeout",
    "get_ident",
)

T = TypeVar("T")


class LocalStack(Generic[T]):
    """A stack of which every thread, greenlet and asyncio task sees its own.

    It is an immutable tuple in a context variable: copying a context (as asyncio and the thread
    pool do) copies the stack, and a later push in one is not seen in the other. The way of a task
    sets `items` itself: two calls fewer for every push and pop.
    """

    __slots__ = ("items",)

    def __init__(self) -> None:
        self.items: contextvars.ContextVar[tuple[T, ...]] = contextvars.ContextVar(
            "LocalStack", default=()
        )

    def push(self, obj: T) -> tuple[T, ...]:
        """Put `obj` on top; gives the stack as it is now."""
        stack = (*self.items.get(), obj)
        self.items.set(stack)
        return stack

    def pop(self) -> T | None:
        """Take the top off and give it; None if there was nothing."""
        stack = self.items.get()
        if not stack:
            return None
        self.items.set(stack[:-1])
        return stack[-1]

    @property
    def top(self) -> T | None:
        """The object on top, or None."""
        stack = self.items.get()
        return stack[-1] if stack else None

    @property
    def stack(self) -> list[T]:
        """All objects, the top last; a copy."""
        return list(self.items.get())

    def __len__(self) -> int:
        return len(self.items.get())

    def __call__(self) -> T:
        top = self.top
        if top is None:
            raise RuntimeError("object unbound: nothing has been pushed in this context")
        return top


class Local:
    """A namespace of which every thread, greenlet and asyncio task sees its own."""

    __slots__ = ("_values",)

    _values: contextvars.ContextVar[dict[str, Any] | None]

    def __init__(self) -> None:
        object.__setattr__(self, "_values", contextvars.ContextVar("Local", default=None))

    def __getattr__(self, name: str) -> Any:
        try:
            return (self._values.get() or {})[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self._values.set({**(self._values.get() or {}), name: value})

    def __delattr__(self, name: str) -> None:
        values = dict(self._values.get() or {})
        try:
            del values[name]
        except KeyError:
            raise AttributeError(name) from None
        self._values.set(values)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter((self._values.get() or {}).items())

    def __release_local__(self) -> None:
        self._values.set(None)


class LocalManager:
    """Empties several locals at once, at the end of a unit of work."""

    def __init__(
        self, locals: Any = None, ident_func: Callable[[], Any] | None = None
    ) -> None:
        if locals is None:
            self.locals = []
        elif isinstance(locals, (Local, LocalStack)):
            self.locals = [locals]
        else:
            self.locals = list(locals)
        self.ident_func = ident_func or get_ident

    def get_ident(self) -> Any:
        """What tells this thread from the others."""
        return self.ident_func()

    def cleanup(self) -> None:
        """Forget what the current thread holds in each local."""
        for local in self.locals:
            if isinstance(local, LocalStack):
                while local.pop() is not None:
                    pass
            else:
                local.__release_local__()


class bgThread(threading.Thread):
    """A daemon thread that repeats `body` until it is stopped; a crash in it ends the process.

    A worker that goes on without its timer looks alive and is not: better that a supervisor
    restarts it.
    """

    def __init__(self, name: str | None = None, **kwargs: Any) -> None:
        super().__init__()
        self._shutdown_requested = threading.Event()
        self._has_stopped = threading.Event()
        self.daemon = True
        self.name = name or self.__class__.__name__

    def body(self) -> None:
        """One turn; blocks for a short time at most."""
        raise NotImplementedError(f"{type(self).__name__} must define body()")

    def on_crash(self, msg: str, *fmt: Any, **kwargs: Any) -> None:
        """Say on stderr what went wrong; logging may be what is broken."""
        print(msg.format(*fmt), file=sys.stderr)  # noqa: T201  (last words)
        traceback.print_exc(None, sys.stderr)

    def run(self) -> None:
        try:
            while not self._shutdown_requested.is_set():
                self._run_body()
        finally:
            self._has_stopped.set()

    def _run_body(self) -> None:
        try:
            self.body()
        except Exception as exc:  # the loop's edge: nobody is above to handle it
            try:
                self.on_crash("{0!r} crashed: {1!r}", self.name, exc)
                self._has_stopped.set()
            finally:
                sys.stderr.flush()
                os._exit(1)

    def stop(self) -> None:
        """Ask the thread to end, and wait until it has."""
        self._shutdown_requested.set()
        self._has_stopped.wait()
        if self.is_alive():
            self.join(threading.TIMEOUT_MAX)


@contextmanager
def default_socket_timeout(timeout: float | None) -> Iterator[None]:
    """Sockets made in the block time out after `timeout` seconds, unless they say otherwise."""
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)
