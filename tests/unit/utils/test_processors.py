"""How many processors a process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from taskq.utils.processors import count_processors

AVAILABLE = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
pytestmark = pytest.mark.skipif(not AVAILABLE, reason="needs Linux")


def count(folder: Path, membership: str, **files: str) -> int:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "membership").write_text(membership)
    return count_processors(folder, folder / "membership")


def test_without_limits_the_affinity_counts(tmp_path: Path) -> None:
    assert count(tmp_path, "0::/a\n", a__cpu_DOT_max="max 100000\n") == AVAILABLE
    assert count_processors(tmp_path / "none", tmp_path / "none") == AVAILABLE


def test_a_quota_limits(tmp_path: Path) -> None:
    assert count(tmp_path, "0::/a/b\n", a__b__cpu_DOT_max="50000 100000\n") == 1
    assert count(tmp_path, "0::/a/b\n", a__b__cpu_DOT_max="9900000 100000\n") == AVAILABLE


def test_a_quota_above_limits_too(tmp_path: Path) -> None:
    assert count(tmp_path, "0::/a/b\n", a__cpu_DOT_max="100000 100000\n") == 1


def test_the_older_hierarchy(tmp_path: Path) -> None:
    folder = tmp_path / "cpu,cpuacct" / "x"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("80000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert count(tmp_path, "4:memory:/x\n3:cpu,cpuacct:/x\n") == 1
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert count(tmp_path, "3:cpu,cpuacct:/x\n") == AVAILABLE
