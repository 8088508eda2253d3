"""A worker as a process of its own: `python -m taskq -A ... worker`, its signals and exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import PATIENCE_S, wait_until

from taskq import App

MODULE = """
import os
import time
from pathlib import Path

from taskq import App
from taskq.exceptions import Ignore, Reject

HERE = Path(__file__).parent
app = App("journey")
app.conf.update(
    broker_url=f"sqlite:///{HERE}/broker.db",
    broker_transport_options={"lease": 2},
    result_backend=f"sqlite:///{HERE}/broker.db",
)


@app.task(name="add")
def add(x, y):
    return x + y


def note(text):
    with (HERE / "runs.log").open("a") as file:
        file.write(text + "\\n")


@app.task(name="hold")
def hold(name):
    note(name)
    while not (HERE / "go").exists():
        time.sleep(0.01)
    return name


late_hold = app.task(name="late_hold", acks_late=True)(hold.run)


@app.task(name="ignore")
def ignore():
    note("ignore")
    raise Ignore()


@app.task(name="leave")
def leave():
    raise SystemExit(3)
"""


class Project:
    """A folder with an application, and workers that serve it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "proj.py").write_text(MODULE)
        url = f"sqlite:///{folder}/broker.db"
        self.app = App("client", broker=url, backend=url, set_as_current=False)
        self.workers: list[subprocess.Popen[bytes]] = []

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "taskq", *arguments],
            cwd=self.folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def start(self, *options: str, app: str = "proj") -> subprocess.Popen[bytes]:
        """A worker that takes messages."""
        log = self.folder / f"worker{len(self.workers)}.log"
        command = [sys.executable, "-m", "taskq", "-A", app, "worker", "-P", "solo"]
        with log.open("wb") as output:
            worker = subprocess.Popen(
                [*command, "-l", "INFO", *options],
                cwd=self.folder,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.workers.append(worker)
        wait_until(lambda: " ready." in log.read_text(), "ready", report=log.read_text)
        return worker

    def log(self, number: int = 0) -> str:
        return (self.folder / f"worker{number}.log").read_text()

    def runs(self) -> list[str]:
        path = self.folder / "runs.log"
        return path.read_text().split() if path.exists() else []

    def wait_for_run(self, name: str, times: int = 1) -> None:
        wait_until(lambda: self.runs().count(name) >= times, name, report=self.log)

    def let_go(self) -> None:
        (self.folder / "go").touch()


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path)
    yield project
    for worker in project.workers:
        worker.kill()
        worker.wait()
    project.app.close()


def test_a_worker_runs_tasks_and_says_what_it_is(project: Project) -> None:
    worker = project.start("-n", "w1@here")
    add = project.app.send_task("add", (2, 3))
    assert add.get(timeout=PATIENCE_S) == 5
    left = project.app.send_task("leave")
    with pytest.raises(Exception, match="SystemExit"):
        left.get(timeout=PATIENCE_S)
    ignored = project.app.send_task("ignore")
    project.wait_for_run("ignore")
    assert ignored.state == "PENDING"
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE_S) == 0
    banner = project.log()
    assert "w1@here v5.7" in banner
    assert f".> transport:   sqlite:///{project.folder}/broker.db" in banner
    assert f".> results:     sqlite:///{project.folder}/broker.db" in banner
    assert ".> celery           exchange=celery(direct) key=celery" in banner
    assert "  . add\n" in banner
    assert "w1@here ready." in banner
    assert f"Task add[{add.id}] received" in banner
    assert f"Task add[{add.id}] succeeded in" in banner


