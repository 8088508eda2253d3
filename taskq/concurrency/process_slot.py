"""This file is one slot of the process pool as the parent sees it: a child and what it was given.

States of its child: made, alive (it has said so), up (it takes jobs), retiring (it takes no more),
gone. The jobs it was given stand in order: the first one runs or is about to, a second one waits
in the socket and can be taken back.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from billiard.common import human_status

from taskq.concurrency.job import QUICK_S, Job
from taskq.concurrency.packets import AnySocket, build_pair
from taskq.concurrency.process_child import SOFT_LIMIT_SIGNAL, ChildWorker
from taskq.concurrency.shared_page import SharedPage
from taskq.platforms import EX_FAILURE

__all__ = ("Slot",)

#: Jobs a child has at most, with the one that runs.
MOST_IN_HAND = 2


class Slot:
    """One child process, its socket and its jobs."""

    __slots__ = (
        "alive_by", "index", "is_alive", "is_idle", "is_replaced", "is_retiring", "is_told",
        "is_up", "jobs", "page", "pid", "process", "sentinel", "socket", "theirs",
    )  # fmt: skip

    def __init__(self, index: int, is_stream: bool = False, is_spawned: bool = False) -> None:
        self.index = index
        self.jobs: deque[Job] = deque()
        #: The pool's end, and its copy of the child's end.
        self.socket: AnySocket
        self.theirs: AnySocket
        self.socket, self.theirs = build_pair(is_stream)
        self.page = SharedPage.by_file() if is_spawned else SharedPage()
        self.process: Any = None
        self.pid = 0
        #: A descriptor that can be read when the child is gone.
        self.sentinel = -1
        #: Until when it must have said that it exists, on the monotonic clock.
        self.alive_by = 0.0
        # A new interpreter says little before it has imported what the application needs.
        self.is_alive = is_spawned
        self.is_up = self.is_idle = self.is_retiring = False
        #: True once the child has been told to retire, or has said so itself.
        self.is_told = False
        #: True once another slot stands in for this one.
        self.is_replaced = False

    def start(
        self, context: Any, let_go: Callable[[], Any], alive_within: float, **options: Any
    ) -> None:
        """Start the child; `options` are those of ChildWorker. Raises OSError when it cannot be."""
        worker = ChildWorker(self.theirs, self.page, os.getpid(), let_go=let_go, **options)
        process = self.process = context.Process(target=worker)
        process.name = process.name.replace("Process", "PoolWorker")
        process.daemon = True
        process.index = self.index
        process.start()
        self.pid = process.pid
        self.alive_by = time.monotonic() + alive_within
        self.sentinel = _open_sentinel(process)
        if not self.theirs.can_take_back:
            self.theirs.close()

    # --- jobs -----------------------------------------------------------------------------------

    def send(self, job: Job) -> bool:
        """Give the child a job; False when its socket takes no more now, or it is gone."""
        packet = job.packet
        if packet is None:
            raise ValueError(f"{job!r} was started before; it cannot be sent again")
        try:
            if not self.socket.send(packet):
                return False
        except OSError:
            # The child's end is told by its sentinel.
            return False
        job.slot = self
        self.jobs.append(job)
        return True

    def tell(self, packet: bytes) -> bool:
        """Send a packet that is no job; False when it cannot be now."""
        try:
            return self.socket.send(packet)
        except OSError:
            return False

    def take_back(self) -> list[Job]:
        """Give the jobs that the child has not read, in their order; they are its no longer."""
        taken = []
        while self.jobs and self.theirs.can_take_back:
            packet = self.theirs.take_back()
            if packet is None:
                break
            number = packet[1]
            if not number:
                # Not a job but our word that it is to retire; that must be said again.
                self.is_told = False
                continue
            job = next(job for job in self.jobs if job.number == number)
            self.jobs.remove(job)
            job.slot = None
            taken.append(job)
        return taken

    def has_room_behind(self) -> bool:
        """Tell whether a quick job may wait behind those it has."""
        if self.is_retiring or not self.theirs.can_take_back:
            return False
        front = self.jobs[0]
        if not front.pace.is_quick:
            return False
        return front.started_at is None or time.monotonic() - front.started_at < QUICK_S

    def find_start(self) -> float | None:
        """Give the moment the first job has started if only the shared page says so yet."""
        jobs, page = self.jobs, self.page
        if jobs and jobs[0].started_at is None and page.started == jobs[0].number:
            return page.started_at
        return None

    # --- signals --------------------------------------------------------------------------------

    def send_soft_limit(self, job: Job) -> None:
        """Raise SoftTimeLimitExceeded in the child, if it still runs this job."""
        if SOFT_LIMIT_SIGNAL is not None:
            self.page.limit(job.number)
            self.signal(SOFT_LIMIT_SIGNAL)

    def signal(self, signum: int) -> None:
        """Send the child a signal; nothing when it is gone."""
        # Once it is reaped its number may be another process's.
        if self.process._popen.returncode is None:
            try:
                os.kill(self.pid, signum)
            except ProcessLookupError:
                pass

    def kill(self) -> None:
        """End the child at once."""
        self.signal(getattr(signal, "SIGKILL", signal.SIGTERM))

    # --- end ------------------------------------------------------------------------------------

    def reap(self) -> int | None:
        """Give the child's exit code, negative for a signal; None while it lives."""
        code: int | None = self.process.exitcode
        if code is None:
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                # Somebody else has waited for all children of this process.
                code = self.process._popen.returncode = EX_FAILURE
        return code

    def describe_end(self) -> str:
        """Say how the child ended."""
        return str(human_status(self.process.exitcode))

    def close(self) -> None:
        """Give up the descriptors of a child that is gone, or was never started."""
        self._close_ends()
        if self.pid:
            self.process.close()

    def leave(self) -> None:
        """In a new child: let go of a sibling's descriptors."""
        self._close_ends()
        self.process._popen.close()

    def _close_ends(self) -> None:
        self.socket.close()
        self.theirs.close()
        self.page.close()
        # The library's own sentinel is closed by the library.
        if self.pid and self.sentinel != self.process.sentinel:
            os.close(self.sentinel)
        self.sentinel = -1

    def __repr__(self) -> str:
        return f"<Slot {self.index}: pid:{self.pid} jobs:{len(self.jobs)}>"


def _open_sentinel(process: Any) -> int:
    """Give what can be read when the process is gone, and by nothing it has started."""
    if hasattr(os, "pidfd_open"):
        try:
            return os.pidfd_open(process.pid)
        except OSError:
            # An old kernel, or a sandbox that does not know the call.
            pass
    sentinel: int = process.sentinel
    return sentinel
