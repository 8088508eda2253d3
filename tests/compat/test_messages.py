"""taskq and Celery 5.7.0 understand each other's messages: calls, chains, groups, callbacks.

Both run `crossproj.py` on one Redis. One side calls, the other runs; in `test_chain_across` both
run, a step each. (A folder of kombu's filesystem transport would not do: its readers take messages
that are only half written, and lose them.)
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE_S, wait_until

pytestmark = pytest.mark.long

HERE = Path(__file__).parent
AS_CELERY = "import taskq\ntaskq.install_as_celery()\n"

CALLS = """
    from celery import chain, group, signature
    from crossproj import *

    add.delay(1, 2)
    add.apply_async((2, 2), link=keep.s())
    add.apply_async((3, 3), link=[keep.si("a"), add.s(10)])
    boom.apply_async(("one",), task_id="boom-1", link_error=failed.s())
    boom.apply_async(("two",), task_id="boom-2", link_error=[failed_id.s(), failed.s()])
    chain(add.s(4, 4), add.s(20), keep.s()).delay()
    chain(add.s(5, 5), boom.si("three").set(task_id="boom-3")).on_error(failed.s()).delay()
    (add.s(6, 6) | group(keep.si("g1"), add.s(30))).delay()
    group(add.s(7, 7), group(keep.s("g2"), keep.s("g3"))).delay()
    again.delay(2)
    about.apply_async(
        (1, "x"), {"k": [None]}, task_id="about-1", headers={"tenant": "acme"},
        time_limit=60, soft_time_limit=50, argsrepr="(hidden)",
    )
    call.delay(keep.s("called"))
    fan_out.delay(["f1", "f2"])
    signature("crossproj.keep", args=["by name"]).apply_async(countdown=0.2)
    """

EXPECTED: list[list[Any]] = [
    ["add", 1, 2],
    ["add", 2, 2], ["keep", 4],
    ["add", 3, 3], ["keep", "a"], ["add", 6, 10],
    ["failed", "boom-1", "crossproj.boom", "Refused", ["one", 7]],
    ["failed", "boom-2", "crossproj.boom", "Refused", ["two", 7]], ["failed_id", "boom-2"],
    ["add", 4, 4], ["add", 8, 20], ["keep", 28],
    ["add", 5, 5], ["failed", "boom-3", "crossproj.boom", "Refused", ["three", 7]],
    ["add", 6, 6], ["keep", "g1"], ["add", 12, 30],
    ["add", 7, 7], ["keep", "g2"], ["keep", "g3"],
    ["again", 0], ["again", 1], ["again", 2],
    ["about", "about-1", [1, "x"], {"k": [None]}, {"tenant": "acme"}, "about-1", None, None,
     "cross", [60, 50], None, False, "about-1", "gen", "(hidden)"],
    ["keep", "called"],
    ["keep", "f1"], ["keep", "f2"],
    ["keep", "by name"],
]  # fmt: skip

PICKLED_CALLS = """
    import datetime
    from celery.exceptions import MaxRetriesExceededError, TaskRevokedError
    from celery import chain
    from crossproj import *

    kinds.delay(
        {1}, datetime.date(2030, 1, 2), MaxRetriesExceededError("no more"),
        TaskRevokedError("revoked"), Refused("r"), keep.s(1), chain(keep.s(1), keep.s(2)),
    )
    """
KINDS = [
    "set {1}", "date 2030-01-02", "MaxRetriesExceededError no more", "TaskRevokedError revoked",
    "Refused r", "Signature crossproj.keep(1)", "_chain crossproj.keep(1) | keep(2)",
]  # fmt: skip


class Sides:
    """The two programs, a folder they share, and what their tasks wrote down."""

    def __init__(self, folder: Path, celery_python: str, serializer: str, broker: str) -> None:
        self.folder = folder
        self.pythons = {"taskq": sys.executable, "celery": celery_python}
        self.serializer = serializer
        self.broker = broker
        (folder / "results-celery").mkdir()

    def environment(self, side: str, queue: str = "cross") -> dict[str, str]:
        results = {
            "taskq": f"sqlite:///{self.folder}/results.db",
            "celery": f"file://{self.folder}/results-celery",
        }
        return {
            **os.environ,
            "PYTHONPATH": str(HERE),
            "CROSS_FOLDER": str(self.folder),
            "CROSS_SIDE": side,
            "CROSS_QUEUE": queue,
            "CROSS_BROKER": self.broker,
            "CROSS_RESULTS": results[side],
            "CROSS_SERIALIZER": self.serializer,
            "C_FORCE_ROOT": "1",
        }

    def run(self, side: str, code: str) -> str:
        start = AS_CELERY if side == "taskq" else ""
        done = subprocess.run(
            [self.pythons[side], "-c", start + textwrap.dedent(code)],
            cwd=self.folder, env=self.environment(side), capture_output=True, text=True,
            timeout=PATIENCE_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def worker(self, side: str, queue: str = "cross") -> Iterator[list[str]]:
        program = ["taskq", "--as-celery"] if side == "taskq" else ["celery"]
        process = subprocess.Popen(
            [self.pythons[side], "-m", *program, "-A", "crossproj", "worker", "-P", "solo",
             "-l", "INFO", "--without-gossip", "--without-mingle", "-n", side],
            cwd=self.folder, env=self.environment(side, queue), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        lines: list[str] = []
        ready = threading.Event()

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if " ready." in line:
                    ready.set()
            ready.set()

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            assert ready.wait(PATIENCE_S), "".join(lines)
            yield lines
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=PATIENCE_S) == 0, "".join(lines)
        finally:
            process.kill()
            process.wait()
            reader.join(PATIENCE_S)
            assert process.stdout is not None
            process.stdout.close()

    def notes(self) -> list[list[Any]]:
        path = self.folder / "notes"
        if not path.exists():
            return []
        # The last line may be half written.
        return [json.loads(line) for line in path.read_text().split("\n")[:-1]]

    def wait_for_notes(self, count: int, lines: list[str]) -> list[list[Any]]:
        wait_until(
            lambda: len(self.notes()) >= count, f"{count} notes",
            report=lambda: f"{self.notes()}\n{''.join(lines)}",
        )  # fmt: skip
        return self.notes()


@pytest.fixture(params=["json", "pickle"])
def sides(
    request: pytest.FixtureRequest, tmp_path: Path, celery_python: str, redis_url: str
) -> Sides:
    return Sides(tmp_path, celery_python, request.param, redis_url)


BOTH_WAYS = pytest.mark.parametrize(
    ("caller", "runner"), [("celery", "taskq"), ("taskq", "celery"), ("taskq", "taskq")]
)


@BOTH_WAYS
def test_calls(sides: Sides, caller: str, runner: str) -> None:
    # JSON makes a signature a mapping.
    expected = [*EXPECTED, ["call", sides.serializer == "pickle", "crossproj.keep"]]
    with sides.worker(runner) as lines:
        sides.run(caller, CALLS)
        notes = sides.wait_for_notes(len(expected), lines)
    assert {side for _, side, *_ in notes} == {runner}
    without_side = [json.dumps([what, *facts]) for what, _, *facts in notes]
    assert sorted(without_side) == sorted(map(json.dumps, expected))
    log = "".join(lines)
    for number, text in enumerate(("one", "two", "three"), 1):
        error = f"Task crossproj.boom[boom-{number}] raised unexpected: Refused('{text}', 7)"
        assert error in log


@pytest.mark.parametrize("sides", ["pickle"], indirect=True)
@BOTH_WAYS
def test_pickled_arguments(sides: Sides, caller: str, runner: str) -> None:
    with sides.worker(runner) as lines:
        sides.run(caller, PICKLED_CALLS)
        assert sides.wait_for_notes(1, lines) == [["kinds", runner, KINDS]]


@pytest.mark.parametrize("caller", ["celery", "taskq"])
def test_chain_across(sides: Sides, caller: str) -> None:
    code = """
        from celery import chain, group
        from crossproj import *

        there, here = {"queue": "on-celery"}, {"queue": "on-taskq"}
        chain(
            add.s(1, 1).set(**there), add.s(2).set(**here), add.s(3).set(**there),
            group(keep.s().set(**here), keep.s().set(**there)),
        ).apply_async(link_error=failed.s())
        chain(add.s(9, 9).set(**here), boom.si("x").set(task_id="boom-x", **there)).apply_async(
            link_error=failed.s().set(**here)
        )
        """
    with sides.worker("celery", "on-celery") as one, sides.worker("taskq", "on-taskq") as two:
        sides.run(caller, code)
        notes = sides.wait_for_notes(7, one + two)
    assert sorted(map(json.dumps, notes)) == sorted(
        map(
            json.dumps,
            [
                ["add", "celery", 1, 1],
                ["add", "taskq", 2, 2],
                ["add", "celery", 4, 3],
                ["keep", "taskq", 7],
                ["keep", "celery", 7],
                ["add", "taskq", 9, 9],
                ["failed", "celery", "boom-x", "crossproj.boom", "Refused", ["x", 7]],
            ],
        )
    )
