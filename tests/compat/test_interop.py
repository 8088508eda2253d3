"""taskq and Celery 5.7.0 on one Redis or RabbitMQ: each calls the other and reads its results."""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE_S, wait_until
from servers import Vhost, shared_rabbitmq

HERE = Path(__file__).parent

DONE = {
    "success": 3,
    "failure": ["Refused", "('no', 7)", True],
    "chain": 12,
    "group": [0, 2, 4, 6, 8],
    "retry": 2,
    "autoretry": 1,
    "autoretry, too often": ["OSError", "not yet", False],
    "late ack": "late",
    "eta": True,
    "expired": ["TaskRevokedError", "expired", False],
    "link": 7,
    "told": ["Refused", "('told', 7)", True],
    "ignored": "PENDING",
    **dict.fromkeys(("json", "pickle", "yaml", "msgpack"), True),
}
READ = {
    "add": 3,
    "refuse": DONE["failure"],
    "traceback": True,
    "chain": 12,
    "group": DONE["group"],
    "states": ["SUCCESS", "FAILURE"],
}


class Sides:
    """Both programs on one broker and one store of results."""

    def __init__(self, folder: Path, celery_python: str, broker: str, results: str) -> None:
        self.folder = folder
        self.pythons = {"taskq": sys.executable, "celery": celery_python}
        self.environ = {
            **os.environ,
            "PYTHONPATH": str(HERE),
            "PYTHONWARNINGS": "ignore",
            "C_FORCE_ROOT": "1",
            "INTEROP_FOLDER": str(folder),
            "INTEROP_BROKER": broker,
            "INTEROP_RESULTS": results,
        }

    def run(self, side: str, *arguments: str, **environ: str) -> Any:
        """What `interopproj.py ARGUMENTS` prints on that side."""
        taskq = [sys.executable, "-m", "taskq", "exec"] if side == "taskq" else []
        command = [*taskq, self.pythons[side], str(HERE / "interopproj.py"), *arguments]
        environ = {**self.environ, "INTEROP_SIDE": side, **environ}
        done = subprocess.run(
            command, cwd=self.folder, env=environ, capture_output=True, text=True,
            timeout=5 * PATIENCE_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @contextmanager
    def worker(self, side: str) -> Iterator[Path]:
        """A worker of that side; gives its log, and must end with exit code 0."""
        program = ["taskq", "--as-celery"] if side == "taskq" else ["celery"]
        log = self.folder / f"{side}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [self.pythons[side], "-m", *program, "-A", "interopproj", "worker", "-c", "2",
                 "-l", "INFO", "--without-gossip", "--without-mingle", "-n", f"{side}@%h"],
                cwd=self.folder, env={**self.environ, "INTEROP_SIDE": side},
                stdout=output, stderr=output,
            )  # fmt: skip
        try:
            wait_until(lambda: " ready." in log.read_text(), f"{side} is ready",
                       report=log.read_text)  # fmt: skip
            yield log
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=PATIENCE_S) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()

    def notes(self) -> list[list[Any]]:
        path = self.folder / "notes"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]


@pytest.fixture(params=["redis", pytest.param("rabbitmq", marks=pytest.mark.long)])
def broker(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "redis":
        yield request.getfixturevalue("private_redis").database(1)
    else:
        request.getfixturevalue("rabbitmq_url")  # says so when there is none
        with Vhost(shared_rabbitmq()) as vhost:
            yield vhost.url


@pytest.fixture
def sides(tmp_path: Path, celery_python: str, broker: str, redis_url: str) -> Sides:
    return Sides(tmp_path, celery_python, broker, redis_url)


def check_calls(sides: Sides, caller: str, runner: str, protocol: str) -> None:
    with sides.worker(runner) as log:
        said = sides.run(caller, "call", INTEROP_PROTOCOL=protocol)
        assert said["done"] == DONE
        expected = [
            [runner, "failed", said["ids"]["told"], "Refused", "('told', 7)"],
            [runner, "linked", 7],
            [runner, "silent", "here"],
        ]
        wait_until(lambda: len(sides.notes()) >= len(expected), "callbacks", report=log.read_text)
        assert sorted(sides.notes()) == sorted(expected)
        # A third process, of the side that has not made the calls, reads the results.
        assert sides.run(runner, "read", json.dumps(said["ids"])) == READ


@pytest.mark.long
@pytest.mark.parametrize("protocol", ["2", "1"])
@pytest.mark.parametrize(("caller", "runner"), [("celery", "taskq"), ("taskq", "celery")])
def test_calls(sides: Sides, caller: str, runner: str, protocol: str) -> None:
    check_calls(sides, caller, runner, protocol)


def test_calls_among_ourselves(tmp_path: Path, broker: str, redis_url: str) -> None:
    check_calls(Sides(tmp_path, "", broker, redis_url), "taskq", "taskq", "2")


@pytest.mark.long
def test_both_workers_on_one_queue(sides: Sides) -> None:
    count = 2000
    with ExitStack() as workers:
        logs = [workers.enter_context(sides.worker(side)) for side in sides.pythons]
        sides.run("taskq", "flood", str(count // 2))
        sides.run("celery", "flood", str(count // 2))
        wait_until(lambda: len(sides.notes()) >= count, "all have run", 5 * PATIENCE_S,
                   report=lambda: "".join(log.read_text()[-2000:] for log in logs))  # fmt: skip
    runs = collections.Counter(number for _, number in sides.notes())
    assert runs == dict.fromkeys(range(count // 2), 2)
    assert {side for side, _ in sides.notes()} == {"taskq", "celery"}
