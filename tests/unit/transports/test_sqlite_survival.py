"""The embedded broker in the moments in which a message could be lost or doubled."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.processes import Forked
from contract.transports import Broker, Inbox
from kombu import Exchange, Producer, Queue

from taskq.transports import register, sqlite_lease
from taskq.transports.sqlite_lease import sweep
from taskq.transports.sqlite_store import Outgoing
from taskq.transports.sqlite_topology import SCHEMA, QueueOptions, bind, declare_queue
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
    outside.execute(
        "UPDATE taskq_claimed SET session = session + 1 "
        "WHERE id = (SELECT max(id) FROM taskq_claimed)"
    )
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


def test_a_route_that_another_process_has_changed_is_not_taken(
    broker: Broker, producer: Producer, outside: sqlite3.Connection
) -> None:
    exchange = Exchange("x", "fanout")
    queue = broker.declare(producer.channel, "first", exchange=exchange)
    for number in (1, 2):
        producer.publish(number, exchange="x", routing_key="")
    bind(outside, declare_queue(outside, "second", QueueOptions(), 0.0), "x", "")
    producer.publish(3, exchange="x", routing_key="")
    counts = [
        q.queue_declare(passive=True).message_count
        for q in (queue, Queue("second")(producer.channel))
    ]
    assert counts == [3, 1]


def test_a_message_put_at_the_end_stays_before_those_that_come(
    broker: Broker, producer: Producer, queue: Queue
) -> None:
    inbox = Inbox(broker, queue, prefetch=2)
    for number in (1, 2):
        producer.publish(number, routing_key=queue.name)
    first, second = inbox.wait(2)
    second.ack()
    inbox.channel.flush_acks()
    first.reject(requeue=True)
    # Its id is the highest now, and gone when the next message is published.
    inbox.close()
    for number in (3, 4):
        producer.publish(number, routing_key=queue.name)
    again = Inbox(broker, queue)
    again.wait(3)
    assert again.payloads() == [1, 3, 4]


def test_a_clock_that_is_set_back_changes_no_order(
    broker: Broker,
    producer: Producer,
    queue: Queue,
    outside: sqlite3.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    query = "SELECT id FROM taskq_message ORDER BY id"
    producer.publish(1, routing_key=queue.name)
    (newest,) = outside.execute(query).fetchone()
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    producer.publish(2, routing_key=queue.name)
    good = Outgoing("", queue.name, 9, None, None, '[{}, {"delivery_info": {}}, null, null]', b"3")
    producer.channel.put([good], 1000.0)
    monkeypatch.undo()
    producer.publish(4, routing_key=queue.name)
    ids = [id for (id,) in outside.execute(query)]
    assert ids[:3] == [newest, newest + 1, newest + 2] and len(ids) == 4
    inbox = Inbox(broker, queue)
    assert [message.body for message in inbox.wait(4)] == [b"1", b"2", b"3", b"4"]


def test_an_id_does_not_come_again(
    broker: Broker, producer: Producer, queue: Queue, outside: sqlite3.Connection
) -> None:
    seen: list[int] = []
    inbox = Inbox(broker, queue)
    for number in range(1, 4):
        producer.publish(number, routing_key=queue.name)
        seen += [id for (id,) in outside.execute("SELECT id FROM taskq_message")]
        inbox.wait(number)[-1].ack()
        inbox.channel.flush_acks()
        assert count(outside, "message") == 0
    assert seen == sorted(set(seen)) and len(seen) == 3


def test_a_file_of_the_first_version_keeps_its_messages(
    tmp_path: Path, outside: sqlite3.Connection
) -> None:
    outside.execute("CREATE TABLE taskq_schema (part TEXT PRIMARY KEY, version INTEGER NOT NULL)")
    outside.execute("INSERT INTO taskq_schema VALUES ('broker', 1)")
    for statement in SCHEMA[0]:
        outside.execute(statement)
    queue = declare_queue(outside, "old", QueueOptions(), 0.0)
    head = '[{}, {"delivery_info": {}}, null, null]'
    for id in (1, 2, 3):
        row = (id, head, str(id).encode(), None, None)
        outside.execute("INSERT INTO taskq_message VALUES (?, ?, ?, ?, ?)", row)
    outside.execute("INSERT INTO taskq_ready VALUES (?, 9, 2, 2, 0)", (queue,))
    outside.execute("INSERT INTO taskq_delayed VALUES (?, 1.0, 3, 9)", (queue,))
    # Reserved by a worker that is gone.
    outside.execute("INSERT INTO taskq_session VALUES (7, 'x', 0, 1, '', 0)")
    outside.execute("INSERT INTO taskq_claimed VALUES (1, 7, ?, 9, 1, 0)", (queue,))
    broker = Broker(f"sqlite:///{tmp_path}/broker.db", {}, with_hub=True)
    try:
        Producer(broker.connect().channel()).publish(4, routing_key="old")
        inbox = Inbox(broker, Queue("old"))
        assert [message.body for message in inbox.wait(4)] == [b"1", b"2", b"3", b"4"]
    finally:
        broker.close_all()
