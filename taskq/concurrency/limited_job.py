"""This file is the number of the job a soft time limit is meant for, shared with the child.

Both have the same page of memory. A forked child has it from its parent; a spawned one is given
the descriptor of a file without a name.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import Any

from billiard.reduction import DupFd

from taskq.concurrency.packets import make_file

__all__ = ("LimitedJob",)

NUMBER = struct.Struct("<Q")


class LimitedJob:
    """One number that two processes share."""

    def __init__(self, descriptor: int = -1) -> None:
        """Share by fork, or by a descriptor, which is then ours to close."""
        self._descriptor = descriptor
        self._memory = mmap.mmap(descriptor, NUMBER.size)

    @classmethod
    def by_file(cls) -> LimitedJob:
        """Make one that can be pickled for a spawned child."""
        descriptor = make_file()
        os.ftruncate(descriptor, NUMBER.size)
        return cls(descriptor)

    def __reduce__(self) -> tuple[Any, ...]:
        return _receive, (DupFd(self._descriptor),)

    def write(self, number: int) -> None:
        """Name a job."""
        NUMBER.pack_into(self._memory, 0, number)

    def read(self) -> int:
        """Give the named job's number; 0 for none."""
        return int(NUMBER.unpack_from(self._memory)[0])

    def close(self) -> None:
        """Give up the memory and what it was shared by."""
        self._memory.close()
        if self._descriptor != -1:
            os.close(self._descriptor)
            self._descriptor = -1


def _receive(passed: Any) -> LimitedJob:
    return LimitedJob(passed.detach())
