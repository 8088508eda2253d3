"""A worker or client that is started wrongly: one clear message, the right exit code, no secret."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from journey.harness import Worker, client, run_taskq, write_project
from kombu.exceptions import OperationalError
from kombu.transport import pyamqp

from taskq import App
from taskq.exceptions import ImproperlyConfigured

SECRET = "s3cr3t"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    write_project(folder)
    (folder / "broken.py").write_text("raise RuntimeError('no luck today')\n")
    return folder


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nobody else can get, and on which nobody listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nosuch", ["The module nosuch was not found", "Expected -A module"]),
        ("proj:nope", ["Module 'proj' has no attribute 'nope'", "as in proj:app"]),
        ("broken", ["the following error occurred", "RuntimeError: no luck today"]),
    ],
)
def test_wrong_app(folder: Path, name: str, said: list[str]) -> None:
    done = run_taskq(folder, "-A", name, "worker", "-P", "solo")
    assert done.returncode == 2
    assert "Unable to load celery application" in done.stdout
    for text in said:
        assert text in done.stdout


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["worker", "-P", "sollo"], 2, "unknown worker pool 'sollo'; did you mean 'solo'?"),
        (
            ["worker", "-P", "solo", "-Q", "q" * 300],
            1,
            "cannot be the name of a queue: it is longer than 255 bytes in UTF-8. Give 1 to 255",
        ),
        (["worker", "-P", "solo", "-c", "many"], 2, "non-negative integer or 'auto', got 'many'"),
        (
            ["worker", "-P", "solo", "worker.prefetch_multiplier=many"],
            2,
            "worker_prefetch_multiplier: cannot use 'many'",
        ),
        (["worker", "-P", "solo", "-I", "nomod"], 1, "There is no module 'nomod' to import tasks"),
        (["workr"], 2, "Did you mean one of these?\n    worker"),
    ],
)
def test_wrong_option(folder: Path, options: list[str], code: int, said: str) -> None:
    done = run_taskq(folder, "-A", "proj", *options)
    assert (done.returncode, "Traceback" in done.stdout) == (code, False), done.stdout
    assert said in done.stdout


@pytest.mark.parametrize(
    ("option", "url", "said"),
    [
        ("--result-backend", "redsi://", "unknown result backend 'redsi'; did you mean 'redis'?"),
        ("--broker", "redsi://", "unknown broker transport 'redsi'; did you mean 'redis'?"),
        ("--broker", "sqlite://q.db", "did you mean 'sqlite:///q.db'?"),
        ("--broker", "sqlite:///q.db?timeot=3", "unknown option 'timeot'; did you mean 'timeout'?"),
    ],
)
def test_unknown_broker_or_backend(folder: Path, option: str, url: str, said: str) -> None:
    if url.endswith("://"):
        url += f"joe:{SECRET}@host/1"
    done = run_taskq(folder, "-A", "proj", option, url, "worker", "-P", "solo")
    assert (done.returncode, "Traceback" in done.stdout) == (1, False), done.stdout
    assert said in done.stdout
    assert SECRET not in done.stdout


def test_a_wrong_setting_ends_the_worker_at_once(folder: Path) -> None:
    write_project(folder, "app.conf.update(result_expires=[1])", name="wrong")
    done = run_taskq(folder, "-A", "wrong", "worker", "-P", "solo")
    assert (done.returncode, "Traceback" in done.stdout) == (1, False), done.stdout
    assert (
        "Error: result_expires: expected a number or a timedelta, got [1] (list). "
        "Change it, or remove it to use the default" in done.stdout
    )
    limited = "app.task(name='proj.tenth', rate_limit='10/x')(print)"
    write_project(folder, limited, name="wronglimit")
    done = run_taskq(folder, "-A", "wronglimit", "worker", "-P", "solo")
    assert (done.returncode, "Traceback" in done.stdout) == (1, False), done.stdout
    assert "Error: the task proj.tenth: '10/x' is not a rate limit; write a" in done.stdout
    write_project(folder, "app.conf.worker_pool = 'sollo'", name="wrongpool")
    env = {"TASKQ_WORKER_POOL": ""}
    done = run_taskq(folder, "-A", "wrongpool", "worker", env=env)
    assert (done.returncode, "Traceback" in done.stdout) == (1, False), done.stdout
    assert "unknown worker pool 'sollo'; did you mean 'solo'?" in done.stdout


def test_a_wrong_setting_is_found_by_whoever_reads_it() -> None:
    app = App("wrong", set_as_current=False)
    app.conf.task_acks_late = "maybe"
    with pytest.raises(ImproperlyConfigured, match="task_acks_late: expected true or false, got"):
        app.conf.task_acks_late
    app.conf.task_acks_late = True
    app.conf.broker_read_url = f"amqp://joe:{SECRET}@host//", 5
    with pytest.raises(ImproperlyConfigured) as error:
        app.conf.broker_pool_limit = f"amqp://joe:{SECRET}@host//"
        app.conf.finalize()
    assert "broker_pool_limit: expected a whole number" in str(error.value)
    assert SECRET not in str(error.value)


def test_misspelled_settings_are_warned_of_once(folder: Path) -> None:
    settings = "task_acks_lat=True, worker_prefetch_multiplyer=3, my_own_setting=1"
    write_project(folder, f"app.conf.update({settings})", name="misspelled")
    with Worker(folder, app="misspelled") as worker:
        (line,) = [line for line in worker.log.splitlines() if "misspelled?" in line]
    assert "WARNING" in line
    assert "task_acks_lat (did you mean task_acks_late?)" in line
    assert "worker_prefetch_multiplyer (did you mean worker_prefetch_multiplier?)" in line
    assert "my_own_setting" not in line


@pytest.mark.parametrize("name", ["", "q" * 300, "a\0b", 5])
def test_a_queue_name_that_cannot_be(tmp_path: Path, name: object) -> None:
    app = client(tmp_path)
    with pytest.raises(ImproperlyConfigured, match=r"cannot be the name of a queue: it .* Give 1"):
        app.send_task("proj.add", (1, 2), queue=name)
    with pytest.raises(ValueError, match="cannot be the name of a queue"):
        app.amqp.queues.select_add(name)


def test_a_worker_without_its_broker_retries_and_gives_up(folder: Path, closed_port: int) -> None:
    url = f"amqp://joe:{SECRET}@127.0.0.1:{closed_port}//"
    write_project(folder, "app.conf.broker_connection_max_retries = 1", name="away")
    options = {"app": "away", "globals_": ("-b", url), "ready": False, "level": "DEBUG"}
    with Worker(folder, **options) as worker:
        assert worker.wait_end() == 1
    log = worker.log
    masked = f"amqp://joe:**@127.0.0.1:{closed_port}//"
    assert f"consumer: Cannot connect to {masked}: [Errno 111] Connection refused" in log
    assert "Trying again in 2.00 seconds... (1/1)" in log
    assert re.search(
        rf"CRITICAL.*cannot connect to {re.escape(masked)}: \[Errno 111\] Connection refused\. "
        r"Gave up after 1 retries \(broker_connection_max_retries\)\. Is the broker running, and "
        r"is broker_url right\?",
        log,
    )
    assert SECRET not in log


def test_a_worker_that_may_not_retry_ends_at_once(folder: Path, closed_port: int) -> None:
    url = f"amqp://joe:{SECRET}@127.0.0.1:{closed_port}//"
    setting = "broker.connection_retry_on_startup=no"
    with Worker(folder, setting, globals_=("-b", url), ready=False) as worker:
        assert worker.wait_end() == 1
    assert "app.conf.broker_connection_retry_on_startup=False" in worker.log
    assert "Traceback" not in worker.log
    assert SECRET not in worker.log


def test_commands_without_a_broker(folder: Path, closed_port: int) -> None:
    url = f"amqp://joe:{SECRET}@127.0.0.1:{closed_port}//"
    write_project(folder, "app.conf.broker_connection_timeout = 0.2", name="quick")
    for command, code in ((["status"], 69), (["call", "proj.add"], 1)):
        done = run_taskq(folder, "-A", "quick", "-b", url, *command)
        assert (done.returncode, "Traceback" in done.stdout) == (code, False), done.stdout
        assert f"the broker amqp://joe:**@127.0.0.1:{closed_port}//" in done.stdout
        assert SECRET not in done.stdout


@pytest.mark.parametrize("retry", [True, False])
def test_publishing_without_a_broker(
    closed_port: int, retry: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"amqp://joe:{SECRET}@127.0.0.1:{closed_port}//"
    app = App("nobody", broker=url, backend="disabled://", set_as_current=False)
    tries: list[Any] = []
    connect = pyamqp.Transport.establish_connection

    def counting(transport: Any) -> Any:
        tries.append(transport)
        return connect(transport)

    monkeypatch.setattr(pyamqp.Transport, "establish_connection", counting)
    with pytest.raises(OperationalError) as error:
        app.send_task("proj.add", (1, 2), retry=retry)
    assert len(tries) == (4 if retry else 1)
    assert str(error.value) == (
        f"cannot send to the broker amqp://joe:**@127.0.0.1:{closed_port}//: [Errno 111] "
        "Connection refused. Is it running, and is the setting broker_url right?"
    )
