"""The embedded broker's file is locked, full, broken or away: said clearly, nothing lost."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from contract.processes import Forked
from journey.harness import (
    Worker,
    client,
    count_messages,
    environment,
    run_taskq,
    write_project,
)
from kombu.exceptions import OperationalError
from patience import PATIENCE_S, wait_until

from taskq import App
from taskq.utils.sqlite import Database

#: Tasks that wait for a file named go, so that a test can break things while they run.
HELD = """
import time

app.conf.broker_url = app.conf.result_backend = "sqlite:///q.db?timeout=0.1"
app.conf.broker_connection_max_retries = 1

def wait():
    open("holding", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.005)
    return "held"

app.task(wait, name="proj.held")
app.task(wait, name="proj.held_late", acks_late=True)
"""

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.readline()
connection.execute("ROLLBACK")
"""


class Lock:
    """Another program that keeps the file locked until `release`."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def release(self) -> None:
        self.process.communicate("\n", timeout=PATIENCE_S)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.release()


def impatient(folder: Path) -> App:
    """A client that waits only 0.1 s for the file."""
    app = client(folder)
    app.conf.broker_url = app.conf.result_backend = f"sqlite:///{folder}/q.db?timeout=0.1"
    return app


@contextmanager
def full_disk(pid: int, size: int) -> Iterator[None]:
    """A process cannot write beyond `size` bytes of any file, as on a full disk."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
    yield
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))


# -- a locked file


LOCKED = r"q\.db: other programs kept this database locked for 0\.1 s .* Look for one that holds"


def counted(function: Callable[..., Any], calls: list[Any]) -> Callable[..., Any]:
    def counting(*args: Any) -> Any:
        calls.append(args)
        return function(*args)

    return counting


def test_publishing_waits_for_a_lock_and_then_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = impatient(tmp_path)
    app.send_task("proj.add", (1, 2))
    with Lock(tmp_path / "q.db"):
        for retry in (True, False):
            tries: list[Any] = []
            for way in ("write", "write_one"):
                monkeypatch.setattr(Database, way, counted(getattr(Database, way), tries))
            with pytest.raises(OperationalError, match=LOCKED):
                app.send_task("proj.add", (1, 2), retry=retry)
            # Once the timeout of the URL, not once for each retry.
            assert len(tries) == 1
            monkeypatch.undo()
    with Lock(tmp_path / "q.db") as lock:
        patient = Forked(lambda tell: (tell(1), client(tmp_path).send_task("proj.add", (3, 4))))
        patient.hear()
        lock.release()
        assert patient.join() == 0
    assert count_messages(tmp_path) == 2


def test_a_worker_outlives_a_lock_while_a_task_ends(tmp_path: Path) -> None:
    write_project(tmp_path, HELD)
    app = client(tmp_path)
    with Worker(tmp_path) as worker:
        for name in ("proj.held", "proj.held_late"):
            result = app.send_task(name)
            wait_until((tmp_path / "holding").exists, "the task runs")
            with Lock(tmp_path / "q.db"):
                (tmp_path / "go").touch()
                log = worker.wait_for_log(f"Task {result.id}: its outcome cannot be stored yet")
                assert "Look for one that holds a transaction open" in log
            assert result.get(timeout=PATIENCE_S) == "held"
            worker.wait_for_log(f"{name}[{result.id}] succeeded")
            (tmp_path / "go").unlink()
            (tmp_path / "holding").unlink()
        assert app.send_task("proj.add", (1, 2)).get(timeout=PATIENCE_S) == 3
        with Lock(tmp_path / "q.db"):
            # A lock for ever does not keep a worker from stopping.
            assert worker.stop() == 0
        assert worker.log.count("proj.held_late[") == 2, "received and run once"
    assert count_messages(tmp_path) == 0


@pytest.mark.long
def test_a_worker_that_starts_while_the_file_is_locked(tmp_path: Path) -> None:
    write_project(tmp_path, HELD)
    app = client(tmp_path)
    result = app.send_task("proj.add", (1, 2))
    with Lock(tmp_path / "q.db") as lock, Worker(tmp_path, ready=False) as worker:
        log = worker.wait_for_log("Trying again in 2.00 seconds... (1/1)")
        assert "other programs kept this database locked for 0.1 s" in log
        lock.release()
        assert result.get(timeout=PATIENCE_S) == 3
    with Lock(tmp_path / "q.db"), Worker(tmp_path, ready=False) as worker:
        assert worker.wait_end() == 1
        log = worker.log
    assert log.count("Unrecoverable error") == 1
    last = log.partition("Unrecoverable")[2]
    assert "Look for one that holds a transaction open" in last
    assert "Gave up after 1 retries (broker_connection_max_retries)" in last
    assert "Traceback" not in log


# -- a full disk


PUBLISHER = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from journey.harness import *
from kombu.exceptions import OperationalError
app = client(Path("."))
app.send_task("proj.echo", (0,))
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
sent = 1
try:
    while True:
        app.send_task("proj.echo", ("x" * 50_000,))
        sent += 1
except OperationalError as exc:
    print(sent, exc)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
