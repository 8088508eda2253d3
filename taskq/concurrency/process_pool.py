"""This file gives jobs to child processes and takes in their answers.

How it works. Each child has a socket pair of its own and is given the next job when it has none,
so the pool always knows who has what and nothing is shared between children. While a kind of job
has been quick, a child may hold one more packet behind the job that runs; the pool takes it back
as soon as another child is idle or the job in front turns out slow.

    a child ends     what it had started ends in WorkerLostError; what it had not started is sent
                     again
    a child retires  it reads no more: by itself after its count of tasks or memory, or when told
    a limit is up    soft: a signal that names its job; hard: packets behind it are taken back, and
                     the child is killed if it has not answered meanwhile

Everything the pool waits for is behind one descriptor. `poll` looks at it once; the worker's hub
watches it (`watch_with`), or a thread of the pool's own does (`drive_by_thread`). Callbacks are
called after the pool's state is settled, and without its lock.
"""

from __future__ import annotations

import gc
import itertools
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

from billiard import get_context
from billiard.common import TERM_SIGNAL
from billiard.einfo import ExceptionInfo

from taskq.concurrency.child_keeper import ChildKeeper
from taskq.concurrency.job import QUICK_S, Job, Paces
from taskq.concurrency.process_answers import CLOSE, RUN, TERMINATE, Answers
from taskq.concurrency.process_child import SOFT_LIMIT_SIGNAL
from taskq.concurrency.time_limits import NEVER
from taskq.utils.log import get_logger

__all__ = ("ProcessPool",)

#: Seconds children have to end by themselves before they are killed.
END_S = 5.0

#: Seconds after which somebody who waits for the end looks whether to give up.
LOOK_S = 0.25

logger = get_logger(__name__)


