"""A real Celery 5.7.0 beside taskq, in a virtual environment of its own, for the long tests.

How to write a check that runs on both: see sides.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

VERSION = "celery==5.7.0"
#: What the checks need beside it.
MORE = (
    "pytest>=8", "pydantic>=2.12", "redis>=6.1", "cryptography>=42", "msgpack", "PyYAML", "brotli",
    "psycopg[binary]",
    "ephem>=4.1", "Django",
)  # fmt: skip
FOLDER = Path(__file__).resolve().parents[2] / ".venv-compat"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Checks are started by test_behaviours.py, on one side at a time, and by nobody else."""
    if "COMPAT_SIDE" in os.environ or collection_path.suffix != ".py":
        return None
    is_check = re.search(r"^def test_\d{3}_", collection_path.read_text(), re.MULTILINE)
    return True if is_check else None


@pytest.fixture(scope="session")
def celery_python() -> str:
    """The Python of `.venv-compat`, made on first use; TASKQ_COMPAT_PYTHON names another one."""
    given = os.environ.get("TASKQ_COMPAT_PYTHON")
    python = given or str(FOLDER / "bin" / "python")
    problem = "" if _has_celery(python) else _install(python, bool(given))
    if problem:
        message = (
            f"no {VERSION} to test against: run `{sys.executable} -m venv {FOLDER}` and"
            f" `{python} -m pip install {VERSION} {' '.join(MORE)}` ({problem})"
        )
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(message)
        pytest.skip(message)
    return python


def _has_celery(python: str) -> bool:
    wanted = VERSION.partition("==")[2]
    code = (
        "import celery, brotli, cryptography, django, msgpack, pydantic, pytest, redis, yaml;"
        f"raise SystemExit(celery.__version__ != {wanted!r})"
    )
    return Path(python).exists() and _run([python, "-c", code]) is None


def _install(python: str, given: bool) -> str:
    """Why it could not be installed; nothing when it was."""
    if given:
        return "TASKQ_COMPAT_PYTHON has none"
    problem = _run([sys.executable, "-m", "venv", str(FOLDER)])
    return problem or _run([python, "-m", "pip", "install", "--quiet", VERSION, *MORE]) or ""


def _run(command: list[str]) -> str | None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode == 0:
        return None
    return (done.stderr or done.stdout).strip().rpartition("\n")[2] or f"exit {done.returncode}"
