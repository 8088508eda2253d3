"""What /proc says of a worker's processes: who they are, their time and their memory."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def children_of(pid: int) -> list[int]:
    """The ids of a process's children, whichever thread made them."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


def tree_of(pid: int) -> list[int]:
    """A process and all below it."""
    return [pid, *(below for child in children_of(pid) for below in tree_of(child))]


def cpu_s(pids: list[int]) -> float:
    """Seconds of processor time these processes have taken so far."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def pss_mb(pid: int) -> float:
    """Memory of a process and all below it: a page that n share counts as 1/n for each."""
    kib = 0
    for process in tree_of(pid):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
            kib += int(re.findall(r"^Pss:\s+(\d+) kB", text, re.M)[0])
    return kib / 1024
