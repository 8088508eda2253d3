"""Memory of an idle worker with two children, beside Celery's in the same run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.long
@pytest.mark.skipif(
    not os.path.exists("/proc/self/smaps_rollup"), reason="shares of memory are read from Linux"
)
def test_an_idle_worker_takes_at_most_seven_tenths(celery_python: str, tmp_path: Path) -> None:
    # One environment for both: what is installed beside them weighs the same.
    options = ["--only", "idle_memory", "--brokers", "redis", "--libraries", "taskq,celery"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "compare.py"), *options, "--rounds", "1",
         "--python", celery_python, "--output", str(tmp_path)],
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (bar,) = json.loads((tmp_path / "figures.json").read_text())["bars"]
    assert bar["met"], done.stdout
