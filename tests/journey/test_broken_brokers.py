"""A worker whose broker is wrong says so in one sentence; it ends or tries again as Celery's."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from journey.harness import Worker, wait_until
from kombu import Connection, Queue
from patience import PATIENCE_S
from servers import RabbitMQ, RedisServer, Vhost
from servers.proxy import Proxy

from taskq import App

MODULE = """
import json, os, time
from taskq import App
app = App("proj")
app.conf.update(json.loads(os.environ["CONF"]))

@app.task(name="proj.sleep", acks_late=True)
def sleep(seconds):
    time.sleep(seconds)
"""


def worker(folder: Path, url: str, *options: str, **settings: Any) -> Worker:
    (folder / "proj.py").write_text(MODULE)
    conf = json.dumps({"broker_url": url, **settings})
    return Worker(folder, "-c", "1", *options, env={"CONF": conf}, ready=False)


def check_ends(worker: Worker, *texts: str) -> None:
    assert worker.wait_end() == 1
    log = worker.log
    for text in texts:
        assert text in log
    assert "Traceback" not in log
    assert "secret" not in log
    assert log.count("Unrecoverable error") == 1


def check_tries_again(worker: Worker, *texts: str) -> None:
    with worker:
        log = worker.wait_for_log("Trying again in")
        for text in texts:
            assert text in log
        assert "Traceback" not in log
        assert "secret" not in log


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_wrong_password(tmp_path: Path, rabbitmq_vhost: Vhost) -> None:
    url = rabbitmq_vhost.url.replace("guest:guest", "guest:secret")
    check_ends(worker(tmp_path, url), "ACCESS_REFUSED - Login was refused")


@pytest.mark.long
def test_a_wrong_password_of_redis(tmp_path: Path) -> None:
    with RedisServer(requirepass="right") as server:
        url = server.url.replace("right", "secret")
        check_tries_again(worker(tmp_path, url), "invalid username-password pair", "(1/100)")


@pytest.mark.long
def test_a_virtual_host_that_is_not_there(tmp_path: Path, rabbitmq_vhost: Vhost) -> None:
    check_tries_again(worker(tmp_path, rabbitmq_vhost.url + "x"), "NOT_ALLOWED - vhost")


@pytest.mark.long
def test_a_port_that_speaks_another_protocol(tmp_path: Path, silent_port: int) -> None:
    url = f"amqp://guest:secret@127.0.0.1:{silent_port}//"
    wrong = worker(tmp_path, url, broker_connection_timeout=0.5)
    check_tries_again(wrong, "is this the right port? Does what listens speak amqp?")


@pytest.mark.long
def test_redis_where_rabbitmq_is(tmp_path: Path, rabbitmq_vhost: Vhost) -> None:
    url = f"redis://:secret@127.0.0.1:{rabbitmq_vhost.port}/0"
    check_tries_again(worker(tmp_path, url), "Cannot connect to redis://:**@")


@pytest.mark.long
def test_a_queue_declared_otherwise(tmp_path: Path, rabbitmq_vhost: Vhost) -> None:
    with Vhost(rabbitmq_vhost.broker) as vhost:
        with Connection(vhost.url) as connection:
            Queue("celery", durable=False, channel=connection.default_channel).declare()
        check_ends(worker(tmp_path, vhost.url), "PRECONDITION_FAILED - inequivalent arg 'durable'")


@pytest.mark.long
def test_access_refused(tmp_path: Path, rabbitmq_vhost: Vhost) -> None:
    with Vhost(rabbitmq_vhost.broker) as vhost:
        vhost.ctl("set_permissions", "guest", "^$", "^$", "^$")
        check_ends(worker(tmp_path, vhost.url), "ACCESS_REFUSED - access to")


@pytest.mark.long
def test_a_full_redis(tmp_path: Path) -> None:
    with RedisServer(maxmemory="1", maxmemory_policy="noeviction") as server:
        check_ends(worker(tmp_path, server.url), "used memory > 'maxmemory'")


@pytest.mark.long
def test_a_read_only_redis(tmp_path: Path, redis_server: RedisServer) -> None:
    with RedisServer(replicaof=f"127.0.0.1 {redis_server.port}") as replica:
        check_ends(worker(tmp_path, replica.url), "read only replica")


def test_a_redis_that_evicts_is_warned_of_once(tmp_path: Path) -> None:
    with RedisServer(maxmemory="100mb", maxmemory_policy="allkeys-lru") as server:
        with Proxy(server.port) as proxy, worker(tmp_path, proxy.through(server.url)) as evicting:
            evicting.wait_ready()
            before = proxy.accepted
            proxy.cut()
            wait_until(lambda: proxy.accepted > before, "it connects again")
        assert evicting.log.count("maxmemory-policy is allkeys-lru") == 1


def test_quorum_queues(tmp_path: Path, rabbitmq_vhost: Vhost) -> None:
    settings = {"task_default_queue": "quorum", "task_default_queue_type": "quorum"}
    with Vhost(rabbitmq_vhost.broker) as vhost:
        with worker(tmp_path, vhost.url, **settings) as each:
            log = each.wait_ready().log
            assert "Global QoS is disabled" in log
        assert ["quorum", "quorum"] in vhost.queues("name", "type")
        assert "Traceback" not in each.log


@pytest.mark.long
def test_heartbeats_are_sent_while_a_task_runs_in_the_loop(
    tmp_path: Path, rabbitmq_vhost: Vhost
) -> None:
    with Vhost(rabbitmq_vhost.broker) as vhost:
        busy = worker(tmp_path, vhost.url, broker_heartbeat=1)
        with busy, Connection(vhost.url) as connection:
            busy.wait_ready()
            # Celery's worker of this kind is thrown out after three seconds.
            message = {"task": "proj.sleep", "id": "1"}
            producer = connection.Producer()
            for _ in range(2):
                producer.publish([[6], {}, {}], routing_key="celery", headers=message)
            busy.wait_for_log("succeeded in", times=2)
            assert "Connection to broker lost" not in busy.log


@pytest.mark.long
def test_a_broker_that_falls_silent_is_noticed(tmp_path: Path, rabbitmq_vhost: Vhost) -> None:
    with Vhost(rabbitmq_vhost.broker) as vhost, Proxy(vhost.port) as proxy:
        url = proxy.through(vhost.url)
        with worker(tmp_path, url, broker_heartbeat=1, broker_connection_timeout=1) as deaf:
            deaf.wait_ready()
            proxy.stall()
            deaf.wait_for_log("no heartbeat from the broker")
            proxy.flow()
            proxy.cut()
            deaf.wait_for_log("Connected to", times=2)
            wait_until(lambda: vhost.queues("name", "consumers"), "it consumes")


@pytest.mark.long
def test_a_redis_that_is_frozen_is_left(tmp_path: Path) -> None:
    options = {"socket_timeout": 1, "health_check_interval": 1}
    with RedisServer() as server:
        frozen = worker(tmp_path, server.url, broker_transport_options=options)
        with frozen:
            frozen.wait_ready()
            server.pause()
            frozen.wait_for_log("Connection to broker lost")
            server.resume()
            frozen.wait_for_log("Connected to", times=2)


def check_moves(first: str, second: str, folder: Path, end_first: Callable[[], None]) -> None:
    """A worker and a client of two brokers go on with the second, once the first is gone."""
    url = f"{first};{second}"
    results = f"sqlite:///{folder}/results.db"
    both = worker(folder, url, result_backend=results)
    with both, App("client", broker=url, backend=results, set_as_current=False) as app:
        both.wait_ready()
        assert app.send_task("proj.sleep", (0,)).get(timeout=PATIENCE_S) is None
        end_first()
        # The client keeps a connection to the first one.
        result = app.send_task("proj.sleep", (0,))
        both.wait_for_log("Will retry using next failover")
        assert result.get(timeout=PATIENCE_S) is None
        # A new client begins with the first one too.
        with App("late", broker=url, backend=results, set_as_current=False) as late:
            assert late.send_task("proj.sleep", (0,)).get(timeout=PATIENCE_S) is None


@pytest.mark.long
def test_the_next_redis_of_a_list(tmp_path: Path) -> None:
    with RedisServer() as first, RedisServer() as second:
        check_moves(first.url, second.url, tmp_path, first.kill)


@pytest.mark.long
def test_the_next_rabbitmq_of_a_list(
    tmp_path: Path, private_rabbitmq: RabbitMQ, rabbitmq_vhost: Vhost
) -> None:
    with Vhost(rabbitmq_vhost.broker) as second:
        first = private_rabbitmq
        check_moves(first.url, second.url, tmp_path, first.stop)
