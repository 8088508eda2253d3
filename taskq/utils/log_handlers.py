"""This file writes log records of a worker and its children whole, never one inside another.

A file or a terminal takes a record of any size whole, from however many processes. A pipe takes no
more than 4 KiB whole, so there the processes take turns: they share a file that has no name and
hold the kernel's lock on it while they write; the kernel takes it from one that dies, and one that
was stopped meanwhile is not waited for longer than a moment.
"""

from __future__ import annotations

import logging
import os
import stat
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import WatchedFileHandler
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: there are no children that write to our streams
    fcntl = None  # type: ignore[assignment] # what mypy does not know of this platform

__all__ = ("FileHandler", "StreamHandler", "share_turn", "take_turn")

#: Among the threads of a process; the kernel's lock is the process's.
_threads_turn = threading.RLock()

#: Records being written: one, and those that are logged meanwhile by the same thread.
_depth = 0

#: Seconds after which a turn that does not end is waited for no longer, and between two looks.
PATIENCE_S = 5.0
LOOK_S = 0.0002

TURN = struct.Struct("<Q")

#: The turn that was waited for last, as the file says it, and since when.
_awaited: tuple[bytes | None, float] = (None, 0.0)

#: The descriptor of the file, for the life of the process; -1 before the first handler.
_processes_turn = -1


def _share_file() -> None:
    """Open the file, before children are forked that are to share it."""
    global _processes_turn
    if _processes_turn != -1 or fcntl is None:
        return
    with tempfile.TemporaryFile() as file:
        _processes_turn = os.dup(file.fileno())


def share_turn() -> int | None:
    """Give the descriptor that a child which does not inherit it needs to take turns with us."""
    return None if _processes_turn == -1 else _processes_turn


def take_turn(descriptor: int) -> None:
    """Take turns with those who have shared this; it is ours from now on."""
    global _processes_turn
    if fcntl is not None:
        os.set_inheritable(descriptor, False)
        _processes_turn = descriptor


@contextmanager
def _in_turn(stream: Any) -> Iterator[None]:
    global _depth
    with _threads_turn:
        # The kernel does not count: the inner one would unlock for the outer one.
        is_ours = not _depth and _is_pipe(stream) and _lock()
        _depth += 1
        try:
            yield
        finally:
            _depth -= 1
            if is_ours:
                fcntl.lockf(_processes_turn, fcntl.LOCK_UN)


def _is_pipe(stream: Any) -> bool:
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (AttributeError, OSError, ValueError):
        # In memory, or closed.
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _lock() -> bool:
    if _processes_turn == -1:
        return False
    try:
        while not _lock_now():
            if not _is_worth_waiting():
                return False
            time.sleep(LOOK_S)
        # Tells those who wait that this is another turn than the last one.
        os.pwrite(_processes_turn, TURN.pack(time.monotonic_ns()), 0)
    except OSError:
        # Somebody has closed all descriptors: better mixed than silent.
        return False
    return True


def _lock_now() -> bool:
    try:
        fcntl.lockf(_processes_turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_worth_waiting() -> bool:
    """Tell whether the turn others have may still end: a stopped process's does not."""
    global _awaited
    turn, now = os.pread(_processes_turn, TURN.size, 0), time.monotonic()
    if turn != _awaited[0]:
        _awaited = (turn, now)
    return now - _awaited[1] < PATIENCE_S


class _InTurn(logging.StreamHandler):  # type: ignore[type-arg] # any stream
    """Emits a record when no other thread does, and no other process to the same pipe."""

    def createLock(self) -> None:
        """Have one lock for all handlers, since they may write to the same stream."""
        super().createLock()
        self.lock = _threads_turn
        _share_file()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        with _in_turn(self.stream):
            super().emit(record)


class StreamHandler(_InTurn):
    """Writes to an open stream."""


class FileHandler(_InTurn, WatchedFileHandler):
    """Writes to a file, or to a pipe that has a name; opens it again when it was moved."""
