"""This file is the door to asyncio: `async def` bodies are run through it, and calls are awaited.

The tracer hands the coroutine of a body to `run_coroutine`, which gives its value when it has
ended. Pools say where that happens (`set_home`); outside of workers it is a loop that lives as long
as the call. Nothing here loads asyncio, so that who has no coroutines does not pay for it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar

from taskq._state import pop_current_task, push_current_task
from taskq.utils.imports import symbol_by_name

if TYPE_CHECKING:
    from taskq.result import AsyncResult

__all__ = ("LOOP_THREAD", "Awaitable", "close_home", "run_coroutine", "set_home")

#: Homes: one event loop in a thread of its own; a loop for each call.
LOOP_THREAD = "taskq.concurrency.event_loop:LoopThread"
LOOP_PER_CALL = "taskq.concurrency.event_loop:LoopPerCall"

P = ParamSpec("P")
R = TypeVar("R")


class Home(Protocol):
    """Where coroutines run."""

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Run to the end; gives the value or raises the error."""

    def close(self) -> None:
        """End what still runs."""


_make_home: str | Callable[[], Home] = LOOP_PER_CALL
_home: Home | None = None
_lock = threading.Lock()


def set_home(make: str | Callable[[], Home] = LOOP_PER_CALL) -> None:
    """Have coroutines run in `make()`, which is called (or looked up) for the first of them."""
    global _make_home, _home, _lock
    _make_home, _home, _lock = make, None, threading.Lock()


def close_home() -> None:
    """The pool of this process ends: so does where its coroutines ran."""
    home = _home
    set_home()
    if home is not None:
        home.close()


def run_coroutine(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run the coroutine of a body and wait for its end; gives the value or raises the error."""
    global _home
    with _lock:
        home = _home
        if home is None:
            home = _home = symbol_by_name(_make_home)()
    return home.run(coroutine)


class Awaitable(Generic[P, R]):
    """The part of `Task` that asyncio code calls: nothing here makes its loop wait."""

    if TYPE_CHECKING:  # what the rest of Task provides
        delay: Callable[..., AsyncResult[R]]
        apply_async: Callable[..., AsyncResult[R]]
        push_request: Callable[..., None]
        pop_request: Callable[[], None]

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """As `delay`; the message is sent by a thread of the loop's executor."""
        return await _in_thread(self.delay, *args, **kwargs)

    async def aapply_async(self, *args: Any, **options: Any) -> AsyncResult[R]:
        """As `apply_async`; the message is sent by a thread of the loop's executor."""
        return await _in_thread(self.apply_async, *args, **options)

    def _run_on(self, coroutine: Any, args: Any, kwargs: Any) -> Any:
        """The rest of a call here and now: the request is current while the coroutine runs."""

        async def run() -> Any:
            push_current_task(self)
            self.push_request(args=args, kwargs=kwargs)
            try:
                return await coroutine
            finally:
                self.pop_request()
                pop_current_task()

        return run()


async def _in_thread(function: Callable[..., R], *args: Any, **kwargs: Any) -> R:
    # Who awaits this has loaded asyncio.
    result: R = await symbol_by_name("asyncio:to_thread")(function, *args, **kwargs)
    return result


if hasattr(os, "register_at_fork"):
    # The loop's thread is the parent's.
    os.register_at_fork(after_in_child=set_home)