class ProcessPool(Answers):
    """Children that run jobs; see `poll` for who makes it move."""

    def __init__(
        self,
        processes: int,
        initializer: Callable[..., Any] | None = None,
        initargs: Any = (),
        on_exit: Callable[[int, int], Any] | None = None,
        max_tasks: int | None = None,
        max_memory: int | None = None,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        alive_within: float = 4.0,
        propagate: tuple[type[BaseException], ...] = (),
        is_stream: bool = False,
        start_method: str = "fork",
    ) -> None:
        """Prepare a pool; no child is started before `start`."""
        super().__init__()
        self.soft_timeout = soft_timeout
        self.timeout = timeout
        self._propagate = propagate
        self._numbers = itertools.count(1)
        self._paces = Paces()
        self._hub: Any = None
        self._hub_looks_at = NEVER
        self._thread: threading.Thread | None = None
        self._ending: Callable[[], Any] | None = None
        self._waker, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._keeper = ChildKeeper(
            processes,
            self._selector,
            get_context(start_method),
            alive_within,
            {
                "initializer": initializer,
                "initargs": initargs,
                "on_exit": on_exit,
                "max_tasks": max_tasks,
                "max_memory": max_memory,
            },
            self._leave,
            is_stream,
        )

    # --- what a worker asks -----------------------------------------------------------------------

    def start(self) -> None:
        """Start the children."""
        # What exists now lives as long as we do: collections would only unshare its pages.
        gc.collect()
        gc.freeze()
        self._keeper.fill(time.monotonic())

    def apply_async(
        self,
        target: Callable[..., Any],
        args: Any = (),
        kwargs: Any = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[Any], Any] | None = None,
        accept_callback: Callable[[int, float], Any] | None = None,
        timeout_callback: Callable[..., Any] | None = None,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        correlation_id: str | None = None,
        discard_if: Callable[[], Any] | None = None,
        kind: Hashable = None,
    ) -> Job | None:
        """Run target(*args, **kwargs) in a child; None when the pool takes no more.

        `discard_if()` is asked before a job that had to wait is given to a child; `kind` says
        which jobs take about the same time.
        """
        if self._state != RUN:
            return None
        job = Job(
            next(self._numbers),
            self._paces[kind or target],
            callback,
            error_callback,
            accept_callback,
            timeout_callback,
            soft_timeout or self.soft_timeout,
            timeout or self.timeout,
            correlation_id,
            discard_if,
            self._propagate,
        )
        try:
            job.encode(target, args, kwargs or {})
        except Exception:  # a value's own __reduce__ may raise anything
            job.finish(False, ExceptionInfo())
            return job
        with self._lock:
            self._place(job)
            if (self._is_unsure and self._look_at == NEVER) or self._retry_at != NEVER:
                self._plan()
        return job

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """End what runs in this child, by a signal; what waits behind it runs elsewhere."""
        with self._lock:
            slot = self._keeper.find(pid)
            if slot is None:
                return
            if signal == SOFT_LIMIT_SIGNAL and slot.jobs:
                # It ends the job by an exception: the child lives, and answers.
                slot.send_soft_limit(slot.jobs[0])
            else:
                self._end_front(slot, TERM_SIGNAL if signal is None else signal)

    def flush(self) -> None:
        """Forget the jobs that have not started; their callers know."""
        with self._lock:
            emptied = [slot for slot in self._keeper.slots if self._reclaim(slot)]
            self._waiting.clear()
            for slot in emptied:
                self._make_idle(slot)

    def grow(self, n: int = 1) -> None:
        """Add children."""
        with self._lock:
            self._keeper.count += n
            self._keeper.fill(time.monotonic())
        self._wake()

    def shrink(self, n: int = 1) -> None:
        """Retire idle children; ValueError when there are not so many."""
        with self._lock:
            if len(self._idle) < n:
                raise ValueError("Can't shrink pool. All processes busy!")
            self._keeper.count -= n
            for _ in range(n):
                self._retire(self._idle[-1])
        self._wake()

    def restart(self) -> None:
        """Replace every child once it has nothing to do; others take over at once."""
        with self._lock:
            for slot in list(self._keeper.slots):
                self._retire(slot)
            self._keeper.fill(time.monotonic())
        self._wake()

    def did_start_ok(self) -> bool:
        """Wait until the children are up; False when one cannot be started."""
        keeper = self._keeper
        while not keeper.is_settled and not keeper.failed_starts and not keeper.is_slow:
            if self._thread is not None:
                break
            self.poll(LOOK_S)
        return not keeper.failed_starts

    def pids(self) -> list[int]:
        """Give the children's process ids."""
        return self._keeper.pids()

    @property
    def processes(self) -> int:
        """How many children there should be."""
        return self._keeper.count

    # --- who makes it move ------------------------------------------------------------------------

    def watch_with(self, hub: Any) -> None:
        """Have kombu's hub make the pool move; to be asked again after a reset of the hub."""
        self._hub = hub
        self._hub_looks_at = NEVER
        hub.add_reader(self._selector.fileno(), self.poll, 0)
        with self._lock:
            self._plan()

    def drive_by_thread(self) -> None:
        """Have a thread make the pool move; callbacks are called in it."""
        self._thread = threading.Thread(target=self._drive, name="taskq-pool", daemon=True)
        self._thread.start()

    def _drive(self) -> None:
        # It lives as long as the children it forks: a parent's death signal means its thread's.
        try:
            while self._ending is None:
                self.poll(None)
            self._ending()
        except Exception as exc:  # the loop's edge: without it nothing moves any more
            logger.critical("The process pool has failed: %r", exc, exc_info=True)
            signal.raise_signal(signal.SIGTERM)

    def _wake(self) -> None:
        if self._thread is not None:
            self._waker.send(b"\0")

    def poll(self, timeout: float | None = None) -> None:
        """Take in what has come, waiting for it for up to `timeout` seconds (None: for ever).

        Raises WorkerLostError when no child can be started.
        """
        if timeout is None or timeout > 0:
            with self._lock:
                moment = self._next_moment()
            if moment != NEVER:
                left = max(0.0, moment - time.monotonic())
                timeout = left if timeout is None else min(timeout, left)
        events = self._selector.select(timeout)
        with self._lock:
            for key, mask in events:
                self._handle(key, mask)
            self._look_around()
            self._plan()
        while self._reports:
            call, arguments = self._reports.popleft()
            call(*arguments)

    def _handle(self, key: selectors.SelectorKey, mask: int) -> None:
        slot = key.data
        if slot is None:
            self._woken.recv(4096)
        elif key.fd == slot.sentinel:
            self._on_gone(slot)
        elif slot.socket.fileno() != -1:
            if mask & selectors.EVENT_WRITE:
                slot.socket.send_rest()
                self._watch_for_room(slot)
            if mask & selectors.EVENT_READ:
                self._read(slot)

    def _next_moment(self) -> float:
        """Give the moment at which something is to be looked at; NEVER when nothing is."""
        return min(
            self._look_at, self._retry_at, self._limits.next_moment(), self._keeper.next_moment()
        )

    def _plan(self) -> None:
        """See to it that the next moment is not slept through."""
        if self._is_unsure and self._look_at == NEVER:
            self._look_at = time.monotonic() + QUICK_S
            self._wake()
        if self._hub is None:
            return
        moment = self._next_moment()
        if self._hub_looks_at <= moment:
            return
        self._hub_looks_at = moment
        self._hub.call_later(max(0.0, moment - time.monotonic()), self._look_for_hub)

    def _look_for_hub(self) -> None:
        self._hub_looks_at = NEVER
        with self._lock:
            if self._next_moment() > time.monotonic():
                # Other turns have looked meanwhile.
                self._plan()
                return
        self.poll(0)

    def _look_around(self) -> None:
        """Do what is due by the clock."""
        now = time.monotonic()
        if self._limits:
            for is_soft, job in self._limits.pop_used_up(now):
                self._limit(job, is_soft)
        if now >= self._look_at:
            self._look_at = NEVER
            self._look_at_jobs(now)
        if now >= self._retry_at:
            self._retry_at = NEVER
            for slot in [slot for slot in self._keeper.slots if not slot.is_idle]:
                self._feed(slot)
            self._feed_idle()
        if not self._keeper.is_settled and self._state != TERMINATE:
            self._keeper.check_starts(now, self._read)
            if self._state == RUN or self._waiting:
                self._keeper.fill(now)

    # --- the end ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Take no more jobs."""
        if self._state == RUN:
            self._state = CLOSE

    def join(
        self,
        gives_up: Callable[[], bool] = lambda: False,
        on_turn: Callable[[], Any] = lambda: None,
    ) -> None:
        """Finish all jobs, then retire the children; stop at once when `gives_up()` says so."""
        self._end(lambda: self._finish(gives_up, on_turn))

    def terminate(self) -> None:
        """End all children, whatever they run; nobody is told what became of it."""
        self._state = TERMINATE
        self._end(self._stop_children)

    def _end(self, ending: Callable[[], Any]) -> None:
        thread, self._ending = self._thread, ending
        if thread is None or thread is threading.current_thread():
            ending()
        else:
            self._wake()
            thread.join()

    def _finish(self, gives_up: Callable[[], bool], on_turn: Callable[[], Any]) -> None:
        while self._waiting or any(slot.jobs for slot in self._keeper.slots):
            if gives_up() or self._state == TERMINATE:
                break
            self.poll(LOOK_S)
            on_turn()
        else:
            with self._lock:
                self._keeper.count = 0
                for slot in list(self._keeper.slots):
                    self._retire(slot)
            self._wait_for_ends(on_turn)
        self._state = TERMINATE
        self._stop_children()

    def _stop_children(self) -> None:
        with self._lock:
            self._keeper.count = 0
            self._waiting.clear()
            for slot in self._keeper.slots:
                slot.signal(signal.SIGTERM)
        self._wait_for_ends()
        for slot in self._keeper.slots:
            slot.kill()
        self._wait_for_ends()
        self._give_up_descriptors()
        gc.unfreeze()

    def _wait_for_ends(self, on_turn: Callable[[], Any] = lambda: None) -> None:
        deadline = time.monotonic() + END_S
        while self._keeper.slots and (left := deadline - time.monotonic()) > 0:
            self.poll(min(left, LOOK_S))
            on_turn()

    def _give_up_descriptors(self) -> None:
        if self._hub is not None:
            self._hub.remove(self._selector.fileno())
            self._hub = None
        self._selector.close()
        self._waker.close()
        self._woken.close()

    def _leave(self) -> None:
        """In a new child: this pool is the parent's."""
        self._waker.close()
        self._woken.close()
        self._waiting.clear()
        self._idle.clear()
        self._doubled.clear()
