"""How many processors this process may use: what a container grants counts, not the machine."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from billiard import cpu_count

__all__ = ("count_processors",)

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def count_processors(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Give the processors of this process, at least 1: its affinity and its cgroups' quota.

    A quota of 1.5 processors counts as 2: a process that waits leaves room for the other.
    """
    try:
        count = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        # Only Linux has it.
        try:
            count = int(cpu_count())
        except NotImplementedError:
            count = 2
    return max(1, min([count, *map(math.ceil, _read_quotas(cgroups, membership))]))


def _read_quotas(cgroups: Path, membership: Path) -> Iterator[float]:
    """Read the quotas that hold for this process, in processors; none where there is no limit."""
    for folder in _find_folders(cgroups, membership):
        try:
            quota, period = (folder / "cpu.max").read_text().split()
        except (OSError, ValueError):
            try:
                quota = (folder / "cpu.cfs_quota_us").read_text()
                period = (folder / "cpu.cfs_period_us").read_text()
            except OSError:
                continue
        try:
            granted = int(quota) / int(period)
        except (ValueError, ZeroDivisionError):
            # "max": no limit.
            continue
        if granted > 0:
            yield granted


def _find_folders(cgroups: Path, membership: Path) -> Iterator[Path]:
    """Find this process's cgroup and those above it: each may have a limit."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / controllers if controllers else cgroups
        at = root / path.lstrip("/")
        yield at
        yield from (above for above in at.parents if above.is_relative_to(root))
