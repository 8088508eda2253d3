"""The servers as fixtures: shared by the tests of a run, or one a test may break."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import NoReturn

import pytest

from servers import (
    PostgresDatabase,
    RabbitMQ,
    RedisServer,
    ServerMissing,
    Vhost,
    shared_rabbitmq,
)

_databases = itertools.count(1)


def report_missing(problem: ServerMissing) -> NoReturn:
    """Skip, and say how to get the server; where CI says so, fail."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(str(problem))
    pytest.skip(str(problem))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis for all tests of this run; use `redis_url`, and neither stop nor flush it."""
    try:
        server = RedisServer()
    except ServerMissing as exc:
        report_missing(exc)
    with server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty database on the run's Redis, for this test alone."""
    return redis_server.database(next(_databases))


@pytest.fixture
def private_redis() -> Iterator[RedisServer]:
    """A Redis of this test's own: stop it, kill it, flush it, fill it."""
    try:
        server = RedisServer()
    except ServerMissing as exc:
        report_missing(exc)
    with server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq_vhost() -> Iterator[Vhost]:
    """A virtual host for the tests of this run: name queues uniquely, close connections never."""
    try:
        broker = shared_rabbitmq()
    except ServerMissing as exc:
        report_missing(exc)
    with Vhost(broker) as vhost:
        yield vhost
    shared_rabbitmq.cache_clear()
    if isinstance(broker, RabbitMQ):
        broker.remove()


@pytest.fixture(scope="session")
def rabbitmq_url(rabbitmq_vhost: Vhost) -> str:
    """The URL of the run's virtual host."""
    return rabbitmq_vhost.url


@pytest.fixture(scope="session")
def _rabbitmq_node() -> Iterator[RabbitMQ]:
    try:
        node = RabbitMQ()
    except ServerMissing as exc:
        report_missing(exc)
    with node:
        yield node


@pytest.fixture
def private_rabbitmq(_rabbitmq_node: RabbitMQ) -> RabbitMQ:
    """A RabbitMQ a test may stop, kill or pause; running again for each test.

    One node serves all tests of the run in turn: use `with Vhost(node) as vhost` for a clean one.
    """
    if not _rabbitmq_node.running:
        _rabbitmq_node.start()
    return _rabbitmq_node


@pytest.fixture(scope="session")
def postgres_database() -> Iterator[PostgresDatabase]:
    """An empty database on PostgreSQL, for the tests of this run."""
    try:
        database = PostgresDatabase()
    except ServerMissing as exc:
        report_missing(exc)
    with database:
        yield database
