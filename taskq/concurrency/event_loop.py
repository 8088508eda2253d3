"""This file runs the coroutines of `async def` tasks: on loops that live as long as their pool.

How it works. `Driver` steps one coroutine inside of an asyncio task, hands its value or its error
back as a plain tuple, and throws the soft limit in where the coroutine awaits. `MainLoop` is the
loop of a child of the process pool: in the child's main thread, and turning between jobs too, since
the child's packets are waited for by it. `LoopThread` is one loop in a thread of its own, for all
tasks of the pools `threads` and `solo`. The door to all this is `app/coroutines.py`.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import Any, TypeVar

from billiard.exceptions import SoftTimeLimitExceeded

from taskq.concurrency.packets import AnySocket, Packet

__all__ = ("Driver", "LoopPerCall", "LoopThread", "MainLoop")

#: Seconds that what was cancelled has to end.
END_S = 2.0

#: (value, None) or (None, error)
Outcome = tuple[Any, BaseException | None]

T = TypeVar("T")


class _SoftLimit(SoftTimeLimitExceeded, asyncio.CancelledError):
    """The soft limit as a coroutine meets it: to asyncio's own code it is a cancellation too.

    Otherwise `wait_for` and task groups would leave running what they wait for, and libraries
    would keep connections that are in the middle of something.
    """

    def __reduce__(self) -> Any:
        return SoftTimeLimitExceeded, self.args


# Only known here: logs, tracebacks and results name the error it stands for.
_SoftLimit.__name__ = _SoftLimit.__qualname__ = SoftTimeLimitExceeded.__name__
_SoftLimit.__module__ = SoftTimeLimitExceeded.__module__


class Driver:
    """Steps a coroutine; its errors, SystemExit among them, are none of the loop's business."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._task: asyncio.Task[Any] | None = None
        self._limit: _SoftLimit | None = None

    async def settle(self) -> Outcome:
        """Run the coroutine to its end."""
        self._task = asyncio.current_task()
        return await self

    def __await__(self) -> Generator[Any, Any, Outcome]:
        step: Callable[[Any], Any] = self._coroutine.send
        argument: Any = None
        while True:
            try:
                awaited = step(argument)
            except StopIteration as end:
                return end.value, None
            except _SoftLimit as exc:
                limit = SoftTimeLimitExceeded(*exc.args)
                return None, limit.with_traceback(exc.__traceback__)
            except BaseException as exc:
                return None, exc
            try:
                argument = yield awaited
                step = self._coroutine.send
            except BaseException as exc:
                argument = exc
                step = self._coroutine.throw
            if self._limit is not None:
                # Also when the cancellation that woke us was swallowed on its way.
                argument = self._take_limit()
                step = self._coroutine.throw

    def _take_limit(self) -> _SoftLimit | None:
        if sys.version_info >= (3, 11) and self._task is not None:
            # The coroutine may go on: nobody has asked it to end.
            self._task.uncancel()
        limit, self._limit = self._limit, None
        return limit

    def raise_limit(self) -> None:
        """Raise SoftTimeLimitExceeded at the coroutine's await; to be called in the loop."""
        self._limit = _SoftLimit()
        self.cancel()

    def cancel(self) -> None:
        """Raise CancelledError at the coroutine's await; to be called in the loop."""
        if self._task is None:
            asyncio.get_running_loop().call_soon(self.cancel)
        else:
            self._task.cancel()


def _open(outcome: Outcome, was_told_to_end: bool = False) -> Any:
    value, error = outcome
    if error is None:
        return value
    if isinstance(error, asyncio.CancelledError) and not was_told_to_end:
        # Something it awaited was cancelled: that is a failure like any other.
        raise CancelledError(*error.args) from error
    raise error


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class LoopPerCall:
    """Where there is no pool: every call has a loop of its own, which ends with it."""

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine here, or in a thread if a loop is running here already."""
        if _is_in_loop():
            with ThreadPoolExecutor(1) as executor:
                return executor.submit(copy_context().run, self.run, coroutine).result()
        loop = MainLoop()
        try:
            return loop.run(coroutine)
        finally:
            loop.close()

    def close(self) -> None:
        """Nothing has stayed."""


class MainLoop:
    """An event loop that turns when its thread has nothing else to do, and lives in between.

    Jobs that are no coroutines run while it stands still: they may use `asyncio.run`.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.get_ident()
        self._driver: Driver | None = None
        self._is_turning = False
        self._exit: SystemExit | None = None

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end."""
        if self._is_turning or threading.get_ident() != self._thread:
            return LoopPerCall().run(coroutine)
        self._driver = driver = Driver(coroutine)
        try:
            outcome = self._turn(self._loop.run_until_complete, driver.settle())
        finally:
            self._driver = None
        value: T = _open(outcome)
        return value

    def receive(self, socket: AnySocket) -> Packet | None:
        """Give the socket's next packet; the loop turns until there is something to read."""
        loop = self._loop
        loop.add_reader(socket.fileno(), loop.stop)
        try:
            self._turn(loop.run_forever)
        finally:
            loop.remove_reader(socket.fileno())
        return socket.receive()

    def throw(self, error: SoftTimeLimitExceeded | SystemExit) -> None:
        """Raise what a signal stands for: here, or in the coroutine, but never inside the loop.

        SystemExit is raised when the loop stands still; the coroutine is cancelled for it.
        """
        if not self._is_turning:
            raise error
        driver = self._driver
        if isinstance(error, SystemExit):
            self._exit = error
            call = self._loop.stop if driver is None else driver.cancel
            self._loop.call_soon_threadsafe(call)
        elif driver is not None:
            self._loop.call_soon_threadsafe(driver.raise_limit)

    def _turn(self, until: Callable[..., T], *args: Any) -> T:
        self._is_turning = True
        try:
            return until(*args)
        finally:
            self._is_turning = False
            leaves, self._exit = self._exit, None
            if leaves is not None:
                raise leaves

    def close(self) -> None:
        """Cancel what the loop still runs, give it a moment to end, and close the loop."""
        try:
            self._turn(self._loop.run_until_complete, _end_everything())
        finally:
            self._loop.close()


class LoopThread:
    """One event loop in a thread of its own; any number of threads have it run coroutines."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._is_closing = False
        self._thread = threading.Thread(target=self._serve, name="taskq-loop", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and wait for its end."""
        if _is_in_loop():
            # It may be our own: the coroutine that calls us must not wait for its own loop.
            return LoopPerCall().run(coroutine)
        driver = Driver(coroutine)
        future = asyncio.run_coroutine_threadsafe(driver.settle(), self._loop)
        try:
            outcome = future.result()
        except BaseException:
            # We are the worker's main thread, and a signal means its end.
            self._loop.call_soon_threadsafe(driver.cancel)
            wait([future], END_S)
            raise
        value: T = _open(outcome, self._is_closing)
        return value

    def close(self) -> None:
        """Cancel what the loop still runs, give it a moment to end, and end the thread."""
        self._is_closing = True
        wait([asyncio.run_coroutine_threadsafe(_end_everything(), self._loop)], 2 * END_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(END_S)


async def _end_everything() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=END_S)
    await asyncio.get_running_loop().shutdown_asyncgens()
