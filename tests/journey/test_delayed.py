"""`taskq delayed`: what waits in the broker, and putting it back. Two workers share what waits."""

from __future__ import annotations

import json
import time
from ast import literal_eval
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

import pytest
from journey.harness import Worker, client, count_messages, run_taskq, write_project
from patience import PATIENCE_S, wait_until
from servers import Vhost

from taskq import App

DELAYED = ("-A", "proj", "delayed")

RUNS = """
import os, time
from taskq import App

app = App("runs", broker=os.environ["BROKER"])
app.conf.task_ignore_result = True
LOG = os.open("runs.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


@app.task(name="runs.late", bind=True)
def late(self, number, due):
    info = self.request.delivery_info
    line = [number, time.time() - due, info["exchange"], info["routing_key"]]
    os.write(LOG, (repr(line) + "\\n").encode())
"""


def test_list_and_release(tmp_path: Path) -> None:
    write_project(tmp_path)
    with client(tmp_path) as app:
        app.send_task("proj.add", (1, 2), countdown=600)
        later = app.send_task("proj.add", (3, 4), countdown=1200)
        app.send_task("proj.add", (5, 6))
        listed = run_taskq(tmp_path, *DELAYED, "list", "--json", "-Q", "celery").stdout
        rows = json.loads(listed)
        assert [row["args"] for row in rows] == ["(1, 2)", "(3, 4)"]
        assert rows[1]["id"] == later.id
        wait_s = datetime.fromisoformat(rows[0]["due"]).timestamp() - time.time()
        assert 600 - PATIENCE_S < wait_s < 601
        text = run_taskq(tmp_path, *DELAYED, "list").stdout
        assert "proj.add" in text
        assert "2 tasks waiting." in text
        assert "Released 2 tasks." in run_taskq(tmp_path, *DELAYED, "release").stdout
        assert "0 tasks waiting." in run_taskq(tmp_path, *DELAYED, "list").stdout
    assert count_messages(tmp_path) == 3


def test_a_broker_that_does_not_show_them(tmp_path: Path, rabbitmq_url: str) -> None:
    write_project(tmp_path)
    done = run_taskq(tmp_path, "-A", "proj", "-b", rabbitmq_url, "delayed", "list")
    assert done.returncode == 69
    assert "celery_delayed_0" in done.stdout
    assert "guest:guest" not in done.stdout


@pytest.mark.long
@pytest.mark.parametrize("count", [30, 1000])
def test_a_worker_killed_while_parking(tmp_path: Path, rabbitmq_vhost: Vhost, count: int) -> None:
    (tmp_path / "runs.py").write_text(RUNS)
    log = tmp_path / "runs.log"
    wait_s = 10 + count / 25

    def count_runs() -> int:
        return len(log.read_text().splitlines()) if log.exists() else 0

    with Vhost(rabbitmq_vhost.broker) as vhost:
        env = {"BROKER": vhost.url}
        with Worker(tmp_path, app="runs", env=env, level="DEBUG") as killed:
            due = time.time() + wait_s
            eta = datetime.fromtimestamp(due, timezone.utc)
            with App("client", broker=vhost.url, set_as_current=False) as app:
                for number in range(count):
                    app.send_task("runs.late", (number, due), eta=eta)
            killed.wait_for_log("waits in the broker", PATIENCE_S, times=count // 5)
            killed.process.kill()
            killed.process.wait()
        with Worker(tmp_path, app="runs", env=env) as worker:
            for done, what in ((lambda: count_runs() >= count, "all have run"),
                               (lambda: is_empty(vhost), "nothing is left")):  # fmt: skip
                wait_until(done, what, PATIENCE_S + wait_s, lambda: worker.log[-3000:])
    lines = [literal_eval(line) for line in log.read_text().splitlines()]
    assert Counter(number for number, *_ in lines) == Counter(range(count))
    assert min(late for _, late, *_ in lines) >= 0
    assert {(exchange, key) for _, _, exchange, key in lines} == {("", "celery")}


def is_empty(vhost: Vhost) -> bool:
    return all(int(number) == 0 for _, number, _ in vhost.queues())
