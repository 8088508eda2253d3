"""This file is the page of memory the parent and one child both see: a few words about jobs.

The parent writes which job a soft time limit is meant for; the child writes which job it has
started, where that is not worth a packet, and which one it has answered last. A forked child has
the page from its parent; a spawned one is given the descriptor of a file without a name.
"""

from __future__ import annotations

import mmap
import os
from typing import Any

from billiard.reduction import DupFd

from taskq.concurrency.packets import make_file

__all__ = ("SharedPage",)

#: Bytes: the limited job's number, the started job's number and moment, the answered job's number.
SIZE = 32


class SharedPage:
    """Numbers that two processes share; each is written at one go."""

    def __init__(self, descriptor: int = -1) -> None:
        """Share by fork, or by a descriptor, which is then ours to close."""
        self._descriptor = descriptor
        self._memory = mmap.mmap(descriptor, SIZE)
        self._bytes = memoryview(self._memory)
        self._numbers = self._bytes.cast("Q")
        self._moments = self._bytes.cast("d")

    @classmethod
    def by_file(cls) -> SharedPage:
        """Make one that can be pickled for a spawned child."""
        descriptor = make_file()
        os.ftruncate(descriptor, SIZE)
        return cls(descriptor)

    def __reduce__(self) -> tuple[Any, ...]:
        return _receive, (DupFd(self._descriptor),)

    def limit(self, number: int) -> None:
        """In the parent: name the job whose soft limit is used up."""
        self._numbers[0] = number

    @property
    def limited(self) -> int:
        """That job's number; 0 for none."""
        return self._numbers[0]

    def start(self, number: int, moment: float) -> None:
        """In the child: this job has started, at this moment of the monotonic clock."""
        # The number last: who finds it finds its moment.
        self._moments[2] = moment
        self._numbers[1] = number

    @property
    def started(self) -> int:
        """The number of the last job the child has noted here; 0 for none."""
        return self._numbers[1]

    @property
    def started_at(self) -> float:
        """The moment of its start."""
        return self._moments[2]

    def answer(self, number: int) -> None:
        """In the child: this job's answer has been sent."""
        self._numbers[3] = number

    @property
    def answered(self) -> int:
        """The number of the last job the child has answered, or of the one before it."""
        return self._numbers[3]

    def close(self) -> None:
        """Give up the memory and what it was shared by."""
        for view in (self._moments, self._numbers, self._bytes):
            view.release()
        self._memory.close()
        if self._descriptor != -1:
            os.close(self._descriptor)
            self._descriptor = -1


def _receive(passed: Any) -> SharedPage:
    return SharedPage(passed.detach())
