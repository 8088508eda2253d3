"""This file decides which child of the process pool gets which job, and takes jobs back.

How it works. A job goes to an idle child or waits its turn. While its kind has been quick it may
be sent behind the job that runs: the child then loses no time between the two. It is taken back as
soon as another child has nothing to do, or when the job in front turns out slow.
"""

from __future__ import annotations

import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from taskq.concurrency.child_keeper import ChildKeeper
from taskq.concurrency.job import QUICK_S, Job
from taskq.concurrency.packets import RETIRE, pack
from taskq.concurrency.process_slot import MOST_IN_HAND, Slot
from taskq.concurrency.time_limits import NEVER

__all__ = ("Dispatch",)

#: Seconds after which a socket that took no packet is tried again.
RETRY_S = 0.01


class Dispatch:
    """The part of the process pool that gives jobs to children."""

    _keeper: ChildKeeper

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._selector = selectors.DefaultSelector()
        #: Jobs no child has been given, and children that have no job.
        self._waiting: deque[Job] = deque()
        self._idle: deque[Slot] = deque()
        #: Slots with a second job in hand -> the job in front when last looked at.
        self._doubled: dict[Slot, int] = {}
        #: Whether there are such slots, or quick jobs that may have started without a word.
        self._is_unsure = False
        #: When to look at those, and when to try full sockets again.
        self._look_at = self._retry_at = NEVER
        #: Callbacks to be called, with their arguments.
        self._reports: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()

    def _place(self, job: Job) -> None:
        """Give a new job to an idle child, or behind a quick one, or let it wait."""
        idle = self._idle
        while idle:
            slot = idle.popleft()
            slot.is_idle = False
            if self._send(slot, job):
                return
        self._waiting.append(job)
        if job.pace.is_quick and len(self._waiting) == 1:
            fullest = MOST_IN_HAND
            for slot in self._keeper.slots:
                if 0 < len(slot.jobs) < fullest:
                    emptiest, fullest = slot, len(slot.jobs)
            if fullest < MOST_IN_HAND:
                self._feed(emptiest)

    def _send(self, slot: Slot, job: Job) -> bool:
        if not slot.send(job):
            self._retry_at = min(self._retry_at, time.monotonic() + RETRY_S)
            return False
        if len(slot.jobs) > 1:
            self._doubled.setdefault(slot, 0)
            self._is_unsure = True
        elif job.is_brief:
            self._is_unsure = True
        if slot.socket.unsent:
            self._watch_for_room(slot)
        return True

    def _watch_for_room(self, slot: Slot) -> None:
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if slot.socket.unsent else 0)
        self._selector.modify(slot.socket, wanted, slot)

    def _feed(self, slot: Slot) -> None:
        """Give a child what it has room for."""
        if slot.is_retiring or not slot.is_up:
            if slot.is_retiring and not slot.is_told:
                self._retire(slot)
            return
        jobs, waiting = slot.jobs, self._waiting
        while waiting and len(jobs) < MOST_IN_HAND and (not jobs or self._may_double(slot)):
            job = waiting.popleft()
            if job.discard_if is not None and job.is_unwanted():
                continue
            if not self._send(slot, job):
                waiting.appendleft(job)
                return
        if not jobs and not slot.is_idle:
            self._rest(slot)

    def _may_double(self, slot: Slot) -> bool:
        return not self._idle and self._waiting[0].pace.is_quick and slot.has_room_behind()

    def _rest(self, slot: Slot) -> None:
        """A child has nothing to do: it takes what waits behind another's job, or is idle."""
        self._make_idle(slot)
        for other in list(self._doubled):
            if self._reclaim(other):
                self._make_idle(other)
                self._feed_idle()
                return

    def _make_idle(self, slot: Slot) -> None:
        if slot.is_up and not (slot.jobs or slot.is_idle or slot.is_retiring):
            slot.is_idle = True
            self._idle.append(slot)

    def _undo_doubling(self, now: float) -> None:
        """Take back what has waited too long behind a job."""
        for slot, seen in list(self._doubled.items()):
            front = slot.jobs[0]
            started = front.started_at
            if front.number == seen or (started is not None and now - started >= QUICK_S):
                self._take_back(slot)
            else:
                self._doubled[slot] = front.number

    def _take_back(self, slot: Slot) -> None:
        """Let the jobs a child has not read wait again, before all others."""
        if self._reclaim(slot):
            self._make_idle(slot)
            self._feed_idle()

    def _reclaim(self, slot: Slot) -> bool:
        self._doubled.pop(slot, None)
        taken = slot.take_back()
        self._waiting.extendleft(reversed(taken))
        return bool(taken)

    def _feed_idle(self) -> None:
        while self._waiting and self._idle:
            slot = self._idle.popleft()
            slot.is_idle = False
            self._feed(slot)

    def _retire(self, slot: Slot) -> None:
        """Tell a child to read no more; another one stands in for it where one is missing."""
        self._keeper.replace(slot)
        if slot.is_idle:
            slot.is_idle = False
            self._idle.remove(slot)
        self._take_back(slot)
        slot.is_told = slot.tell(pack(RETIRE))
        if not slot.is_told:
            self._retry_at = min(self._retry_at, time.monotonic() + RETRY_S)
