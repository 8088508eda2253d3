"""Pickles and result documents of Celery 5.7.0 read by taskq, and the other way round.

`pickles.py` and `results.py` are programs that write or read them as `celery`. What Celery wrote,
and what it read in that, is recorded; to record anew: `python test_documents.py PYTHON`, with a
Python that has celery==5.7.0.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE_S

HERE = Path(__file__).parent
RECORDED = HERE / "recorded_documents.json"
#: The programs with their arguments.
PROGRAMS = [("pickles.py",), ("results.py", "json"), ("results.py", "pickle")]
AS_CELERY = """
import runpy, sys
import taskq

taskq.install_as_celery()
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(python: str | None, program: tuple[str, ...], action: str, data: Any = None) -> Any:
    """What a program answers, run by another Python's Celery or, with None, by taskq."""
    path = str(HERE / program[0])
    start = [sys.executable, "-c", AS_CELERY, path] if python is None else [python, path]
    done = subprocess.run(
        [*start, action, *program[1:]],
        input=json.dumps(data), capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def record(python: str) -> dict[str, Any]:
    recorded = {}
    for program in PROGRAMS:
        written = run(python, program, "write")
        told = run(python, program, "read", written)
        recorded[" ".join(program)] = {"written": written, "read": told}
    return recorded


@pytest.fixture(params=PROGRAMS, ids=" ".join)
def program(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return request.param


@pytest.fixture
def recorded(program: tuple[str, ...]) -> Any:
    return json.loads(RECORDED.read_text())[" ".join(program)]


def test_taskq_reads_what_celery_wrote(program: tuple[str, ...], recorded: Any) -> None:
    assert run(None, program, "read", recorded["written"]) == recorded["read"]


def test_taskq_reads_what_it_wrote(program: tuple[str, ...], recorded: Any) -> None:
    assert run(None, program, "read", run(None, program, "write")) == recorded["read"]


@pytest.mark.long
def test_celery_reads_what_taskq_wrote(
    program: tuple[str, ...], recorded: Any, celery_python: str
) -> None:
    assert run(celery_python, program, "read", run(None, program, "write")) == recorded["read"]


@pytest.mark.long
def test_the_recording_is_what_celery_writes(
    program: tuple[str, ...], recorded: Any, celery_python: str
) -> None:
    assert (
        run(celery_python, program, "read", run(celery_python, program, "write"))
        == (recorded["read"])
    )


if __name__ == "__main__":
    RECORDED.write_text(json.dumps(record(sys.argv[1]), indent=1, sort_keys=True) + "\n")
