"""Schedules of taskq answer as those of Celery 5.7.0: due or not, how long, which error.

`schedules.py` is a program that asks them as `celery`; what Celery answered is recorded.
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
PROGRAM = HERE / "schedules.py"
RECORDED = json.loads((HERE / "recorded_schedules.json").read_text())
AS_CELERY = """
import runpy, sys
import taskq

taskq.install_as_celery()
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def ask(*command: str) -> Any:
    done = subprocess.run(
        [*command, str(PROGRAM)], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def answers() -> Any:
    return ask(sys.executable, "-c", AS_CELERY)


def agree(ours: Any, celerys: Any) -> bool:
    """The same answer; of an error the same type, and a text that may say more."""
    if ours == celerys:
        return True
    if not (isinstance(ours, list) and isinstance(celerys[0], str)):
        return False
    # Python's own words about a line with too few or too many fields help nobody.
    return ours[0] == celerys[0] and (
        ours[1].startswith(celerys[1].rstrip(".")) or "to unpack" in celerys[1]
    )


@pytest.mark.parametrize("part", RECORDED)
def test_taskq_answers_as_celery(answers: Any, part: str) -> None:
    if part == "solars":
        pytest.importorskip("ephem")
    assert answers[part].keys() == RECORDED[part].keys()
    different = {
        question: (answers[part][question], celerys)
        for question, celerys in RECORDED[part].items()
        if not agree(answers[part][question], celerys)
    }
    assert different == {}


def test_enough_was_asked() -> None:
    assert len(RECORDED["crontabs"]) >= 500
    assert {True, False} == {row[0] for row in RECORDED["crontabs"].values()} - {"ValueError"}


@pytest.mark.long
def test_the_recording_is_what_celery_answers(celery_python: str) -> None:
    celerys = ask(celery_python)
    asked = [part for part in RECORDED if "not asked" not in celerys[part]]
    assert set(asked) >= set(RECORDED) - {"solars"}
    assert {part: celerys[part] for part in asked} == {part: RECORDED[part] for part in asked}