app.send_task("proj.echo", (0,))
"""


def test_publishing_on_a_full_disk(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PUBLISHER, str(Path(__file__).parents[1])],
        cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    sent, _, message = done.stdout.partition(" ")
    assert "q.db: there was no room to write" in message
    assert "Nothing of this change was stored; free some space" in message
    # All that was sent before and after is there, and nothing else.
    assert count_messages(tmp_path) == int(sent) + 1


def test_a_worker_on_a_full_disk_goes_on_when_there_is_room(tmp_path: Path) -> None:
    write_project(tmp_path, HELD)
    app = client(tmp_path)
    with Worker(tmp_path) as worker:
        held = app.send_task("proj.held")
        wait_until((tmp_path / "holding").exists, "the task runs")
        results = [app.send_task("proj.length", ("x" * 200_000,)) for _ in range(3)]
        with full_disk(worker.process.pid, 300_000):
            (tmp_path / "go").touch()
            log = worker.wait_for_log(f"Task {held.id}: its outcome cannot be stored yet")
            assert "q.db: there was no room to write" in log
            assert "free some space" in log
        assert held.get(timeout=PATIENCE_S) == "held"
        assert [result.get(timeout=PATIENCE_S) for result in results] == [200_000] * 3
        with full_disk(worker.process.pid, 300_000):
            last = app.send_task("proj.length", ("x" * 300_000,))
            log = worker.wait_for_log("The broker could not be reached, trying again soon")
        assert last.get(timeout=PATIENCE_S) == 300_000
        assert "Connection to broker lost" not in worker.log
    assert count_messages(tmp_path) == 0


# -- a file that cannot be used


def make_text(path: Path) -> None:
    path.write_text("Dear diary, this is not a database.\n" * 99)


def make_other_version(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE taskq_schema (part TEXT PRIMARY KEY, version INTEGER)")
        connection.execute("INSERT INTO taskq_schema VALUES ('broker', 99), ('results', 99)")
    connection.close()


UNUSABLE = {
    "not a database": (make_text, "is not a usable SQLite database", "choose another path, or"),
    "a directory": (Path.mkdir, "is a directory; expected a path for a", "database file"),
    "no directory": (lambda path: path.parent.rmdir(), "there is no directory", "create it, or"),
    "from a later version": (make_other_version, "have version 99, this taskq", "Upgrade taskq"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_file_that_cannot_be_used(tmp_path: Path, name: str) -> None:
    make, wrong, advice = UNUSABLE[name]
    path = tmp_path / "sub" / "q.db"
    path.parent.mkdir()
    make(path)
    write_project(tmp_path)
    url = f"sqlite:///{path}"
    app = App("client", broker=url, backend="disabled://", set_as_current=False)
    with pytest.raises(OperationalError, match=wrong) as error:
        app.send_task("proj.add", (1, 2))
    assert str(path) in str(error.value)
    assert advice in str(error.value)
    for results in (url, "disabled://"):
        done = run_taskq(
            tmp_path, "-b", url, "--result-backend", results, "-A", "proj", "worker", "-P", "solo"
        )
        assert done.returncode == 1
        assert "Traceback" not in done.stdout
        assert f"Unrecoverable error: {path}" in done.stdout
        assert wrong in done.stdout
        assert advice in done.stdout


@pytest.fixture
def readable_folder() -> Iterator[Path]:
    """A folder that other users may enter."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (0o000, "q.db cannot be opened for writing"),
        (0o444, "q.db cannot be opened for writing"),
        (None, "cannot be created (Permission denied); let this user write to"),
    ],
)
def test_a_file_without_permission(readable_folder: Path, mode: int | None, said: str) -> None:
    path = readable_folder / "q.db"
    if mode is not None:
        impatient(readable_folder).send_task("proj.add", (1, 2))
        path.chmod(mode)
    readable_folder.chmod(0o555)

    def publish(tell) -> None:
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        try:
            client(readable_folder).send_task("proj.add", (1, 2))
        except OperationalError as exc:
            tell(str(exc))

    child = Forked(publish)
    message = child.hear()
    assert child.join() == 0
    readable_folder.chmod(0o755)
    assert str(path) in message
    assert said in message
    assert "let this user write to" in message


def test_a_results_file_that_breaks_while_the_worker_runs(tmp_path: Path) -> None:
    write_project(tmp_path, HELD + "app.conf.result_backend = 'sqlite:///results.db'\n")
    app = client(tmp_path)
    app.conf.result_backend = f"sqlite:///{tmp_path}/results.db"
    with Worker(tmp_path) as worker:
        assert app.send_task("proj.add", (1, 2)).get(timeout=PATIENCE_S) == 3
        for end in ("", "-wal", "-shm"):
            (tmp_path / f"results.db{end}").unlink(missing_ok=True)
        make_text(tmp_path / "results.db")
        lost = app.send_task("proj.add", (3, 4))
        log = worker.wait_for_log(f"proj.add[{lost.id}]: outcome not stored or told")
        assert "results.db is not a usable SQLite database" in log
        assert "choose another path, or move this file away" in log
        (tmp_path / "results.db").unlink()
        assert app.send_task("proj.add", (5, 6)).get(timeout=PATIENCE_S) == 11
        assert "Connection to broker lost" not in worker.log
