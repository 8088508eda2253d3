"""Memory of an idle worker with two children, beside Celery's in the same run."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.long
@pytest.mark.skipif(
    not os.path.exists("/proc/self/smaps_rollup"), reason="shares of memory are read from Linux"
)
def test_an_idle_worker_takes_at_most_seven_tenths(celery_python: str) -> None:
    # One environment for both: what is installed beside them weighs the same.
    done = subprocess.run(
        [celery_python, str(ROOT / "benchmarks" / "idle_memory.py"), "--rounds", "1"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    figures = re.findall(r"^ +\d+ +\d+ +(\d\.\d+)$", done.stdout, re.M)
    assert len(figures) == 1, done.stdout + done.stderr
    assert float(figures[0]) <= 0.7, done.stdout
