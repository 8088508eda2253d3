"""A timer with a thread of its own, for pools and programs without an event loop."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from kombu.asynchronous.timer import Entry, to_timestamp
from kombu.asynchronous.timer import Timer as Schedule

from taskq.utils.log import get_logger

__all__ = ("Entry", "Schedule", "Timer", "to_timestamp")

logger = get_logger(__name__)


class Timer(threading.Thread):
    """Calls functions later, each in turn, in this thread.

    The thread starts with the first entry.

    Arguments:
        schedule: what holds the entries.
        on_error: called with the exception of an entry that raised.
        on_tick: called with the seconds until the next look at the schedule.
        on_start: called with the timer when its thread starts.
        max_interval: longest time in seconds between two looks.
    """

    Entry = Entry
    Schedule = Schedule

    running: bool = False
    on_tick: Callable[[float], Any] | None = None
    _timer_count = count(1)

    def __init__(
        self,
        schedule: Any = None,
        on_error: Callable[..., Any] | None = None,
        on_tick: Callable[[float], Any] | None = None,
        on_start: Callable[..., Any] | None = None,
        max_interval: float | None = None,
        **kwargs: Any,
    ) -> None:
        self.schedule = schedule or self.Schedule(on_error=on_error, max_interval=max_interval)
        self.on_start = on_start
        self.on_tick = on_tick or self.on_tick
        super().__init__()
        # Held while an entry is taken or entered, and where the thread waits for either.
        self.mutex = threading.Lock()
        self.not_empty = threading.Condition(self.mutex)
        self._stop_requested = threading.Event()
        self._has_stopped = threading.Event()
        self.daemon = True
        self.name = f"Timer-{next(self._timer_count)}"

    def run(self) -> None:
        try:
            self.running = True
            self.scheduler: Iterator[tuple[float | None, Entry | None]] = iter(self.schedule)
            while not self._stop_requested.is_set():
                delay = self.next()
                if delay:
                    if self.on_tick:
                        self.on_tick(delay)
                    self._wait(delay)
        except Exception as exc:  # the loop's edge: a worker without its timer only looks alive
            logger.error("Thread Timer crashed: %r", exc, exc_info=True)
            sys.stderr.flush()
            os._exit(1)
        finally:
            self.running = False
            self._has_stopped.set()

    def next(self) -> float | None:
        """Run one entry that is due; gives the seconds until the next look at the schedule."""
        with self.mutex:
            delay, entry = next(self.scheduler)
        if entry is not None:
            self.schedule.apply_entry(entry)
            return None
        return delay or self.schedule.max_interval

    __next__ = next

    def _wait(self, delay: float) -> None:
        with self.not_empty:
            if not self._stop_requested.is_set():
                self.not_empty.wait(min(delay, self.schedule.max_interval))

    def stop(self) -> None:
        """End the thread, after the entry it is in."""
        self._stop_requested.set()
        with self.not_empty:
            self.not_empty.notify_all()
        if self.is_alive() and threading.current_thread() is not self:
            self._has_stopped.wait()
            self.join(threading.TIMEOUT_MAX)
        self.running = False

    def ensure_started(self) -> None:
        """Start the thread unless it runs or has ended."""
        if not self.running and not self.is_alive() and not self._has_stopped.is_set():
            if self.on_start:
                self.on_start(self)
            self.start()

    def _do_enter(self, meth: str, *args: Any, **kwargs: Any) -> Any:
        self.ensure_started()
        with self.mutex:
            entry = getattr(self.schedule, meth)(*args, **kwargs)
            self.not_empty.notify()
            return entry

    def enter(self, entry: Any, eta: Any, priority: int | None = None) -> Any:
        """Run an entry at a moment: a datetime or seconds of the monotonic clock."""
        return self._do_enter("enter_at", entry, eta, priority=priority or 0)

    def call_at(self, *args: Any, **kwargs: Any) -> Any:
        """`call_at(eta, fun, args=(), kwargs=None, priority=0)`; gives the entry."""
        return self._do_enter("call_at", *args, **kwargs)

    def enter_after(self, *args: Any, **kwargs: Any) -> Any:
        """`enter_after(secs, entry, priority=0)`."""
        return self._do_enter("enter_after", *args, **kwargs)

    def call_after(self, *args: Any, **kwargs: Any) -> Any:
        """`call_after(secs, fun, args=(), kwargs=None, priority=0)`; gives the entry."""
        return self._do_enter("call_after", *args, **kwargs)

    def call_repeatedly(self, *args: Any, **kwargs: Any) -> Any:
        """`call_repeatedly(secs, fun, args=(), kwargs=None, priority=0)`; gives the entry."""
        return self._do_enter("call_repeatedly", *args, **kwargs)

    def exit_after(self, secs: float, priority: int = 10) -> None:
        """End the process in `secs` seconds."""
        self.call_after(secs, sys.exit, priority=priority)

    def cancel(self, tref: Any) -> None:
        """Do not run this entry."""
        tref.cancel()

    def clear(self) -> None:
        """Forget all entries."""
        self.schedule.clear()

    def empty(self) -> bool:
        """Whether nothing is to be called."""
        return not len(self)

    def __len__(self) -> int:
        return len(self.schedule)

    def __bool__(self) -> bool:
        return True

    @property
    def queue(self) -> list[Any]:
        """The entries in their order; a copy."""
        events: list[Any] = self.schedule.queue
        return events
