"""Each example runs as its README says."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize(
    "arguments",
    [
        # As `make demo` has it: the whole library. A part of it is enough for a look.
        pytest.param([], marks=pytest.mark.long),
        [sysconfig.get_path("stdlib") + "/asyncio"],
    ],
)
def test_wordcount(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "wordcount" / "demo.py"), *arguments],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same both ways" in done.stdout
    counted = re.search(r"files counted by process: (.*)", done.stdout)
    assert counted is not None
    assert len(counted[1].split(",")) == 2, "both processes took part"
