"""This file takes in what the children of the process pool say, and how they end.

A child says `started` and `done` of each job. What it had started when it ended is lost with it;
what it had not started is sent again. A time limit is a word of the pool to a child: soft, a
signal that names its job; hard, the end of the child if it has not answered meanwhile.
"""

from __future__ import annotations

import pickle
import time
from typing import Any

from billiard.einfo import ExceptionInfo

from taskq.concurrency.job import Job
from taskq.concurrency.packets import ALIVE, DONE, FAILED, LEAVING, STARTED, UP
from taskq.concurrency.process_dispatch import Dispatch
from taskq.concurrency.process_slot import Slot
from taskq.concurrency.time_limits import TimeLimits

__all__ = ("CLOSE", "RUN", "TERMINATE", "Answers")

#: What the pool does: take jobs, finish those it has, end.
RUN, CLOSE, TERMINATE = 1, 2, 3


class Answers(Dispatch):
    """The part of the process pool that hears from children."""

    def __init__(self) -> None:
        super().__init__()
        self._state = RUN
        self._limits = TimeLimits()

    def _read(self, slot: Slot, to_the_end: bool = False) -> None:
        """Take in what a child has sent; `to_the_end` also what it has sent this very moment."""
        receive = slot.socket.receive
        while True:
            try:
                packet = receive()
            except (EOFError, OSError):
                # Its sentinel tells the rest.
                return
            if packet is None:
                return
            kind, number, seconds, payload = packet
            if kind == DONE:
                self._on_done(slot, seconds, payload)
                # Asking for more than its last answer would cost a call for nothing.
                if not slot.jobs or (number == slot.page.answered and not to_the_end):
                    return
            elif kind == STARTED:
                self._on_started(slot, seconds)
            elif kind == UP:
                self._keeper.note_up(slot)
                self._feed(slot)
            elif kind == ALIVE:
                self._keeper.note_alive(slot, time.monotonic())
            elif kind == FAILED:
                self._keeper.note_reason(slot, bytes(payload).decode(errors="replace"))
            elif kind == LEAVING:
                slot.is_told = True
                self._retire_itself(slot)

    def _on_started(self, slot: Slot, moment: float) -> None:
        job = slot.jobs[0]
        job.started_at = moment
        job.pid = slot.pid
        job.packet = None
        if job.soft_timeout or job.timeout:
            self._limits.add(job, moment)
        self._reports.append((job.accept, (slot.pid, moment)))
        if job.terminated is not None and not job.signalled:
            self._reports.append((self._terminate, (job,)))
        if self._waiting and len(slot.jobs) == 1:
            self._feed(slot)

    def _terminate(self, job: Job) -> None:
        """End a job that was to be ended before it had started."""
        if job.slot is not None and not job.signalled and job.terminated is not None:
            self._end_front(job.slot, job.terminated)

    def _end_front(self, slot: Slot, signum: int) -> None:
        """End what runs in a child, by a signal; what waits behind it runs elsewhere."""
        self._reclaim(slot)
        if slot.jobs:
            slot.jobs[0].terminated = signum
            slot.jobs[0].signalled = True
        slot.signal(signum)
        # Not before the signal: what the child is given after it, it does not start.
        self._make_idle(slot)
        self._feed_idle()

    def _on_done(self, slot: Slot, seconds: float, payload: Any) -> None:
        jobs = slot.jobs
        job = jobs.popleft()
        job.slot = None
        if len(jobs) < 2:
            self._doubled.pop(slot, None)
        job.pace.note(seconds)
        if job.started_at is None:
            job.pid, job.started_at = slot.pid, time.monotonic() - seconds
            self._reports.append((job.complete, (job.pid, job.started_at, *_decode(payload))))
        else:
            self._reports.append((job.finish, _decode(payload)))
        self._feed(slot)

    def _look_at_jobs(self, now: float) -> None:
        """Find quick jobs that have started and are not as quick as those before."""
        for slot in self._keeper.slots:
            moment = slot.find_start()
            if moment is not None:
                self._on_started(slot, moment)
        self._undo_doubling(now)
        fronts = (slot.jobs[0] for slot in self._keeper.slots if slot.jobs)
        self._is_unsure = bool(self._doubled) or any(
            job.is_brief and job.started_at is None for job in fronts
        )

    def _retire_itself(self, slot: Slot) -> None:
        self._keeper.replace(slot)
        if slot.is_idle:
            slot.is_idle = False
            self._idle.remove(slot)
        self._take_back(slot)
        if self._state == RUN or self._waiting:
            self._keeper.fill(time.monotonic())

    def _on_gone(self, slot: Slot) -> None:
        """A child has ended: account for its jobs, and have another one instead."""
        if slot.reap() is None:
            return
        slot.is_retiring = slot.is_retiring or self._state == TERMINATE
        # What it has said last is still in its socket.
        self._read(slot, to_the_end=True)
        moment = slot.find_start()
        if moment is not None:
            self._on_started(slot, moment)
        how, jobs = slot.describe_end(), slot.jobs
        if slot.is_idle:
            self._idle.remove(slot)
        self._doubled.pop(slot, None)
        front = jobs.popleft() if jobs and jobs[0].started_at is not None else None
        if front is not None:
            front.slot = None
            # Whoever ends the whole pool wants running jobs to be run again, not to have failed.
            if self._state != TERMINATE:
                self._reports.append((front.lose, (how,)))
        for job in reversed(jobs):
            job.slot = None
            self._waiting.appendleft(job)
        self._keeper.remove(slot, is_expected=front is not None and front.signalled)
        if self._state == RUN or self._waiting:
            self._keeper.fill(time.monotonic())
        self._feed_idle()

    def _limit(self, job: Job, is_soft: bool) -> None:
        """A limit of a job is used up; the job may have ended meanwhile."""
        slot = job.slot
        if not is_soft:
            # With nothing behind it, the child either runs this job or has answered.
            self._take_back(slot)
            self._read(slot, to_the_end=True)
        if job.slot is None:
            return
        if is_soft:
            slot.send_soft_limit(job)
            self._reports.append((job.report_soft_timeout, ()))
        else:
            job.is_overdue = job.signalled = True
            slot.kill()


def _decode(payload: Any) -> tuple[bool, Any]:
    """Read an answer: (whether it went well, value or ExceptionInfo)."""
    try:
        is_successful, value = pickle.loads(payload)
    except Exception:  # a class of the task's may not be importable here
        return False, ExceptionInfo()
    return is_successful, value
