"""What a check gets that runs on taskq and on Celery 5.7.0 alike: a pytest plugin for one side.

A check is a plain test function named after its number in the list of behaviours. It imports from
`celery` only: on one side that is taskq (`install_as_celery`), on the other the real package.

    def test_036_retry_keeps_the_id(app, worker, sent):
        @app.task(bind=True)
        def flaky(self): ...

        result = worker.finish(flaky.delay())     # starts a worker, waits until the result is ready
        assert [message.headers["id"] for message in sent] == [result.id, result.id]

- `app`: a new Celery on an in-memory broker with in-memory results. It is the default application
  while the test runs, and nothing that one test registers or connects is seen by the next.
- `worker`: a solo worker of `app` in a thread of this process, so `caplog`, signal handlers and
  lists of the test see what tasks do. It starts with `worker.start(**options)` or the first
  `finish`; define the tasks before. Starting and stopping take milliseconds.
- `sent`: every task message published from here, by the test and by the worker.
- `program(source, *options)`: a real `celery -A proj worker` (prefork unless told otherwise) for
  what needs children, the command line or real logging. Source goes below `app` in proj.py;
  `program.app` calls its tasks by name, `program.log` is all it has printed.
- `eventually(condition, "what")`: the condition's value once it is true, or a failure.

Checks of files that hold a `test_NNN_` are not collected by a usual run: test_behaviours.py
starts them, once per side. Run some of them on both sides:

    python -m pytest tests/compat -m "" -k "036 or 037"
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from patience import PATIENCE_S, wait_until

SIDE = os.environ["COMPAT_SIDE"]
if SIDE == "taskq":
    import taskq

    taskq.install_as_celery()

from celery import Celery, _state, signals  # noqa: E402
from celery.utils.dispatch import Signal  # noqa: E402
from celery.worker import WorkController  # noqa: E402
from kombu.transport.memory import Channel, Transport  # noqa: E402

#: What a program of this side begins with.
AS_CELERY = "import taskq; taskq.install_as_celery()\n" if SIDE == "taskq" else ""


@pytest.fixture
def eventually() -> Callable[..., Any]:
    return wait_until


@pytest.fixture(autouse=True)
def _fresh_process() -> Iterator[None]:
    """Signal receivers, shared tasks and the in-memory broker are as before the test."""
    # Applications of earlier tests that nobody has collected yet would get shared tasks.
    _state._apps.clear()
    every = [each for each in vars(signals).values() if isinstance(each, Signal)]
    receivers = [(each, each.receivers and each.receivers[:]) for each in every]
    finalizers = _state._on_app_finalizers.copy()
    default = _state.default_app
    yield
    for each, kept in receivers:
        each.receivers = kept
        if SIDE == "celery":
            each.sender_receivers_cache.clear()
    _state._on_app_finalizers.clear()
    _state._on_app_finalizers.update(finalizers)
    _state.set_default_app(default)
    Channel.queues.clear()
    Transport.global_state.clear()


@pytest.fixture
def app() -> Iterator[Celery]:
    """The application of this test, on memory alone."""
    made = Celery("tests", broker="memory://", backend="cache+memory://")
    made.conf.update(
        broker_transport_options={"polling_interval": 0.005}, worker_hijack_root_logger=False
    )
    # The worker's thread has no current application of its own.
    made.set_default()
    yield made
    made.close()


class Sent(NamedTuple):
    """A task message as it was published."""

    name: str
    body: Any
    headers: dict[str, Any]
    properties: dict[str, Any]
    exchange: str
    routing_key: str

    @property
    def args(self) -> Any:
        return self.body[0]

    @property
    def kwargs(self) -> Any:
        return self.body[1]

    @property
    def embed(self) -> Any:
        """What the body says of callbacks, errbacks, chain and chord."""
        return self.body[2]


@pytest.fixture
def sent() -> list[Sent]:
    """The task messages that this process has published since the test began, oldest first."""
    messages: list[Sent] = []

    def keep(sender: str, body: Any, headers: Any, properties: Any, **more: Any) -> None:
        where = (more.get("exchange") or "", more.get("routing_key") or "")
        messages.append(Sent(sender, body, dict(headers), dict(properties), *where))

    signals.before_task_publish.connect(keep, weak=False)
    return messages


class Worker:
    """A worker in a thread."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.thread: threading.Thread | None = None

    def start(self, **options: Any) -> Worker:
        """Begin to take messages; `options` are those of WorkController."""
        ready = threading.Event()

        class Controller(WorkController):
            def on_consumer_ready(self, consumer: Any) -> None:
                ready.set()

        given = {
            "pool": "solo", "concurrency": 1, "hostname": "compat@test", "loglevel": "INFO",
            "without_gossip": True, "without_mingle": True, "without_heartbeat": True, **options,
        }  # fmt: skip
        self.controller = Controller(app=self.app, **given)
        self.thread = threading.Thread(target=self.controller.start, daemon=True)
        self.thread.start()
        assert ready.wait(PATIENCE_S), "the worker did not start"
        # A solo worker believes to own its process; here the test waits for results in it.
        _state._set_task_join_will_block(False)
        return self

    def finish(self, result: Any) -> Any:
        """Wait until the result is ready, with a worker running; the result itself."""
        if self.thread is None:
            self.start()
        wait_until(result.ready, f"{result!r} is ready")
        return result

    def stop(self) -> None:
        if self.thread is not None:
            self.app.control.broadcast("shutdown")
            self.thread.join(PATIENCE_S)
            assert not self.thread.is_alive(), "the worker did not stop"
            self.thread = None


