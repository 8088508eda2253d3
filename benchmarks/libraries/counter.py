"""Counts the tasks that have run: one number in shared memory per process and thread.

All libraries' tasks call `count()`: 0.2 us, the same for all, and nothing asks the broker. The
measuring process reads the numbers with `read()` while the worker is busy.
"""

from __future__ import annotations

import mmap
import os
import threading
from pathlib import Path

_SUFFIX = ".count"
_slots = threading.local()


def _forget() -> None:
    global _slots
    _slots = threading.local()


os.register_at_fork(after_in_child=_forget)


def _open_slot() -> memoryview:
    name = f"{os.getpid()}-{threading.get_ident()}{_SUFFIX}"
    path = Path(os.environ["BENCH_FOLDER"], name)
    path.write_bytes(bytes(8))
    with path.open("r+b") as file:
        _slots.slot = memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")
    slot: memoryview = _slots.slot
    return slot


def count() -> None:
    """One more task has run."""
    try:
        slot = _slots.slot
    except AttributeError:
        slot = _open_slot()
    slot[0] += 1


def read(folder: Path) -> int:
    """How many tasks have run in all processes of this measurement."""
    counted = (path.read_bytes() for path in folder.glob(f"*{_SUFFIX}"))
    return sum(int.from_bytes(number, "little") for number in counted)
