"""The embedded broker in the moments in which a message could be lost or doubled."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.processes import Forked
from contract.transports import Broker, Inbox
from kombu import Producer, Queue

from taskq.transports import register, sqlite_lease
from taskq.transports.sqlite_lease import sweep
from taskq.transports.sqlite_store import Outgoing
from taskq.transports.sqlite_topology import QueueOptions, declare_queue
from taskq.utils.sqlite import DatabaseLocked

register()

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """Does not wait long for a lock; with a Hub, as in a worker."""
    broker = Broker(f"sqlite:///{tmp_path}/broker.db?timeout=0.3", {}, with_hub=True)
    yield broker
    broker.close_all()


@pytest.fixture
def producer(broker: Broker) -> Producer:
    return Producer(broker.connect().channel())


@pytest.fixture
def queue(broker: Broker, producer: Producer) -> Queue:
    return broker.declare(producer.channel)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Another program's connection to the file."""
    connection = sqlite3.connect(tmp_path / "broker.db", isolation_level=None)
    yield connection
    connection.close()


def count(connection: sqlite3.Connection, table: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM taskq_{table}").fetchone()[0])


def test_a_task_that_could_not_be_acked_before_it_started_comes_again(
    broker: Broker, producer: Producer, queue: Queue, outside: sqlite3.Connection
) -> None:
    inbox = Inbox(broker, queue)
    for number in (1, 2):
        producer.publish(number, routing_key=queue.name)
    finished, starting = inbox.wait(2)
    finished.ack()
    starting.ack()
    outside.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseLocked):
        inbox.channel.flush_acks(starting.delivery_tag)
    outside.execute("ROLLBACK")
    inbox.close()
    again = Inbox(broker, queue)
    again.wait(1)
    assert again.payloads() == [2]


def test_a_task_of_somebody_else_does_not_start(
    broker: Broker, producer: Producer, queue: Queue, outside: sqlite3.Connection
) -> None:
    inbox = Inbox(broker, queue)
    for number in (1, 2):
        producer.publish(number, routing_key=queue.name)
    mine, lost = inbox.wait(2)
    outside.execute("UPDATE taskq_claimed SET session = session + 1 WHERE id = 2")
    mine.ack()
    assert inbox.channel.flush_acks(mine.delivery_tag) is True
    lost.ack()
    assert inbox.channel.flush_acks(lost.delivery_tag) is False
    assert inbox.channel.flush_acks(3) is True  # nothing to store: acked late
    assert count(outside, "message") == 1


def test_a_stored_message_is_sent_although_nobody_could_be_rung(
    broker: Broker,
    producer: Producer,
    queue: Queue,
    outside: sqlite3.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    inbox = Inbox(broker, queue)

    def fail(bells: object) -> list[str]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(sqlite_lease, "ring_all", fail)
    producer.publish(1, routing_key=queue.name)
    assert "could not ring" in caplog.text
    assert count(outside, "message") == 1
    inbox.wait(1)


def test_a_session_renewed_since_it_was_looked_at_is_not_buried(
    broker: Broker, queue: Queue, outside: sqlite3.Connection
) -> None:
    inbox = Inbox(broker, queue)
    session = inbox.channel.connection.session
    row = outside.execute("SELECT id, until FROM taskq_session").fetchone()
    assert session.renew()
    session.database.write(sqlite_lease._clean, [row], [], [], 0.0)
    assert count(outside, "session") == 1
    row = outside.execute("SELECT id, until FROM taskq_session").fetchone()
    session.database.write(sqlite_lease._clean, [row], [], [], 0.0)
    assert count(outside, "session") == 0
    assert not session.renew()


def test_a_queue_expires_counting_from_the_death_of_its_consumer(
    broker: Broker, producer: Producer, outside: sqlite3.Connection
) -> None:
    queue = broker.declare(producer.channel, "x", expires=60)
    producer.publish(1, routing_key=queue.name)

    def consume(tell: object) -> None:
        Inbox(broker, Queue(queue.name, expires=60))
        tell("consuming")  # type: ignore[operator]
        threading.Event().wait()

    with Forked(consume) as consumer:
        consumer.hear()
        # It has consumed for an hour when it dies.
        outside.execute("UPDATE taskq_queue SET used = used - 3600")
    database = producer.channel.connection.database
    for _ in range(2):
        sweep(database)
    assert count(outside, "session") == 0
    assert [count(outside, table) for table in ("queue", "message", "ready")] == [1, 1, 1]


def test_a_queue_made_in_a_change_that_was_undone_is_not_remembered(
    broker: Broker, producer: Producer, queue: Queue, outside: sqlite3.Connection
) -> None:
    good = Outgoing("", "new", 9, None, None, "[]", b"")
    with pytest.raises(sqlite3.IntegrityError):
        producer.channel.put([good, good._replace(head=None)], 0.0)  # type: ignore[arg-type]
    # Takes the id and the version that the undone change had.
    declare_queue(outside, "other", QueueOptions(), 0.0)
    producer.channel.put([good], 0.0)
    query = "SELECT q.name FROM taskq_queue q JOIN taskq_ready r ON r.queue = q.id"
    assert outside.execute(query).fetchall() == [("new",)]


def test_a_connection_that_could_not_be_closed_properly_keeps_nothing(
    broker: Broker, producer: Producer, queue: Queue, outside: sqlite3.Connection
) -> None:
    inbox = Inbox(broker, queue)
    producer.publish(1, routing_key=queue.name)
    inbox.wait(1)
    outside.execute("BEGIN IMMEDIATE")
    inbox.connection.collect()
    outside.execute("ROLLBACK")
    transport = inbox.channel  # keeps the objects of the connection alive
    outside.execute("UPDATE taskq_session SET until = 0")  # nobody renews it
    sweep(producer.channel.connection.database)
    again = Inbox(broker, queue)
    again.wait(1)
    assert transport.closed
