"""Two taskq workers and one of Celery share a queue of tasks that wait; one of them is killed."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from contract.loss import Site
from contract.test_waiting_redis import SETTINGS, is_park
from contract.waiting import check_each_ran_once, kill_while_parking
from patience import wait_until

CELERY = """
import os, time
from celery import Celery

app = Celery("loss", broker=os.environ["BROKER"])
LOG = os.open("runs.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


@app.task(name="loss.early", ignore_result=True)
def early(name, holds=False):
    os.write(LOG, f"start {name} {time.time()}\\n".encode())
    os.write(LOG, f"end {name} {time.time()}\\n".encode())
"""


@pytest.mark.long
@pytest.mark.parametrize("arrives", [True, False])
def test_each_runs_once(celery_python: str, tmp_path: Path, redis_url: str, arrives: bool) -> None:
    site = Site(tmp_path, redis_url, dict(SETTINGS))
    (tmp_path / "celeryapp.py").write_text(CELERY)
    log = tmp_path / "celery.log"
    with log.open("wb") as output:
        # A window of one at first: it does not take all before the others look.
        celery = subprocess.Popen(
            [celery_python, "-m", "celery", "-A", "celeryapp", "worker", "-P", "solo", "-l", "INFO",
             "--prefetch-multiplier", "1", "-n", "celery@test"],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path), "BROKER": redis_url},
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        wait_until(lambda: "celery@test ready." in log.read_text(), "Celery", 60, log.read_text)
        with kill_while_parking(site, is_park, arrives=arrives, count=1000) as worker:
            check_each_ran_once(site, 1000, worker, 120)
            text = worker.log
    finally:
        celery.send_signal(signal.SIGTERM)
        celery.wait(60)
        site.close()
    shares = text.count("succeeded"), log.read_text().count("succeeded")
    print(f"taskq ran {shares[0]}, Celery {shares[1]}")
    assert shares[1] > 0, log.read_text()
