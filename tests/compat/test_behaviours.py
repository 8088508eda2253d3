"""Every behaviour of the list is checked on taskq and, in the long run, on Celery 5.7.0.

The checks lie beside this file; `sides.py` says what they are and what they get. Here each side
runs those that were selected, in two processes, and every check is reported as a test of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CHECKS = [
    f"{file.name}::{name}"
    for file in sorted(HERE.glob("test_*.py"))
    for name in re.findall(r"^def (test_\d{3}_\w+)\(", file.read_text(), re.MULTILINE)
]
DEADLINE_S = 1200


def run_side(side: str, python: str, checks: list[str], folder: Path) -> dict[str, str]:
    """What became of each check: nothing when it passed, else what pytest says."""
    files = sorted({check.partition("::")[0] for check in checks})
    halves = [
        [check for check in checks if files.index(check.partition("::")[0]) % 2 == number]
        for number in (0, 1)
    ]

    def run(number: int) -> dict[str, str]:
        half, report = halves[number], folder / f"report{number}.xml"
        return _run_checks(side, python, half, report) if half else {}

    with ThreadPoolExecutor(2) as executor:
        first, second = executor.map(run, (0, 1))
    return first | second


def _run_checks(side: str, python: str, checks: list[str], report: Path) -> dict[str, str]:
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(HERE),
         "--confcutdir", str(HERE), "--import-mode=importlib", "-p", "no:cacheprovider",
         "-p", "sides", f"--junitxml={report}", *(["-W", "error"] if side == "taskq" else []),
         "-o", "faulthandler_timeout=120", *checks],
        cwd=HERE, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
        env={**os.environ, "COMPAT_SIDE": side, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}",
             "C_FORCE_ROOT": "1",
             "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
    )  # fmt: skip
    assert report.exists(), done.stdout + done.stderr
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        check = f"{case.get('classname')}.py::{(case.get('name') or '').partition('[')[0]}"
        problems = "\n".join(each.text or each.get("message") or each.tag for each in case)
        found[check] = found.get(check, "") + problems
    return {check: found.get(check, f"did not run\n{done.stdout}") for check in checks}


def _selected(request: pytest.FixtureRequest, test: str) -> list[str]:
    items = [each for each in request.session.items if isinstance(each, pytest.Function)]
    return [each.callspec.params["check"] for each in items if each.originalname == test]


@pytest.fixture(scope="session")
def on_taskq(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("taskq")
    return run_side("taskq", sys.executable, _selected(request, "test_on_taskq"), folder)


@pytest.fixture(scope="session")
def on_celery(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, celery_python: str
) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("celery")
    return run_side("celery", celery_python, _selected(request, "test_on_celery"), folder)


@pytest.mark.parametrize("check", CHECKS)
def test_on_taskq(check: str, on_taskq: dict[str, str]) -> None:
    if on_taskq[check]:
        pytest.fail(on_taskq[check], pytrace=False)


@pytest.mark.long
@pytest.mark.parametrize("check", CHECKS)
def test_on_celery(check: str, on_celery: dict[str, str]) -> None:
    if on_celery[check]:
        pytest.fail(on_celery[check], pytrace=False)
