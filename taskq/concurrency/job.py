"""This file is one job of a process pool: what is to be run, and who hears how it went.

The pool (process_pool.py) hands it to a child as a packet; the request of the journey's step 7
keeps it to end it before its time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError

from taskq.concurrency.calls import encode_call
from taskq.concurrency.packets import JOB, QUICK_JOB, pack
from taskq.utils.log import get_logger

__all__ = ("Job", "Pace", "build_failure")

#: A run that takes less is quick, in seconds.
QUICK_S = 0.005

#: The weight of one run in the share of a kind's runs that were not quick, and the share up to
#: which the kind is quick: about a hundred quick runs bring it there from the start.
WEIGHT = 0.03
RARELY = 0.05

logger = get_logger(__name__)

_making_events = threading.Lock()


class Pace:
    """How long the runs of one kind of job take."""

    __slots__ = ("is_quick", "slowness")

    def __init__(self) -> None:
        #: The share of runs that were not quick, the last ones weighing most.
        self.slowness = 1.0
        #: True while nearly all of about the last hundred runs were quick. Not all: on a busy
        #: machine a run may take long only because its process had to wait.
        self.is_quick = False

    def note(self, seconds: float) -> None:
        """A run has taken so many seconds."""
        if seconds < QUICK_S:
            self.slowness *= 1 - WEIGHT
        else:
            self.slowness += (1 - self.slowness) * WEIGHT
        self.is_quick = self.slowness <= RARELY


class Paces(dict[Hashable, Pace]):
    """Kind of job -> its pace."""

    def __missing__(self, kind: Hashable) -> Pace:
        pace = self[kind] = Pace()
        return pace


class Job:
    """One call given to the pool; whoever gave it may wait for it or end it."""

    __slots__ = (
        "__weakref__", "_accept_callback", "_callback", "_error_callback", "_event",
        "_propagate", "_timeout_callback", "_value", "correlation_id", "discard_if", "is_brief",
        "is_overdue", "is_ready", "is_successful", "number", "pace", "packet", "pid", "signalled",
        "slot", "soft_timeout", "started_at", "terminated", "timeout",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        pace: Pace,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[Any], Any] | None = None,
        accept_callback: Callable[[int, float], Any] | None = None,
        timeout_callback: Callable[..., Any] | None = None,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        correlation_id: str | None = None,
        discard_if: Callable[[], Any] | None = None,
        propagate: tuple[type[BaseException], ...] = (),
    ) -> None:
        self.number = number
        self.pace = pace
        self.correlation_id = correlation_id
        self.soft_timeout = soft_timeout
        self.timeout = timeout
        self.discard_if = discard_if
        self._callback = callback
        self._error_callback = error_callback
        self._accept_callback = accept_callback
        self._timeout_callback = timeout_callback
        self._propagate = propagate
        #: What goes to the child; given up once the job has started.
        self.packet: bytes | None = None
        #: True: the child notes its start in the shared page; we learn of it by its end, or when
        #: we look there. Not with a limit: that counts from a start which is told at once.
        self.is_brief = pace.is_quick and not (soft_timeout or timeout)
        #: Where it is, while a child has it.
        self.slot: Any = None
        self.pid: int | None = None
        self.started_at: float | None = None
        #: The signal it is to be ended with, and whether the child has been sent it.
        self.terminated: int | None = None
        self.signalled = False
        #: True: its child is being killed because its hard time limit is used up.
        self.is_overdue = False
        self.is_ready = self.is_successful = False
        self._value: Any = None
        self._event: threading.Event | None = None

    def encode(self, target: Callable[..., Any], args: Any, kwargs: Any) -> None:
        """Make the packet; raises what pickle raises."""
        call = encode_call(target, args, kwargs)
        self.packet = pack(QUICK_JOB if self.is_brief else JOB, self.number, 0.0, call)

    def is_unwanted(self) -> bool:
        """Ask whether it is still to be run."""
        try:
            return self.discard_if is not None and bool(self.discard_if())
        except Exception as exc:  # dispatch of callbacks: when in doubt the job is run
            logger.error("Pool callback raised exception: %r", exc, exc_info=True)
            return False

    # --- what the pool reports ----------------------------------------------------------------

    def accept(self, pid: int, moment: float) -> None:
        """A child has started it, at this moment of the monotonic clock."""
        if self._accept_callback is not None:
            self._call(self._accept_callback, pid, moment)

    def complete(self, pid: int, moment: float, is_successful: bool, value: Any) -> None:
        """A child has started it and it has ended: both are learnt at once."""
        if self._accept_callback is not None:
            self._call(self._accept_callback, pid, moment)
        self.finish(is_successful, value)

    def finish(self, is_successful: bool, value: Any) -> None:
        """It has ended: with a value, or with an ExceptionInfo."""
        self.is_successful, self._value = is_successful, value
        self.is_ready = True
        if self._event is not None:
            self._event.set()
        callback = self._callback if is_successful else self._error_callback
        if callback is not None:
            self._call(callback, value)

    def report_soft_timeout(self) -> None:
        """Its soft time limit is used up, and it has been told."""
        if self._timeout_callback is not None:
            self._call(partial(self._timeout_callback, soft=True, timeout=self.soft_timeout))

    def lose(self, how: str) -> None:
        """Its child is gone with it; `how` says how the child ended."""
        if self.is_overdue:
            self.finish(False, build_failure(TimeLimitExceeded(self.timeout)))
            if self._timeout_callback is not None:
                self._call(partial(self._timeout_callback, soft=False, timeout=self.timeout))
        elif self.terminated is not None:
            self.finish(False, build_failure(Terminated(-self.terminated)))
        else:
            text = f"Worker exited prematurely: {how} Job: {self.number}."
            self.finish(False, build_failure(WorkerLostError(text)))

    def _call(self, callback: Callable[..., Any], *args: Any) -> None:
        try:
            callback(*args)
        except Exception as exc:  # dispatch of callbacks: one job's must not stop the pool
            if isinstance(exc, (MemoryError, *self._propagate)):
                raise
            logger.error("Pool callback raised exception: %r", exc, exc_info=True)

    # --- what its owner asks --------------------------------------------------------------------

    def terminate(self, signum: int) -> None:
        """End it: where it runs its child is sent this signal when it starts."""
        self.terminated = signum

    def accepted(self) -> bool:
        """Tell whether a child has started it."""
        return self.started_at is not None

    def ready(self) -> bool:
        """Tell whether it has ended."""
        return self.is_ready

    def successful(self) -> bool:
        """Tell whether it has ended well; ValueError while it has not ended."""
        if not self.is_ready:
            raise ValueError(f"{self!r} has not ended yet; ask ready() first")
        return self.is_successful

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it has ended; something else must drive the pool meanwhile."""
        with _making_events:
            if self._event is None:
                self._event = threading.Event()
        if not self.is_ready:
            self._event.wait(timeout)

    def get(self, timeout: float | None = None) -> Any:
        """Give its value or raise its error; TimeoutError when it does not end in time."""
        self.wait(timeout)
        if not self.is_ready:
            raise TimeoutError(f"{self!r} did not end within {timeout} seconds")
        if self.is_successful:
            return self._value
        raise self._value.exception

    def __repr__(self) -> str:
        return f"<Job: {self.number} ack:{self.accepted()} ready:{self.is_ready}>"


def build_failure(exc: BaseException) -> ExceptionInfo:
    """Give an error as a child would have reported it."""
    try:
        raise exc
    except type(exc):
        return ExceptionInfo()
