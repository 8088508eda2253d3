"""taskq and Celery 5.7.0 on one Redis or RabbitMQ: each calls the other and reads its results."""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE_S, wait_until
from servers import Vhost, shared_rabbitmq

from taskq import App

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
    def worker(self, side: str, *options: str) -> Iterator[Path]:
        """A worker of that side; gives its log, and must end with exit code 0."""
        program = ["taskq", "--as-celery"] if side == "taskq" else ["celery"]
        log = self.folder / f"{side}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [self.pythons[side], "-m", *program, "-A", "interopproj", "worker", "-c", "2",
                 "-l", "INFO", "--without-gossip", "--without-mingle", "-n", f"{side}@%h",
                 *options],
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


ASKED = {
    **{name: DONE[name] for name in ("success", "chain", "group", "expired", "ignored", "retry")},
    "failure": ["Refused", "('no', 7)", True],
    "states": ["RETRY", "RETRY", "SUCCESS"],
}


@pytest.mark.long
@pytest.mark.parametrize(("caller", "runner"), [("celery", "taskq"), ("taskq", "celery")])
def test_results_sent_to_the_caller(
    tmp_path: Path, celery_python: str, broker: str, caller: str, runner: str
) -> None:
    sides = Sides(tmp_path, celery_python, broker, "rpc://")
    with sides.worker(runner):
        assert sides.run(caller, "ask") == ASKED


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


EXPIRED = {
    "at once": {"expires": 0.5},
    "before its ETA": {"countdown": 5, "expires": 0.5},
    "after its ETA": {"countdown": 0.2, "expires": 0.5},
}


@pytest.mark.long
@pytest.mark.parametrize("runner", ["celery", "taskq"])
def test_tasks_that_expired_before_a_worker_started(
    sides: Sides, broker: str, redis_url: str, runner: str
) -> None:
    """Also on RabbitMQ, where messages of Celery's clients end at that moment, unheard."""
    with App("client", broker=broker, backend=redis_url, set_as_current=False) as app:
        app.conf.task_default_queue = "interop"
        for name, options in EXPIRED.items():
            app.send_task("interopproj.add", (1, 2), task_id=name, **options)
        moment = time.monotonic() + 0.6
        wait_until(lambda: time.monotonic() > moment, "all have expired")
        living = app.send_task("interopproj.add", (1, 2), expires=PATIENCE_S)
        with sides.worker(runner) as log:
            assert living.get(timeout=PATIENCE_S) == 3
            lines = [line.partition("] ")[2] for line in log.read_text().splitlines()]
        kept = {name: app.backend.get(app.backend.get_key_for_task(name)) for name in EXPIRED}
    for name, document in kept.items():
        found = json.loads(document)
        error = found["result"]
        facts = found["status"], error["exc_type"], error["exc_message"]
        assert facts == ("REVOKED", "TaskRevokedError", ["expired"]), name
        task = f"interopproj.add[{name}]"
        said = [line for line in lines if f"[{name}]" in line]
        assert said == [f"Task {task} received", f"Discarding revoked task: {task}"], name


@pytest.mark.long
@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_each_reads_the_revoked_ids_the_other_has_kept(sides: Sides, broker: str) -> None:
    asked = {"reply": True, "limit": 1}
    with App("client", broker=broker, set_as_current=False) as app:
        for number, side in enumerate(("celery", "taskq", "celery", "taskq")):
            with sides.worker(side, "--statedb", "revoked.db") as log:
                # A worker that is ready listens a moment later.
                replies = wait_until(lambda: app.control.broadcast("revoked", **asked), "an answer",
                                     report=log.read_text)  # fmt: skip
                (known,) = replies[0].values()
                assert sorted(known) == [f"id-{each}" for each in range(number)], side
                app.control.broadcast("revoke", {"task_id": [f"id-{number}"]}, **asked)
