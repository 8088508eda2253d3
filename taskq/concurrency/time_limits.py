"""This file keeps the time limits of running jobs: which one is used up next."""

from __future__ import annotations

import heapq

from taskq.concurrency.job import Job

__all__ = ("NEVER", "TimeLimits")

#: The moment of what is not expected.
NEVER = float("inf")

#: Entries below which those of ended jobs do not matter.
LEAST_TO_CLEAN = 256


class TimeLimits:
    """A heap of moments on the monotonic clock; what has ended meanwhile is passed over."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, bool, Job]] = []
        self._worth_cleaning = LEAST_TO_CLEAN

    def add(self, job: Job, started: float) -> None:
        """Watch a job that started at this moment, if it has limits."""
        if job.soft_timeout:
            self._push(started + job.soft_timeout, True, job)
        if job.timeout:
            self._push(started + job.timeout, False, job)
        if len(self._heap) > self._worth_cleaning:
            self._forget_ended()

    def _push(self, moment: float, is_soft: bool, job: Job) -> None:
        heapq.heappush(self._heap, (moment, job.number, is_soft, job))

    def _forget_ended(self) -> None:
        # An hour's limit would otherwise keep every job of the last hour.
        self._heap = [entry for entry in self._heap if entry[3].slot is not None]
        heapq.heapify(self._heap)
        self._worth_cleaning = max(LEAST_TO_CLEAN, 2 * len(self._heap))

    def next_moment(self) -> float:
        """Give the moment at which to look again; NEVER when nothing is watched."""
        heap = self._heap
        while heap and heap[0][3].slot is None:
            heapq.heappop(heap)
        return heap[0][0] if heap else NEVER

    def pop_used_up(self, now: float) -> list[tuple[bool, Job]]:
        """Give (is it the soft limit, job) of running jobs whose limit is used up."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            _, _, is_soft, job = heapq.heappop(self._heap)
            if job.slot is not None:
                found.append((is_soft, job))
        return found

    def __bool__(self) -> bool:
        return bool(self._heap)
