"""A real worker for tests: a process of its own, its log, and waiting for things with a deadline.

    from journey.harness import Worker, write_project

    write_project(tmp_path)                       # proj.py, broker and results in tmp_path/q.db
    with Worker(tmp_path) as worker:              # is ready here; must end with exit code 0
        ...
        worker.wait_for_log("succeeded")
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from patience import PATIENCE_S, wait_until

from taskq import App

PROJECT = """
import os
from taskq import App

app = App("proj", broker="sqlite:///q.db", backend="sqlite:///q.db")


@app.task(name="proj.add")
def add(x, y):
    return x + y


@app.task(name="proj.length")
def length(text):
    return len(text)


@app.task(name="proj.echo")
def echo(value):
    return value
"""


def write_project(folder: Path, text: str = "", name: str = "proj") -> None:
    """Write the module of an application; `text` comes after PROJECT."""
    (folder / f"{name}.py").write_text(PROJECT + text)


def client(folder: Path, **settings: Any) -> App:
    """An application that talks to the worker of `folder`."""
    url = f"sqlite:///{folder}/q.db"
    app = App("client", broker=url, backend=url, set_as_current=False)
    app.conf.update(settings)
    return app


def count_messages(folder: Path, queue: str = "celery") -> int:
    """Messages that wait in a queue of the folder's broker."""
    with client(folder).connection_for_write() as connection:
        return int(connection.default_channel._size(queue))


def environment(folder: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process that imports the modules of `folder`."""
    # Warnings are not what these tests read; being root would bring one.
    return {**os.environ, "PYTHONPATH": str(folder), "PYTHONWARNINGS": "ignore", **(extra or {})}


def run_taskq(
    folder: Path, *arguments: str, env: Mapping[str, str] | None = None, seconds: float = PATIENCE_S
) -> subprocess.CompletedProcess[str]:
    """Run `taskq ARGUMENTS` to its end; standard error is in `stdout` too."""
    return subprocess.run(
        [sys.executable, "-m", "taskq", *arguments],
        cwd=folder, env=environment(folder, env), timeout=seconds,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


class Worker:
    """`taskq -A proj worker -P solo` as a process.

    Arguments: the folder it runs in; options of the worker; `app`, what -A says; `globals_`,
    options before `worker`; `env`, more environment; `ready`, whether entering the block waits
    until it takes messages; `preexec`, called in the new process before Python starts.
    """

    started = 0

    def __init__(
        self,
        folder: Path,
        *options: str,
        app: str = "proj",
        globals_: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
        ready: bool = True,
        preexec: Callable[[], None] | None = None,
        level: str = "INFO",
    ) -> None:
        Worker.started += 1
        self.name = f"w{Worker.started}@test"
        self.log_file = folder / f"{self.name}.log"
        self.must_be_ready = ready
        with self.log_file.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "taskq", "-A", app, *globals_, "worker",
                 "-P", "solo", "-n", self.name, "-l", level, *options],
                cwd=folder, env=environment(folder, env), preexec_fn=preexec,
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    @property
    def log(self) -> str:
        """Everything it has printed and logged so far."""
        return self.log_file.read_text(errors="replace")

    def wait_for_log(self, text: str, seconds: float = PATIENCE_S, times: int = 1) -> str:
        """The log, once `text` stands in it (`times` times); fails when the worker ends before."""

        def seen() -> str | None:
            log = self.log
            if log.count(text) >= times:
                return log
            assert self.process.poll() is None or self.log.count(text) >= times, (
                f"the worker ended ({self.process.returncode}) without saying {text!r}:\n{log}"
            )
            return None

        return wait_until(seen, f"log: {text!r}", seconds, lambda: self.log) or ""

    def wait_ready(self) -> Worker:
        """Wait until it takes messages."""
        self.wait_for_log(f"{self.name} ready.")
        return self

    def wait_end(self, seconds: float = PATIENCE_S) -> int:
        """Its exit code, once it has ended by itself."""
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds:g} s:\n{self.log}") from None

    def stop(self, sig: int = signal.SIGTERM, seconds: float = PATIENCE_S) -> int:
        """Send a signal; its exit code."""
        self.process.send_signal(sig)
        return self.wait_end(seconds)

    def kill(self) -> None:
        """End it, however it is."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Worker:
        if self.must_be_ready:
            try:
                self.wait_ready()
            except BaseException:
                self.kill()
                raise
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *exc_info: object) -> None:
        try:
            if exc_type is None and self.process.poll() is None:
                code = self.stop()
                assert code == 0, f"exit code {code}:\n{self.log}"
        finally:
            self.kill()