@pytest.fixture
def worker(app: Celery) -> Iterator[Worker]:
    """A worker of `app`; not started yet."""
    made = Worker(app)
    yield made
    made.stop()


PROJECT = """
import json, os
from celery import Celery

app = Celery("proj")
app.conf.update(json.loads(os.environ["COMPAT_SETTINGS"]))

"""


class Program:
    """A worker as a process of its own, and an application that calls it."""

    def __init__(self, folder: Path, source: str, options: tuple[str, ...], pool: str) -> None:
        self.has_children = pool != "solo"
        (folder / "proj.py").write_text(PROJECT + textwrap.dedent(source))
        settings = _settings_of(folder)
        self.app = Celery("client", set_as_current=False)
        # Messages are moved in whole: kombu's reader takes one that is still being written.
        self._outbox, self._inbox = folder / "outbox", folder / "messages"
        options_here = settings["broker_transport_options"] | {"data_folder_out": str(self._outbox)}
        self.app.conf.update(settings, broker_transport_options=options_here)
        environment = {
            **os.environ, "PYTHONPATH": str(folder), "PYTHONWARNINGS": "ignore",
            "COMPAT_SETTINGS": json.dumps(settings),
        }  # fmt: skip
        command = ["taskq", "--as-celery"] if SIDE == "taskq" else ["celery"]
        self._log = folder / "worker.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command, "-A", "proj", "worker", "-P", pool, "-c", "1",
                 "-l", "INFO", "-n", "compat@test", "--without-gossip", "--without-mingle",
                 *options],
                cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for_log(self, text: str) -> str:
        """The log, once `text` stands in it."""

        def seen() -> bool:
            alive = self.process.poll() is None
            assert text in self.log or alive, f"ended without saying {text!r}:\n{self.log}"
            return text in self.log

        wait_until(seen, text, report=lambda: self.log)
        return self.log

    def call(self, name: str, *args: Any, **options: Any) -> Any:
        """Send `proj.<name>` with these arguments; its AsyncResult."""
        result = self.app.send_task(f"proj.{name}", args, **options)
        for message in self._outbox.iterdir():
            message.replace(self._inbox / message.name)
        return result

    def finish(self, result: Any) -> Any:
        """Wait until the result is ready; the result itself."""
        wait_until(result.ready, f"{result!r} is ready", report=lambda: self.log)
        return result

    def stop(self) -> None:
        """However it ends, nothing stays; who has children ends them by a warm shutdown."""
        try:
            if self.has_children:
                self.process.send_signal(signal.SIGTERM)
                self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
            self.process.wait()
            self.app.close()


def _settings_of(folder: Path) -> dict[str, Any]:
    for name in ("messages", "outbox", "control", "results"):
        (folder / name).mkdir(exist_ok=True)
    results = {"taskq": f"sqlite:///{folder}/results.db", "celery": f"file://{folder}/results"}
    return {
        "broker_url": "filesystem://",
        "result_backend": results[SIDE],
        "broker_transport_options": {
            "data_folder_in": str(folder / "messages"),
            "data_folder_out": str(folder / "messages"),
            "control_folder": str(folder / "control"),
            "polling_interval": 0.02,
        },
        "broker_connection_retry_on_startup": True,
    }


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Start a worker process; `program(source, *options, pool="prefork")` returns when ready."""
    started: list[Program] = []

    def start(source: str = "", *options: str, pool: str = "prefork") -> Program:
        folder = tmp_path / f"program-{len(started)}"
        folder.mkdir()
        started.append(Program(folder, source, options, pool))
        started[-1].wait_for_log(" ready.")
        return started[-1]

    yield start
    for each in started:
        each.stop()
