"""One library on one broker, for one measurement: its worker, its clients, its counted tasks."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ground import Ground
from libraries import LIBRARIES, Library, counter
from processes import cpu_s, pss_mb, tree_of

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

#: Seconds anything may take before the run gives up.
PATIENCE_S = 600.0


class Side:
    """What a scenario is handed; see `open_side`."""

    def __init__(self, library: Library, broker: str, ground: Ground, folder: Path) -> None:
        self.library, self.broker, self.ground, self.folder = library, broker, ground, folder
        self.environment = dict(os.environ)
        # Compiled code is kept, as it is wherever a package was installed.
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def place(self, url: str, results: str, profile: bool) -> None:
        """Say where its processes are."""
        self.environment |= {
            "BENCH_LIBRARY": self.library.name,
            "BENCH_BROKER": url,
            "BENCH_RESULTS": results,
            "BENCH_FOLDER": str(self.folder),
            "BENCH_PROFILE": "1" if profile else "",
            # Not installed anywhere: what the benchmarks import, and taskq for another interpreter.
            "PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT)]),
        }

    @property
    def counted(self) -> int:
        """Tasks that have run."""
        return counter.read(self.folder)

    def count_waiting(self, queue: str) -> int:
        """Messages in a queue of its broker that no worker has taken yet."""
        return self.ground.count_waiting(self.broker, self.environment["BENCH_BROKER"], queue)

    def describe(self) -> str:
        """Where the tasks are: what to know of a run that does not end."""
        told = f"{self.counted} tasks have run"
        url, rabbitmq = self.environment["BENCH_BROKER"], self.ground.rabbitmq
        # A broker that does not answer must not hide what else is known.
        with contextlib.suppress(Exception):
            if self.broker == "rabbitmq" and rabbitmq is not None:
                columns = ("name", "messages_ready", "messages_unacknowledged", "consumers")
                vhost = url.rpartition("/")[2]
                told += "\n" + rabbitmq.ctl("list_queues", "-p", vhost, *columns)
            elif self.broker == "redis":
                with self.ground.redis.client() as client:
                    lists = client.scan_iter(_type="list")
                    told += "".join(f"\n{key.decode()}\t{client.llen(key)}" for key in lists)
        return told

    def client(self, scenario: str, *arguments: int) -> Any:
        """Run `in_client(library, *arguments)` of a scenario in a new interpreter."""
        command = [self.ground.python, str(HERE / "client.py"), scenario, *map(str, arguments)]
        done = subprocess.run(
            command, env=self.environment, cwd=self.folder, text=True,
            capture_output=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{self}: {' '.join(command)}\n{done.stdout}{done.stderr}")
        return json.loads(done.stdout.splitlines()[-1])

    @contextlib.contextmanager
    def worker(self, verbose: bool = False) -> Iterator[Worker]:
        """A worker for the length of the block; then all of its processes are gone."""
        command = self.client("command", int(verbose))
        worker = Worker(self, command)
        try:
            yield worker
        finally:
            worker.end()

    def __str__(self) -> str:
        return f"{self.library.name} on {self.broker}"


class Worker:
    """A worker process with its children."""

    def __init__(self, side: Side, command: list[str]) -> None:
        self.side, self.log = side, side.folder / "worker.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                command, env=side.environment, cwd=side.folder,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

    @property
    def pids(self) -> list[int]:
        """The parent first, then those below it."""
        return tree_of(self.process.pid)

    def wait_for(self, what: str, condition: Callable[[], bool], every: float = 0.005) -> None:
        """Look until it is so; give up, saying how it is, when the worker is dead or time is up."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                text = self.log.read_text(errors="replace")[-4000:]
                told = f"{len(self.pids)} processes, {self.side.describe()}"
                raise SystemExit(f"{self.side}: not yet so: {what}; {told}\nworker says:\n{text}")
            time.sleep(every)

    def wait_counted(self, count: int) -> None:
        """Wait until so many tasks have run."""
        self.wait_for(f"{count} tasks have run", lambda: self.side.counted >= count)

    def wait_ready(self, mark: str) -> None:
        """Wait until it has printed that it is up."""
        self.wait_for("it is ready", lambda: mark in self.log.read_text(errors="replace"), 0.05)

    def settled_mb(self) -> float:
        """Its memory, once it neither works nor grows for two seconds."""
        before = (-1.0, -1.0)
        while True:
            now = (cpu_s(self.pids), pss_mb(self.process.pid))
            if now[0] - before[0] < 0.2 and abs(now[1] - before[1]) <= now[1] / 100:
                return now[1]
            before = now
            time.sleep(2)

    def end(self) -> None:
        """Ask it to end; end what does not."""
        pids = self.pids
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=10)
        for pid in pids[1:] if self.process.returncode is not None else pids:
            # Only what is still of this worker's session: the number may be somebody else's now.
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(pid) == self.process.pid:
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def open_side(
    ground: Ground, library: str, broker: str, results: bool = False, profile: bool = False
) -> Iterator[Side]:
    """A library on an empty broker."""
    with tempfile.TemporaryDirectory(prefix="taskq-bench-") as name:
        folder = Path(name)
        side = Side(LIBRARIES[library], broker, ground, folder)
        with ground.broker(broker, folder) as url:
            side.place(url, ground.results_url(library, broker, folder) if results else "", profile)
            yield side
