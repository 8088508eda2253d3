"""What a worker does when its broker is lost, at every moment of a task's life.

An adapter is a subclass whose `server_url` fixture gives a broker of the test's own; between it and
the worker stands a network that breaks (servers.Proxy). The worker is a process; each start and end
of a task leaves a line in runs.log as one write, and a task told to `hold` ends when the test lets
it. "Broken": every connection is cut, new ones are taken at once. "Away": refused, until the broker
is back.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from journey.harness import Worker
from patience import PATIENCE_S, wait_until
from servers import Proxy

from taskq import App

MODULE = """
import json, os, time
from pathlib import Path
from taskq import App

app = App("loss", backend="sqlite:///results.db")
app.conf.update(json.loads(os.environ["CONF"]))
LOG = os.open("runs.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(what, name):
    os.write(LOG, f"{what} {name} {time.time()}\\n".encode())


def hold(name):
    while not Path(f"go-{name}").exists():
        time.sleep(0.01)


class SlowToStore:
    def __init__(self, name):
        self.name = name

    def __json__(self):
        note("store", self.name)
        hold(self.name)
        return self.name


def run(name, holds=False):
    note("start", name)
    if holds:
        hold(name)
    note("end", name)
    return name


early = app.task(name="loss.early")(run)
late = app.task(name="loss.late", acks_late=True)(run)


@app.task(name="loss.store", acks_late=True)
def store(name):
    note("start", name)
    return SlowToStore(name)


@app.task(name="loss.publish")
def publish(name):
    note("start", name)
    hold(name)
    late.delay(f"{name}-child")
    note("end", name)
"""


class Site:
    """A folder with an application, the broken network before its broker, and what has run."""

    def __init__(self, folder: Path, url: str, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.url = url
        port = int(url.rpartition("@")[2].rpartition("//")[2].partition(":")[2].partition("/")[0])
        self.proxy = Proxy(port)
        #: When the broker was last to be reached again after a loss.
        self.back_at = 0.0
        #: The broker's process, where a test may kill it.
        self.server: Any = None
        #: How often the worker must have connected by now.
        self.connections = 1
        self.settings = {"broker_url": self.proxy.through(url), **settings}
        (folder / "lossapp.py").write_text(MODULE)
        #: Sends past the broken network.
        self.app = App("client", broker=url, backend=f"sqlite:///{folder}/results.db",
                       set_as_current=False)  # fmt: skip
        self.app.conf.update({key: value for key, value in settings.items() if "worker" not in key})

    def worker(self, *options: str, **keywords: Any) -> Worker:
        env = {"CONF": json.dumps(self.settings)}
        return Worker(self.folder, "-c", "2", *options, app="lossapp", env=env, **keywords)

    def send(self, task: str, name: str, *args: Any, **options: Any) -> Any:
        return self.app.send_task(f"loss.{task}", (name, *args), **options)

    def let_go(self, name: str) -> None:
        (self.folder / f"go-{name}").touch()

    def lines(self) -> list[list[str]]:
        log = self.folder / "runs.log"
        return [line.split() for line in log.read_text().splitlines()] if log.exists() else []

    def count(self, what: str, name: str) -> int:
        return sum(line[:2] == [what, name] for line in self.lines())

    def wait_for(self, what: str, name: str, worker: Worker, seconds: float = PATIENCE_S) -> None:
        wait_until(
            lambda: self.count(what, name), f"{what} {name}", seconds, lambda: worker.log[-6000:]
        )

    def check_consumes(self, worker: Worker, name: str = "afterwards") -> float:
        """A new task is run, by a worker that has noticed; gives the seconds since the return."""
        worker.wait_for_log("Connected to", PATIENCE_S, times=self.connections)
        self.send("early", name)
        self.wait_for("end", name, worker)
        return time.time() - self.back_at

    def close(self) -> None:
        self.proxy.close()
        self.app.close()


class LossContract:
    """The tests; pytest collects the adapters' subclasses."""

    #: What settings the broker needs in tests.
    SETTINGS: dict[str, Any] = {}

    #: Is this the moment an acknowledgement, or a task message, goes to the broker?
    is_ack: Callable[[str, bytes], bool]
    is_publish: Callable[[str, bytes], bool]

    def count_waiting(self, site: Site) -> int:
        """Messages in the queue and with the worker, unsettled."""
        raise NotImplementedError

    @pytest.fixture
    def site(self, tmp_path: Path, server_url: str) -> Iterator[Site]:
        site = Site(tmp_path, server_url, self.SETTINGS)
        yield site
        site.close()

    def lose(self, site: Site, how: str) -> None:
        """Break the connections; `away` lets some seconds pass until the broker is back."""
        site.connections += 1
        if how == "broken":
            site.proxy.cut()
        else:
            site.proxy.refuse()
            time.sleep(3)
            site.proxy.accept()
        site.back_at = time.time()

    def wait_until_reading(self, site: Site) -> None:
        """Wait until the worker waits for messages: before, a cut may go unnoticed."""

    def check_settled(self, site: Site, worker: Worker) -> None:
        wait_until(
            lambda: self.count_waiting(site) == 0, "all is settled", report=lambda: worker.log
        )

    # -- the moments

    @pytest.mark.parametrize("how", ["broken", pytest.param("away", marks=pytest.mark.long)])
    def test_idle(self, site: Site, how: str) -> None:
        with site.worker() as worker:
            site.check_consumes(worker, "before")
            self.wait_until_reading(site)
            self.lose(site, how)
            seconds = site.check_consumes(worker)
            print(f"{type(self).__name__} idle, {how}: consumes {seconds:.1f} s after its return")
            site.app.control.inspect(timeout=0.1)
            assert worker.log.count("ready.") == 1
        self.check_settled(site, worker)

    @pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.long)])
    @pytest.mark.parametrize("how", ["broken", pytest.param("away", marks=pytest.mark.long)])
    def test_busy(self, site: Site, how: str, pool: str) -> None:
        with site.worker("-P", pool) as worker:
            result = site.send("late", "long", True)
            early = site.send("early", "short", True)
            site.wait_for("start", "long", worker)
            site.wait_for("start", "short", worker)
            self.lose(site, how)
            site.let_go("short")
            site.wait_for("end", "short", worker)
            # While `long` runs its message is delivered again; it must not be run twice.
            seconds = site.check_consumes(worker)
            print(f"{type(self).__name__} busy, {how}: consumes {seconds:.1f} s after its return")
            site.let_go("long")
            assert result.get(timeout=PATIENCE_S) == "long"
            assert early.get(timeout=PATIENCE_S) == "short"
            site.check_consumes(worker, "last")
            self.check_settled(site, worker)
            stats = site.app.control.inspect(timeout=PATIENCE_S, limit=1).stats()
            total = stats[worker.name]["total"]
            assert total == {"loss.late": 1, "loss.early": 3}, (total, worker.log)
        for name in ("long", "short", "afterwards", "last"):
            assert site.count("start", name) == site.count("end", name) == 1, name

    @pytest.mark.long
    @pytest.mark.parametrize("how", ["broken", "away"])
    def test_eta(self, site: Site, how: str) -> None:
        with site.worker() as worker:
            site.check_consumes(worker, "before")
            due = time.time() + 8
            site.send("late", "later", countdown=8)
            worker.wait_for_log("Task loss.late[")
            self.lose(site, how)
            site.check_consumes(worker)
            assert not site.count("start", "later") or time.time() >= due
            site.wait_for("end", "later", worker)
            self.check_settled(site, worker)
        (line,) = [line for line in site.lines() if line[:2] == ["start", "later"]]
        assert float(line[2]) >= due - 0.5

    @pytest.mark.long
    def test_at_start(self, site: Site) -> None:
        site.proxy.refuse()
        with site.worker(ready=False) as worker:
            worker.wait_for_log("Trying again in", times=3)
            site.send("early", "waiting")
            site.back_at = time.time()
            site.proxy.accept()
            site.wait_for("end", "waiting", worker)
            seconds = time.time() - site.back_at
            print(f"{type(self).__name__} at start: consumes {seconds:.1f} s after its return")

    @pytest.mark.long
    @pytest.mark.parametrize("task", ["early", "late"])
    def test_while_acking(self, site: Site, task: str) -> None:
        with site.worker("-P", "prefork") as worker:
            site.check_consumes(worker, "before")
            self.check_settled(site, worker)
            site.connections += 1
            happened = site.proxy.cut_when(self.is_ack)
            result = site.send(task, "acked", task == "early")
            assert happened.wait(PATIENCE_S)
            site.check_consumes(worker)
            site.let_go("acked")
            assert result.get(timeout=PATIENCE_S) == "acked"
            self.check_settled(site, worker)
        if task == "early":
            # Its ack was lost, so its message came again while it ran.
            assert site.count("start", "acked") == 1

    @pytest.mark.long
    def test_while_storing(self, site: Site) -> None:
        with site.worker("-P", "prefork") as worker:
            result = site.send("store", "stored")
            site.wait_for("store", "stored", worker)
            self.lose(site, "broken")
            site.check_consumes(worker)
            site.let_go("stored")
            assert result.get(timeout=PATIENCE_S) == "stored"
            site.check_consumes(worker, "last")
            self.check_settled(site, worker)
        assert site.count("start", "stored") == 1

    @pytest.mark.long
    @pytest.mark.parametrize("how", ["broken", "away"])
    def test_while_publishing(self, site: Site, how: str) -> None:
        with site.worker("-P", "prefork") as worker:
            site.send("publish", "parent")
            site.wait_for("start", "parent", worker)
            if how == "broken":
                happened = site.proxy.cut_when(self.is_publish)
                site.let_go("parent")
                assert happened.wait(PATIENCE_S)
            else:
                site.proxy.refuse()
                site.let_go("parent")
                time.sleep(0.3)
                site.proxy.accept()
            site.wait_for("end", "parent-child", worker)
            self.check_settled(site, worker)
        assert site.count("end", "parent-child") == 1

    @pytest.mark.long
    def test_cancelled_by_the_loss(self, site: Site) -> None:
        site.settings["worker_cancel_long_running_tasks_on_connection_loss"] = True
        with site.worker("-P", "prefork") as worker:
            result = site.send("late", "cancelled", True)
            site.wait_for("start", "cancelled", worker)
            # What the worker does not know to run yet goes on, and is settled when it ends.
            inspect = site.app.control.inspect(timeout=PATIENCE_S, limit=1)
            wait_until(lambda: any((inspect.active() or {}).values()), "it is known to run")
            self.lose(site, "broken")
            wait_until(lambda: site.count("start", "cancelled") == 2, "run again",
                       report=lambda: worker.log[-6000:])  # fmt: skip
            site.let_go("cancelled")
            assert result.get(timeout=PATIENCE_S) == "cancelled"
        assert site.count("end", "cancelled") == 1

    @pytest.mark.long
    def test_the_next_broker_of_the_list(self, site: Site, server_url: str) -> None:
        site.settings["broker_url"] = [site.proxy.through(server_url), server_url]
        with site.worker() as worker:
            site.check_consumes(worker, "before")
            site.connections += 1
            site.proxy.refuse()
            site.check_consumes(worker)
            assert "Will retry using next failover" in worker.log

    @pytest.mark.long
    def test_without_reconnecting_the_worker_ends(self, site: Site) -> None:
        site.settings["broker_connection_retry"] = False
        worker = site.worker()
        with worker:
            site.check_consumes(worker, "before")
            site.proxy.refuse()
            assert worker.wait_end() == 1
            assert "broker_connection_retry=False" in worker.log

    @pytest.mark.long
    def test_after_so_many_retries_the_worker_ends(self, site: Site) -> None:
        site.settings["broker_connection_max_retries"] = 1
        worker = site.worker()
        with worker:
            site.proxy.refuse()
            assert worker.wait_end() == 1
            assert "Gave up after 1 retries (broker_connection_max_retries)" in worker.log

    @pytest.mark.long
    def test_lost_again_and_again(self, site: Site) -> None:
        rounds = int(os.environ.get("TASKQ_LOSS_ROUNDS", "10"))
        with site.worker("-P", "prefork") as worker:
            for number in range(rounds):
                self.wait_until_reading(site)
                self.lose(site, "broken")
                site.check_consumes(worker, f"round-{number}")
            self.check_settled(site, worker)
