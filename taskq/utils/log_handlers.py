"""This file writes log records of a worker and its children whole: one writer at a time.

A pipe takes no more than 4 KiB whole; a longer record would be mixed with others' records. So the
processes share a file that has no name and hold the kernel's lock on it while they write; the
kernel takes it from one that dies.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import WatchedFileHandler

try:
    import fcntl
except ImportError:  # Windows: there are no children that write to our streams
    fcntl = None  # type: ignore[assignment] # what mypy does not know of this platform

__all__ = ("FileHandler", "StreamHandler")

#: Among the threads of a process; the kernel's lock is the process's.
_threads_turn = threading.RLock()

#: Records being written: one, and those that are logged meanwhile by the same thread.
_depth = 0

#: The descriptor of the file, for the life of the process; -1 before the first handler.
_processes_turn = -1


def _share_file() -> None:
    """Open the file, before children are forked that are to share it."""
    global _processes_turn
    if _processes_turn != -1 or fcntl is None:
        return
    with tempfile.TemporaryFile() as file:
        _processes_turn = os.dup(file.fileno())


@contextmanager
def _in_turn() -> Iterator[None]:
    global _depth
    with _threads_turn:
        # The kernel does not count: the inner one would unlock for the outer one.
        is_ours = not _depth and _lock()
        _depth += 1
        try:
            yield
        finally:
            _depth -= 1
            if is_ours:
                fcntl.lockf(_processes_turn, fcntl.LOCK_UN)


def _lock() -> bool:
    if _processes_turn == -1:
        return False
    try:
        fcntl.lockf(_processes_turn, fcntl.LOCK_EX)
    except OSError:
        # Somebody has closed all descriptors: better mixed than silent.
        return False
    return True


class _InTurn(logging.Handler):
    """Emits a record when no other thread and no other process does."""

    def createLock(self) -> None:
        """Have one lock for all handlers, since they may write to the same stream."""
        super().createLock()
        self.lock = _threads_turn
        _share_file()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        with _in_turn():
            super().emit(record)


class StreamHandler(_InTurn, logging.StreamHandler):  # type: ignore[type-arg] # any stream
    """Writes to an open stream."""


class FileHandler(_InTurn, WatchedFileHandler):
    """Writes to a file, or to a pipe that has a name; opens it again when it was moved."""
