"""A real Celery 5.7.0 beside taskq, in a virtual environment of its own, for the long tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

VERSION = "celery==5.7.0"
FOLDER = Path(__file__).resolve().parents[2] / ".venv-compat"


@pytest.fixture(scope="session")
def celery_python() -> str:
    """The Python of `.venv-compat`, made on first use; TASKQ_COMPAT_PYTHON names another one."""
    given = os.environ.get("TASKQ_COMPAT_PYTHON")
    python = given or str(FOLDER / "bin" / "python")
    problem = "" if _has_celery(python) else _install(python, bool(given))
    if problem:
        message = (
            f"no {VERSION} to test against: run `{sys.executable} -m venv {FOLDER}` and"
            f" `{python} -m pip install {VERSION}` ({problem})"
        )
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(message)
        pytest.skip(message)
    return python


def _has_celery(python: str) -> bool:
    code = f"import celery; raise SystemExit(celery.__version__ != {VERSION.partition('==')[2]!r})"
    return Path(python).exists() and _run([python, "-c", code]) is None


def _install(python: str, given: bool) -> str:
    """Why it could not be installed; nothing when it was."""
    if given:
        return "TASKQ_COMPAT_PYTHON has none"
    problem = _run([sys.executable, "-m", "venv", str(FOLDER)])
    return problem or _run([python, "-m", "pip", "install", "--quiet", VERSION]) or ""


def _run(command: list[str]) -> str | None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode == 0:
        return None
    return (done.stderr or done.stdout).strip().rpartition("\n")[2] or f"exit {done.returncode}"
