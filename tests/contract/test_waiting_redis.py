"""Tasks wait in Redis, and outlive the worker that parks them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from contract.loss import Site
from contract.waiting import check_each_ran_once, kill_while_parking, send_all
from patience import wait_until

from taskq.transports.redis_scripts import HASHES, PARK

SETTINGS: dict[str, Any] = {"broker_transport_options": {"lease": 2}}


def is_park(way: str, data: bytes) -> bool:
    return way == "up" and HASHES[PARK].encode() in data


@pytest.fixture
def site(tmp_path: Path, redis_url: str) -> Iterator[Site]:
    site = Site(tmp_path, redis_url, dict(SETTINGS))
    yield site
    site.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.mark.parametrize("arrives", [True, pytest.param(False, marks=pytest.mark.long)])
def test_killed_while_parking(site: Site, client: redis.Redis, arrives: bool) -> None:
    with kill_while_parking(site, is_park, arrives=arrives, count=40) as worker:
        check_each_ran_once(site, 40, worker)
        wait_until(lambda: client.hlen("unacked") == 0, "all is settled")
    assert not client.exists("taskq.delayed.celery", "taskq.delayed:messages.celery")


@pytest.mark.parametrize(
    "settings",
    [
        {"worker_eta_in_broker": False},
        pytest.param({"broker_transport_options": {"lane": "kombu"}}, marks=pytest.mark.long),
    ],
)
def test_held_by_the_worker(site: Site, client: redis.Redis, settings: dict[str, Any]) -> None:
    site.settings.update(settings)
    with site.worker() as worker:
        send_all(site, 5, seconds=3600)
        wait_until(lambda: client.hlen("unacked") == 5, report=lambda: worker.log)
        assert client.keys("taskq.delayed*") == []
    assert client.llen("celery") == 5


@pytest.mark.long
def test_expiry_and_revocation_see_what_waits(site: Site, client: redis.Redis) -> None:
    with site.worker() as worker:
        kept, revoked = (site.send("early", name, countdown=8) for name in ("kept", "revoked"))
        expired = site.send("early", "expired", countdown=8, expires=7)
        wait_until(lambda: client.zcard("taskq.delayed.celery") == 3, report=lambda: worker.log)
        site.app.control.revoke(revoked.id)
        assert kept.get(timeout=30) == "kept"
        wait_until(lambda: revoked.state == expired.state == "REVOKED", report=lambda: worker.log)
    assert {line[1] for line in site.lines()} == {"kept"}


@pytest.mark.long
def test_memory_of_what_waits(site: Site, client: redis.Redis) -> None:
    count = 100_000
    with site.worker("-l", "WARNING", ready=False) as worker:
        wait_until(lambda: site.app.control.ping(timeout=1), "a worker answers")
        site.send("early", "first", countdown=3600)
        wait_until(lambda: client.zcard("taskq.delayed.celery") == 1)
        before = read_memory(worker.process.pid)
        started = time.monotonic()
        for start in range(0, count, 10_000):
            with site.app.pipeline():
                for number in range(start, start + 10_000):
                    site.send("early", str(number), countdown=3600)
        wait_until(lambda: client.zcard("taskq.delayed.celery") == count + 1, seconds=300)
        after = read_memory(worker.process.pid)
        print(
            f"{count} waiting tasks add {(after - before) / 1e6:.1f} MB to a worker, "
            f"parked in {time.monotonic() - started:.0f} s"
        )
        assert after - before < 5_000_000
    assert client.hlen("unacked") == 0


def read_memory(pid: int) -> int:
    """Bytes that are a process's own."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * int(text.partition("\nPss:")[2].split()[0])
