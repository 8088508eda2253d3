"""A worker process on each kind of broker: TLS, Sentinel, key prefix, priorities, -Q, expiry."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from contract.loss import Site
from patience import PATIENCE_S, wait_until
from servers import RedisSentinel, RedisServer, Vhost

from taskq.result import AsyncResult

KOMBU = pytest.param("kombu", marks=pytest.mark.long)
LANES = ["taskq", KOMBU]
Make = Callable[..., Site]


@pytest.fixture(params=LANES)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Give a site on the broker at a URL, by our transport or kombu's."""
    made = []

    def make(url: str, options: dict[str, Any] | None = None, **settings: Any) -> Site:
        settings["broker_transport_options"] = {"lane": request.param, **(options or {})}
        made.append(Site(tmp_path, url, settings))
        return made[-1]

    yield make
    for site in made:
        site.close()


@pytest.fixture(params=["redis", pytest.param("rabbitmq", marks=pytest.mark.long)])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "redis":
        yield request.getfixturevalue("redis_url")
    else:
        with Vhost(request.getfixturevalue("rabbitmq_vhost").broker) as vhost:
            yield vhost.url


def check_settled(server: RedisServer, prefix: str = "") -> None:
    with server.client() as client:
        wait_until(
            lambda: client.llen(f"{prefix}celery") + client.hlen(f"{prefix}unacked") == 0,
            "all is settled",
        )


def test_tls(make: Make) -> None:
    with RedisServer(tls=True) as server:
        site = make(server.url)
        with site.worker("-P", "prefork") as worker:
            result = site.send("late", "long", True)
            site.wait_for("start", "long", worker)
            site.back_at = time.time()
            site.proxy.cut()
            site.let_go("long")
            assert result.get(timeout=PATIENCE_S) == "long"
            print(f"consumes {site.check_consumes(worker):.1f} s after the loss")
            assert site.app.control.ping(timeout=PATIENCE_S, limit=1) == [
                {worker.name: {"ok": "pong"}}
            ]
            check_settled(server)
        assert site.count("start", "long") == 1


@pytest.mark.long
def test_a_failover_of_sentinel_while_busy(make: Make) -> None:
    with RedisSentinel() as group:
        site = make(group.url, {"master_name": group.service})
        with site.worker("-P", "prefork") as worker:
            result = site.send("late", "long", True)
            site.wait_for("start", "long", worker)
            waiting = site.send("late", "waiting", countdown=2)
            worker.wait_for_log("received", times=2)
            with group.master.client() as client:
                assert client.wait(1, int(PATIENCE_S * 1000)) == 1
            group.failover()
            site.check_consumes(worker)
            site.let_go("long")
            assert result.get(timeout=PATIENCE_S) == "long"
            assert waiting.get(timeout=PATIENCE_S) == "waiting"
            check_settled(group.replica)
        assert site.count("start", "long") == site.count("start", "waiting") == 1


def test_a_key_prefix(make: Make) -> None:
    with RedisServer() as server, server.client() as client:
        site = make(server.url, {"global_keyprefix": "mine:"})
        with site.worker("-P", "prefork") as worker:
            result = site.send("late", "long", True)
            site.wait_for("start", "long", worker)
            site.check_consumes(worker)
            assert client.hlen("mine:unacked") == 1
            site.proxy.cut()
            site.let_go("long")
            assert result.get(timeout=PATIENCE_S) == "long"
            check_settled(server, "mine:")
        assert all(key.startswith(b"mine:") for key in client.scan_iter())


#: Settings, transport options, what is sent, and the order in which it is run.
PRIORITIES = {
    "redis": ({}, {"priority_steps": [0, 5, 9]}, [9, 0, 7, 5], ["n0", "n7", "n5", "n9"]),
    "rabbitmq": (
        {"task_queue_max_priority": 255}, {}, [0, 255, 3, 100], ["n255", "n100", "n3", "n0"]
    ),
}  # fmt: skip


def test_priorities(make: Make, url: str) -> None:
    settings, options, sent, order = PRIORITIES["redis" if url.startswith("redis") else "rabbitmq"]
    site = make(url, options, worker_prefetch_multiplier=1, **settings)
    for priority in sent:
        site.send("late", f"n{priority}", priority=priority)
    with site.worker("-P", "prefork", "-c", "1") as worker:
        site.wait_for("end", order[-1], worker)
    assert [line[1] for line in site.lines() if line[0] == "start"] == order


def test_queues_of_the_command_line(make: Make, url: str) -> None:
    site = make(url, task_queues=None)
    for queue in ("one", "two", "celery"):
        site.send("early", f"{queue}-1", queue=queue)
    with site.worker("-Q", "one,new") as worker:
        site.send("early", "new-1", queue="new")
        site.wait_for("end", "new-1", worker)
        site.wait_for("end", "one-1", worker)
        queues = site.app.control.inspect(timeout=PATIENCE_S, limit=1).active_queues()
        assert [each["name"] for each in queues[worker.name]] == ["one", "new"]
    assert sorted(line[1] for line in site.lines() if line[0] == "start") == ["new-1", "one-1"]
    with site.worker("-Q", "one,two,celery", "-X", "two") as worker:
        site.wait_for("end", "celery-1", worker)
        site.send("early", "one-2", queue="one")
        site.wait_for("end", "one-2", worker)
    assert site.count("start", "two-1") == 0
    with site.worker("-Q", "two") as worker:
        site.wait_for("end", "two-1", worker)


def check_revoked(result: AsyncResult[Any]) -> None:
    wait_until(lambda: result.state == "REVOKED", "revoked", report=lambda: result.state)


def test_an_expired_task_is_revoked_wherever_it_waited(make: Make, url: str) -> None:
    site = make(
        url,
        worker_prefetch_multiplier=8,
        # The second within two seconds waits for the rest of them.
        task_annotations={"loss.early": {"rate_limit": "30/m"}},
    )
    early = [site.send("late", "queued", expires=seconds) for seconds in (-1, 0, 0.01)]
    with site.worker("-P", "prefork", "-c", "1") as worker:
        lane = site.app.conf.broker_transport_options["lane"]
        # By kombu's transport RabbitMQ removes them when their time is over.
        if lane == "taskq" or url.startswith("redis"):
            for result in early:
                check_revoked(result)
        site.send("late", "long", True)
        site.wait_for("start", "long", worker)
        waiting = {
            name: site.send(task, name, expires=1, **options)
            for name, task, options in [
                ("limited-1", "early", {}),
                ("limited-2", "early", {}),
                ("prefetched", "late", {}),
                ("parked", "late", {"countdown": 2}),
            ]
        }
        worker.wait_for_log("received", times=5)
        expired_at = time.time() + 1
        wait_until(lambda: time.time() > expired_at)
        site.let_go("long")
        for result in waiting.values():
            check_revoked(result)
    assert {line[1] for line in site.lines()} == {"long"}
