"""Workers as processes, embedded broker or another, to be killed, stopped and started again.

Each run of a task of `chaosapp` leaves a line in runs.log when it starts, as one write, so that
what a killed worker did is known to the last task.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from patience import PATIENCE_S, wait_until

from taskq import App

MODULE = """
import json, os, time
from taskq import App

app = App("chaos", broker=os.environ["BROKER"], backend="sqlite:///chaos.db")
app.conf.update(
    broker_transport_options=json.loads(os.environ["OPTIONS"]),
    worker_prefetch_multiplier=8,
)

LOG = os.open("runs.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def run(n, seconds):
    os.write(LOG, b"%d %f %d\\n" % (n, time.time(), os.getpid()))
    time.sleep(seconds)
    return n


@app.task(name="chaos.early")
def early(n, seconds=0):
    return run(n, seconds)


@app.task(acks_late=True, name="chaos.late")
def late(n, seconds=0):
    return run(n, seconds)
"""


class Run(NamedTuple):
    """One start of a task."""

    n: int
    at: float
    pid: int


class Chaos:
    """A folder with an application, its file, its workers and what they ran."""

    def __init__(self, folder: Path, lease: float = 2.0, broker: str = "", **options: Any) -> None:
        """`broker` is the URL of another one; `options` are further ones of its transport."""
        self.folder = folder
        self.lease = lease
        self.path = folder / "chaos.db"
        (folder / "chaosapp.py").write_text(MODULE)
        url = f"sqlite:///{self.path}"
        self.environment = {
            "PYTHONPATH": str(folder),
            "BROKER": broker or url,
            "OPTIONS": json.dumps({"lease": lease, **options}),
        }
        self.app = App("chaos-client", broker=broker or url, backend=url, set_as_current=False)
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Chaos:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.app.close()

    def send(self, name: str, numbers: Any, *args: Any, **options: Any) -> list[Any]:
        return [self.app.send_task(f"chaos.{name}", (n, *args), **options) for n in numbers]

    def start(self, *arguments: str, code: str = "") -> subprocess.Popen[bytes]:
        """Start a worker, or with `code` a Python program, in the folder."""
        number = len(self.processes) + 1
        worker = ["-m", "taskq", "-A", "chaosapp", "worker", "-P", "solo", "-c", "1"]
        worker += ["-n", f"w{number}@chaos", "-l", "WARNING"]
        with (self.folder / f"process{number}.log").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *(["-c", code] if code else worker), *arguments],
                cwd=self.folder,
                env={**os.environ, **self.environment},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(process)
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Ask a worker to stop warmly and see that it does."""
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE_S) == 0, self.read_logs()

    def wait_until(self, true: Callable[[], Any], what: str, seconds: float = PATIENCE_S) -> None:
        def look() -> Any:
            self.check_alive()
            return true()

        wait_until(look, what, seconds, self.read_logs)

    def check_alive(self) -> None:
        for process in self.processes:
            # What was killed here, or asked to stop, is known to have ended.
            ended = process.poll()
            assert ended in (None, 0, -signal.SIGKILL), self.read_logs()

    def read_logs(self) -> str:
        logs = sorted(self.folder.glob("process*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text()[-2000:]}" for log in logs)

    def read_runs(self) -> list[Run]:
        path = self.folder / "runs.log"
        # What follows the last newline is a line that is just being written.
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [Run(int(n), float(at), int(pid)) for n, at, pid in map(str.split, lines)]

    def count_runs(self) -> Counter[int]:
        return Counter(run.n for run in self.read_runs())

    def count_rows(self) -> dict[str, int]:
        """How many messages stand where, seen from a connection of our own."""
        tables = ("ready", "delayed", "claimed", "message", "session")
        connection = sqlite3.connect(self.path)
        try:
            return {
                table: connection.execute(f"SELECT count(*) FROM taskq_{table}").fetchone()[0]
                for table in tables
            }
        finally:
            connection.close()

    def check_empty(self) -> None:
        connection = sqlite3.connect(self.path)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()
        assert set(self.count_rows().values()) == {0}, self.count_rows()
