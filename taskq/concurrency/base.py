"""This file is the pool port: what a worker asks of any way of running tasks.

The request (step 7 of the journey) hands a target, its arguments and callbacks to
`BasePool.apply_async`; an adapter overrides the `on_*` methods. `tests/contract/pools.py` is the
suite every adapter passes.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any, ClassVar

from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError
from kombu.asynchronous.timer import Timer as LoopTimer

from taskq.exceptions import WorkerShutdown, WorkerTerminate
from taskq.utils.log import get_logger
from taskq.utils.serialization import wire_module
from taskq.utils.text import truncate

__all__ = ("BasePool", "apply_target")

#: Characters of a task's arguments shown in the debug line of `apply_async`.
SHOWN_ARGUMENTS = 1024

logger = get_logger("celery.pool")


def apply_target(
    target: Callable[..., Any],
    args: Any = (),
    kwargs: Any = None,
    callback: Callable[[Any], Any] | None = None,
    accept_callback: Callable[[int, float], Any] | None = None,
    pid: int | None = None,
    getpid: Callable[[], int] = os.getpid,
    propagate: Any = (),
    monotonic: Callable[[], float] = time.monotonic,
    error_callback: Callable[[Any], Any] | None = None,
    **_: Any,
) -> None:
    """Run a target here and now: accept it, call it, hand its value to the callback.

    What no task should raise (not an Exception) goes to the error callback as a WorkerLostError,
    except what stops the worker itself.
    """
    if accept_callback:
        accept_callback(pid or getpid(), monotonic())
    try:
        value = target(*args, **(kwargs or {}))
    except (Exception, WorkerShutdown, WorkerTerminate):
        raise
    except propagate:
        raise
    except BaseException as exc:
        try:
            raise WorkerLostError(repr(exc)) from exc
        except WorkerLostError:
            value = ExceptionInfo()
        callback = error_callback or callback
    if callback is not None:
        callback(value)


class BasePool:
    """A place to run tasks; every method may be called whatever the pool can do."""

    RUN: ClassVar[int] = 1
    CLOSE: ClassVar[int] = 2
    TERMINATE: ClassVar[int] = 3

    #: Timers of a worker without an event loop; the loop itself fires them, no thread does.
    Timer: ClassVar[type[Any]] = LoopTimer
    #: False: the pool must not be stopped from inside a signal handler.
    signal_safe: ClassVar[bool] = True
    #: True: runs on green threads.
    is_green: ClassVar[bool] = False
    #: True: the pool's own slots must be counted by the worker before it hands over more.
    uses_semaphore: ClassVar[bool] = False
    #: True: waiting for a result inside a task may wait for ever.
    task_join_will_block: ClassVar[bool] = True
    #: True: a target may get the message's own buffer; it is used before the broker reads on.
    body_can_be_buffer: ClassVar[bool] = False
    #: True: `apply_async` returns when the task is done, so nothing else happens meanwhile.
    runs_in_caller: ClassVar[bool] = False

    _state: int | None = None
    _pool: Any = None

    def __init__(
        self,
        limit: int | None = None,
        putlocks: bool = True,
        forking_enable: bool = True,
        callbacks_propagate: Any = (),
        app: Any = None,
        **options: Any,
    ) -> None:
        """Prepare a pool of `limit` slots; nothing runs before `start`."""
        self.limit = limit
        self.putlocks = putlocks
        self.options = options
        self.forking_enable = forking_enable
        self.callbacks_propagate = callbacks_propagate
        self.app = app
        self._does_debug = logger.isEnabledFor(logging.DEBUG)

    def start(self) -> None:
        """Make the pool ready to take tasks."""
        self._does_debug = logger.isEnabledFor(logging.DEBUG)
        self.on_start()
        self._state = self.RUN

    def apply_async(
        self,
        target: Callable[..., Any],
        args: Any = None,
        kwargs: Any = None,
        **options: Any,
    ) -> Any:
        """Run target(*args, **kwargs) in a slot.

        Options: accept_callback(pid, monotonic time), callback(value), error_callback(einfo),
        timeout_callback(soft, seconds), soft_timeout and timeout (seconds), correlation_id.
        """
        args = args or ()
        kwargs = kwargs or {}
        if self._does_debug:
            self._log_call(target, args, kwargs)
        return self.on_apply(
            target,
            args,
            kwargs,
            waitforslot=self.putlocks,
            callbacks_propagate=self.callbacks_propagate,
            **options,
        )

    def _log_call(self, target: Callable[..., Any], args: Any, kwargs: Any) -> None:
        logger.debug(
            "TaskPool: Apply %s (args:%s kwargs:%s)",
            target,
            truncate(repr(args), SHOWN_ARGUMENTS),
            truncate(repr(kwargs), SHOWN_ARGUMENTS),
        )

    def close(self) -> None:
        """Take on no more tasks."""
        self._state = self.CLOSE
        self.on_close()

    def stop(self) -> None:
        """Finish what runs and stop."""
        self.on_stop()
        self._state = self.TERMINATE

    def terminate(self) -> None:
        """Stop at once, whatever runs."""
        self._state = self.TERMINATE
        self.on_terminate()

    def restart(self) -> None:
        """Replace what runs the tasks."""
        raise NotImplementedError(f"{type(self)} does not implement restart")

    def terminate_job(self, pid: int, signal: Any = None) -> None:
        """End the task that runs in this child."""
        raise NotImplementedError(f"{type(self)} does not implement kill_job")

    def flush(self) -> None:
        """Hand over what was buffered for the slots."""

    def did_start_ok(self) -> bool:
        """Tell whether the slots came up."""
        return True

    def maintain_pool(self, *args: Any, **kwargs: Any) -> None:
        """Replace what has died."""

    def register_with_event_loop(self, loop: Any) -> None:
        """Let the worker's loop watch the pool."""

    def on_start(self) -> None:
        """Start the slots."""

    def on_apply(self, *args: Any, **kwargs: Any) -> Any:
        """Run one task."""
        raise NotImplementedError(f"{type(self)} must implement on_apply")

    def on_close(self) -> None:
        """Take on no more."""

    def on_stop(self) -> None:
        """Stop after what runs."""

    def on_terminate(self) -> None:
        """Stop at once."""

    def on_soft_timeout(self, job: Any) -> None:
        """A job has used up its soft time limit."""

    def on_hard_timeout(self, job: Any) -> None:
        """A job has used up its hard time limit."""

    @property
    def active(self) -> bool:
        """True while the pool takes tasks."""
        return self._state == self.RUN

    @property
    def num_processes(self) -> int | None:
        """How many slots there are."""
        return self.limit

    @property
    def info(self) -> dict[str, Any]:
        """Facts for `inspect stats`."""
        return self._get_info()

    def _get_info(self) -> dict[str, Any]:
        cls = type(self)
        return {
            "implementation": f"{wire_module(cls.__module__)}:{cls.__name__}",
            "max-concurrency": self.limit,
        }
