"""This file runs tasks in threads of the worker's process: for tasks that wait for others.

With a hub, what the pool reports is called in the hub's thread, since a broker's connection is not
to be used by two threads; without one it is called in the thread that ran the task.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any
from weakref import WeakSet

from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError

from taskq.app.coroutines import LOOP_THREAD, close_home, set_home
from taskq.concurrency.base import BasePool
from taskq.concurrency.job import build_failure
from taskq.exceptions import WorkerShutdown, WorkerTerminate
from taskq.utils.log import get_logger
from taskq.worker import state

__all__ = ("TaskPool",)

#: Seconds after which somebody who waits for the end looks whether to give up.
LOOK_S = 0.25

logger = get_logger(__name__)


class ApplyResult:
    """A task in a thread; `get` gives its value or raises its error."""

    def __init__(self, future: Future[Any]) -> None:
        self.f = future
        self.get = self.f.result

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it has ended."""
        wait([self.f], timeout)


class TaskPool(BasePool):
    """Threads that each run one task at a time; a running one cannot be ended."""

    limit: int
    body_can_be_buffer = True
    signal_safe = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Prepare the threads; they start as they are needed."""
        super().__init__(*args, **kwargs)
        self.executor = ThreadPoolExecutor(max_workers=self.limit, thread_name_prefix="taskq")
        self._futures: WeakSet[Future[Any]] = WeakSet()
        self._hub: Any = None
        self._reports: deque[tuple[Any, ...]] = deque()

    def on_start(self) -> None:
        """Have the coroutines of all threads run on one loop."""
        set_home(LOOP_THREAD)

    def register_with_event_loop(self, loop: Any) -> None:
        """Have the loop's thread make the calls that report."""
        self._hub = loop

    def on_apply(
        self,
        target: Callable[..., Any],
        args: Any = None,
        kwargs: Any = None,
        callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        error_callback: Callable[..., Any] | None = None,
        discard_if: Callable[[], Any] | None = None,
        **_: Any,
    ) -> ApplyResult:
        """Run a task in a thread, or as soon as one is free."""
        future = self.executor.submit(
            self._run, target, args or (), kwargs or {}, callback, accept_callback,
            error_callback or callback, discard_if,
        )  # fmt: skip
        self._futures.add(future)
        return ApplyResult(future)

    def _run(
        self,
        target: Callable[..., Any],
        args: Any,
        kwargs: Any,
        callback: Callable[..., Any] | None,
        accept_callback: Callable[..., Any] | None,
        error_callback: Callable[..., Any] | None,
        discard_if: Callable[[], Any] | None,
    ) -> Any:
        if discard_if is not None and discard_if():
            return None
        self._report(accept_callback, os.getpid(), time.monotonic())
        try:
            value = target(*args, **kwargs)
        except (WorkerShutdown, WorkerTerminate) as exc:
            self._report(_stop_the_worker, exc)
            raise
        except Exception:  # a thread's edge: errors of the job are answers
            self._report(error_callback, ExceptionInfo())
            raise
        except BaseException as exc:
            # What no task should raise.
            self._report(error_callback, build_failure(WorkerLostError(repr(exc))))
            raise
        self._report(callback, value)
        return value

    def _report(self, call: Callable[..., Any] | None, *args: Any) -> None:
        if call is None:
            return
        hub = self._hub
        if hub is None:
            _call(call, *args)
            return
        # The hub keeps no order of its own.
        self._reports.append((call, *args))
        hub.call_soon(self._make_reports)

    def _make_reports(self) -> None:
        while self._reports:
            try:
                report = self._reports.popleft()
            except IndexError:
                return
            _call(*report)

    def on_stop(self) -> None:
        """Finish what runs, unless a cold shutdown is asked for; the rest is run by others."""
        self.executor.shutdown(wait=False, cancel_futures=True)
        while not state.is_cold() and wait(list(self._futures), LOOK_S).not_done:
            self._make_reports()
        self._make_reports()
        close_home()

    def on_terminate(self) -> None:
        """Start nothing more, cancel coroutines; threads cannot be ended."""
        self.executor.shutdown(wait=False, cancel_futures=True)
        self._make_reports()
        close_home()

    def flush(self) -> None:
        """Forget the tasks that have not started; their messages come again."""
        for future in list(self._futures):
            future.cancel()
        # Who asks wants to know what has started.
        self._make_reports()

    def _get_info(self) -> dict[str, Any]:
        return {**super()._get_info(), "threads": len(self.executor._threads)}


def _call(call: Callable[..., Any], *args: Any) -> None:
    try:
        call(*args)
    except Exception as exc:  # callbacks are hooks: one must not take the thread's answer along
        logger.error("Pool callback raised exception: %r", exc, exc_info=True)


def _stop_the_worker(exc: BaseException) -> None:
    raise exc