def test_messages_that_cannot_be_handled_do_not_stop_a_worker(project: Project) -> None:
    project.start()
    headers = {"task": "add", "id": "odd"}
    with project.app.connection_for_write() as connection:
        publish = connection.Producer().publish
        publish(b"{", content_type="application/json", content_encoding="utf-8",
                headers=headers, routing_key="celery")  # fmt: skip
        publish(b"x", content_type="application/x-odd", content_encoding="binary",
                headers=headers, routing_key="celery")  # fmt: skip
        publish([1, 2], serializer="json", headers=headers, routing_key="celery")
        publish([[], {}, [1]], serializer="json", headers=headers, routing_key="celery")
        publish([[1, 2], {}, {}], serializer="json", headers={"task": "add"}, routing_key="celery")
        publish([[1, 2], {}, {}], serializer="json", routing_key="celery",
                headers={**headers, "eta": "soon"})  # fmt: skip
        publish({"hello": "x" * 100_000}, serializer="json", routing_key="celery")
        publish(["hello"], serializer="json", routing_key="celery")
    unknown = project.app.send_task("ad", ("x" * 100_000,))
    with pytest.raises(Exception, match="ad"):
        unknown.get(timeout=PATIENCE_S)
    assert project.app.send_task("add", (1, 1)).get(timeout=PATIENCE_S) == 2
    log = project.log()
    assert "Can't decode message body" in log
    assert "Refusing to deserialize untrusted content of type application/x-odd" in log
    assert "Received unregistered task of type 'ad'" in log
    assert "Did you mean 'add'?" in log
    assert "invalid ETA value 'soon'" in log
    assert log.count("Received invalid task message") == 5
    assert log.count("Received and deleted unknown message") == 2
    assert len(log) < 60_000


def test_term_finishes_what_runs_and_gives_the_rest_back(project: Project) -> None:
    worker = project.start()
    running = project.app.send_task("hold", ("first",))
    project.wait_for_run("first")
    waiting = [project.app.send_task("add", (n, 1)) for n in range(3)]
    worker.send_signal(signal.SIGTERM)
    project.let_go()
    assert worker.wait(PATIENCE_S) == 0
    assert running.get(timeout=PATIENCE_S) == "first"
    assert "Warm shutdown (MainProcess)" in project.log()
    assert [result.state for result in waiting] == ["PENDING"] * 3
    project.start()
    assert [result.get(timeout=PATIENCE_S) for result in waiting] == [1, 2, 3]


def test_an_idle_worker_does_not_stop_at_its_next_look_but_at_once(project: Project) -> None:
    (project.folder / "idle.py").write_text(
        "from taskq.transports import sqlite\nsqlite.SLOW_LOOK_S = 3600.0\nfrom proj import app\n"
    )
    worker = project.start("--without-heartbeat", app="idle")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE_S) == 0


def test_int_is_warm_and_a_second_one_is_cold(project: Project) -> None:
    worker = project.start()
    late = project.app.send_task("late_hold", ("late",))
    project.wait_for_run("late")
    worker.send_signal(signal.SIGINT)
    wait_until(lambda: "Warm shutdown" in project.log(), "warm", report=project.log)
    worker.send_signal(signal.SIGINT)
    assert worker.wait(PATIENCE_S) == 1
    assert late.state == "PENDING"
    project.let_go()
    project.start()
    assert late.get(timeout=PATIENCE_S) == "late"
    assert project.runs() == ["late", "late"]


def test_quit_ends_the_running_task(project: Project) -> None:
    worker = project.start()
    early = project.app.send_task("hold", ("early",))
    project.wait_for_run("early")
    worker.send_signal(signal.SIGQUIT)
    assert worker.wait(PATIENCE_S) == 1
    assert "Cold shutdown" in project.log()
    project.let_go()
    project.start()
    # Acknowledged when it started: a crash does not repeat a task that did not ask for it.
    assert project.app.send_task("add", (1, 1)).get(timeout=PATIENCE_S) == 2
    assert project.runs() == ["early"]
    assert early.state == "RETRY"


def test_kill_9_repeats_late_tasks_only(project: Project) -> None:
    worker = project.start()
    project.app.send_task("late_hold", ("late",))
    project.wait_for_run("late")
    worker.kill()
    worker.wait()
    project.let_go()
    project.start()
    project.wait_for_run("late", times=2)
    worker = project.workers[-1]
    (project.folder / "go").unlink()
    project.app.send_task("hold", ("early",))
    project.wait_for_run("early")
    worker.kill()
    worker.wait()
    project.let_go()
    project.start()
    assert project.app.send_task("add", (1, 1)).get(timeout=PATIENCE_S) == 2
    assert project.runs().count("early") == 1


def test_remote_shutdown_is_warm(project: Project) -> None:
    worker = project.start("-n", "w2@here")
    assert project.app.control.ping(timeout=PATIENCE_S, limit=1) == [{"w2@here": {"ok": "pong"}}]
    project.app.control.shutdown()
    assert worker.wait(PATIENCE_S) == 0


def test_a_wrong_application_is_told_on_standard_error(project: Project) -> None:
    ended = project.run("-A", "nowhere", "worker")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Unable to load celery application." in ended.stderr
