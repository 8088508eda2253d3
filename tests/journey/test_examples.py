"""Each example runs as its README says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_wordcount() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "wordcount" / "demo.py")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same both ways" in done.stdout
    counted = re.search(r"files counted by process: (.*)", done.stdout)
    assert counted is not None
    assert len(counted[1].split(",")) == 2, "both processes took part"
