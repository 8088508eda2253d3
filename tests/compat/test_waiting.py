"""Two taskq workers and one of Celery share a queue of tasks that wait; one of them is killed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from contract import test_waiting_rabbitmq, test_waiting_redis
from contract.loss import Site
from contract.waiting import check_each_ran_once, kill_while_parking, measure_lateness
from patience import wait_until
from servers import Vhost

CELERY = """
import os, time
from celery import Celery

app = Celery("loss", broker=os.environ["BROKER"])
LOG = os.open("runs.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


@app.task(name="loss.early", ignore_result=True)
def early(name, holds=False):
    os.write(LOG, f"start {name} {time.time()} celery\\n".encode())
    os.write(LOG, f"end {name} {time.time()}\\n".encode())
"""


ADAPTERS = {"redis": test_waiting_redis, "rabbitmq": test_waiting_rabbitmq}


@pytest.fixture(params=ADAPTERS)
def broker(request: pytest.FixtureRequest) -> Iterator[tuple[str, Any]]:
    """The URL of an empty broker, and the module that knows what parking looks like there."""
    adapter = ADAPTERS[request.param]
    if request.param == "redis":
        yield request.getfixturevalue("redis_url"), adapter
        return
    with Vhost(request.getfixturevalue("rabbitmq_vhost").broker) as vhost:
        yield vhost.url, adapter


@pytest.mark.long
@pytest.mark.parametrize("arrives", [True, False])
def test_each_runs_once(
    celery_python: str, tmp_path: Path, broker: tuple[str, Any], arrives: bool
) -> None:
    url, adapter = broker
    site = Site(tmp_path, url, dict(adapter.SETTINGS))
    (tmp_path / "celeryapp.py").write_text(CELERY)
    log = tmp_path / "celery.log"
    with log.open("wb") as output:
        # A window of one at first: it does not take all before the others look.
        celery = subprocess.Popen(
            [celery_python, "-m", "celery", "-A", "celeryapp", "worker", "-P", "solo", "-l", "INFO",
             "--prefetch-multiplier", "1", "-n", "celery@test"],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path), "BROKER": url},
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        wait_until(lambda: "celery@test ready." in log.read_text(), "Celery", 60, log.read_text)
        with kill_while_parking(site, adapter.is_park, arrives=arrives, count=1000) as worker:
            check_each_ran_once(site, 1000, worker, 120)
            text = worker.log
    finally:
        celery.send_signal(signal.SIGTERM)
        celery.wait(60)
        site.close()
    shares = text.count("succeeded"), log.read_text().count("succeeded")
    late = measure_lateness(site)
    print(
        f"taskq ran {shares[0]}, half of them within {late[len(late) // 2]:.2f} s of their ETA, "
        f"all within {late[-1]:.2f} s; Celery ran {shares[1]}"
    )
    assert shares[1] > 0, log.read_text()
