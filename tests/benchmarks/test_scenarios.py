"""Every scenario of `make bench` runs, with taskq alone and few tasks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SCENARIOS = (
    "drain", "drain_results", "publish", "group", "latency", "eta_memory", "idle_memory",
    "first_call",
)  # fmt: skip


def compare(folder: Path, *options: str) -> str:
    """What a run prints; it must end well."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "compare.py"), "--libraries", "taskq",
         "--size", "400", "--rounds", "1", "--output", str(folder), *options],
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="reads Linux's /proc")
@pytest.mark.parametrize("broker", ["redis", "rabbitmq", "sqlite"])
def test_each_scenario_gives_a_figure(broker: str, tmp_path: Path) -> None:
    printed = compare(tmp_path, "--brokers", broker)
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert [row["scenario"] for row in rows] == list(SCENARIOS)
    for row in rows:
        (figures,) = row["rounds"]["taskq"]
        least = 0 if row["scenario"] == "eta_memory" else 1e-9
        assert all(value >= least for value in figures.values()), row
    assert len([line for line in printed.splitlines() if f" {broker} " in line]) == len(SCENARIOS)


@pytest.mark.long
@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="reads Linux's /proc")
def test_a_profile_names_parent_child_and_client(tmp_path: Path) -> None:
    printed = compare(tmp_path, "--brokers", "redis", "--profile")
    for part in ("parent", "child", "client"):
        (line,) = [line for line in printed.splitlines() if f"taskq on redis, {part}:" in line]
        assert "`taskq." in line
