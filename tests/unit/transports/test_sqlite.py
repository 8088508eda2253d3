"""The embedded broker where the contract does not reach: processes, leases, bells, trouble."""

from __future__ import annotations

import gc
import glob
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from contract.processes import Forked
from contract.transports import Broker, Inbox
from kombu import Connection, Exchange, Producer, Queue
from kombu.exceptions import ChannelError, EncodeError, OperationalError
from patience import PATIENCE_S, wait_until

from taskq.exceptions import ImproperlyConfigured
from taskq.transports import register
from taskq.transports.sqlite import FAST_LOOK_S, database_path
from taskq.transports.sqlite_bell import Bell
from taskq.transports.sqlite_lease import LeaseLost, sweep
from taskq.utils.sqlite import DatabaseLocked, open_database

register()

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/broker.db"


@pytest.fixture
def broker(url: str) -> Iterator[Broker]:
    broker = Broker(url, {}, with_hub=False)
    yield broker
    broker.close_all()


@pytest.fixture
def producer(broker: Broker) -> Producer:
    return Producer(broker.connect().channel())


@pytest.fixture
def queue(broker: Broker, producer: Producer) -> Queue:
    return broker.declare(producer.channel)


def send(producer: Producer, queue: Queue, *bodies: Any, **options: Any) -> None:
    for body in bodies:
        producer.publish(body, routing_key=queue.name, **options)


def count(queue: Queue) -> int:
    return int(queue.queue_declare(passive=True).message_count)


# -- what a connection says about itself


def test_names(broker: Broker, url: str, tmp_path: Path) -> None:
    connection = broker.connect()
    assert connection.transport.driver_type == "sqlite"
    assert connection.transport.driver_version() == sqlite3.sqlite_version
    assert connection.as_uri() == url
    with Connection(f"{url}?timeout=3") as other:
        assert other.as_uri() == f"sqlite:///{tmp_path}/broker.db?timeout=3"
    assert connection.supports_heartbeats is False
    assert connection.transport.supports_ev is True


def test_a_relative_path_is_shown_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert database_path("sqlite:///taskq.db") == f"{tmp_path}/taskq.db"
    with Connection("sqlite:///taskq.db") as connection:
        assert connection.as_uri() == f"sqlite:///{tmp_path}/taskq.db"
        assert connection.clone().connect()
    assert (tmp_path / "taskq.db").exists()


@pytest.mark.parametrize("lease", [0, -1, "30", True])
def test_a_lease_is_a_number_of_seconds(url: str, lease: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"lease.*expected seconds"):
        Connection(url, transport_options={"lease": lease}).connect()


# -- bad input


def test_publishing_to_an_unknown_exchange_says_so(producer: Producer) -> None:
    with pytest.raises(ChannelError, match="no exchange 'nowhere'; declare it"):
        producer.publish({}, exchange="nowhere", routing_key="x")


def test_an_exchange_keeps_its_type(producer: Producer) -> None:
    Exchange("x", "direct")(producer.channel).declare()
    with pytest.raises(ChannelError, match="exists with type 'direct', cannot become 'topic'"):
        Exchange("x", "topic")(producer.channel).declare()


def test_an_unknown_exchange_type(producer: Producer) -> None:
    with pytest.raises(ChannelError, match="'headers'; this broker has direct, topic, fanout"):
        Exchange("x", "headers")(producer.channel).declare()


def test_headers_that_cannot_be_written(producer: Producer, queue: Queue) -> None:
    with pytest.raises(EncodeError, match="hold what JSON cannot"):
        send(producer, queue, 1, headers={"x": object()})
    assert count(queue) == 0


def test_an_eta_that_is_no_date_is_left_to_the_worker(producer: Producer, queue: Queue) -> None:
    send(producer, queue, 1, headers={"eta": "soon"})
    assert queue.get().headers["eta"] == "soon"


def test_a_file_that_is_no_database_is_an_operational_error(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("not a database at all, only text" * 50)
    connection = Connection(f"sqlite:///{tmp_path}/a.db")
    with pytest.raises(OperationalError, match=r"a\.db is not a usable SQLite database"):
        connection.ensure_connection(max_retries=3)


# -- trouble with the file


@pytest.fixture
def impatient(url: str, queue: Queue) -> Iterator[Broker]:
    """The same broker, seen by those who do not wait long for a lock."""
    broker = Broker(f"{url}?timeout=0.1", {}, with_hub=False)
    yield broker
    broker.close_all()


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    holder = sqlite3.connect(tmp_path / "broker.db", isolation_level=None)
    yield holder
    holder.close()


def test_a_locked_file_is_an_operational_error(
    impatient: Broker, queue: Queue, lock: sqlite3.Connection
) -> None:
    producer = Producer(impatient.connect().channel())
    lock.execute("BEGIN IMMEDIATE")
    policy = {"max_retries": 1, "interval_start": 0.01}
    with pytest.raises(OperationalError, match=r"locked for 0\.1 s"):
        send(producer, queue, 1, retry=True, retry_policy=policy)
    lock.execute("ROLLBACK")
    send(producer, queue, 2, retry=True)
    assert queue.get().payload == 2


def test_a_full_disk_is_an_operational_error(producer: Producer, queue: Queue) -> None:
    database = producer.channel.connection.database
    database.write(lambda connection: connection.execute("PRAGMA max_page_count = 60"))
    with pytest.raises(OperationalError, match=r"no room to write.*Nothing of this change"):
        send(producer, queue, "x" * 1_000_000)
    send(producer, queue, "small")
    assert queue.get().payload == "small"


def test_an_ack_that_could_not_be_stored_is_kept(
    impatient: Broker, producer: Producer, queue: Queue, lock: sqlite3.Connection
) -> None:
    send(producer, queue, 1)
    inbox = Inbox(impatient, queue)
    message = inbox.wait(1)[0]
    lock.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseLocked):
        message.ack()
    lock.execute("ROLLBACK")
    inbox.close()
    assert queue.get() is None


def test_a_loop_outlives_a_locked_file(
    impatient: Broker,
    producer: Producer,
    queue: Queue,
    lock: sqlite3.Connection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    impatient.with_hub = True
    inbox = Inbox(impatient, queue, prefetch=1)
    send(producer, queue, 1, 2)
    message = inbox.wait(1)[0]
    lock.execute("BEGIN IMMEDIATE")
    message.ack()
    impatient.run(inbox.connection, lambda: "could not be reached" in caplog.text)
    lock.execute("ROLLBACK")
    inbox.wait(2)
    assert inbox.payloads() == [1, 2]


# -- several processes


def test_each_message_is_processed_once(broker: Broker, producer: Producer, queue: Queue) -> None:
    def publish(tell: Callable[[Any], None]) -> None:
        sender = Producer(broker.connect().channel())
        for number in range(100):
            send(sender, queue, [os.getpid(), number])

    def consume(tell: Callable[[Any], None]) -> None:
        inbox = Inbox(broker, Queue(queue.name), prefetch=8)
        seen = []
        while not (seen and seen[-1] == "end"):
            inbox.connection.drain_events(timeout=PATIENCE_S)
            seen.append(inbox.messages[-1].payload)
            inbox.messages[-1].ack()
        # What was reserved behind the end belongs to the other consumers.
        inbox.close()
        tell([tuple(pair) for pair in seen[:-1]])

    producer.channel.connection.client.release()
    consumers = [Forked(consume) for _ in range(4)]
    publishers = [Forked(publish) for _ in range(2)]
    assert [process.join() for process in publishers] == [0] * 2
    ended = Producer(broker.connect().channel())
    send(ended, queue, *["end"] * 4)
    ended.channel.connection.client.release()
    seen = [pair for consumer in consumers for pair in consumer.hear()]
    assert [process.join() for process in consumers] == [0] * 4
    assert len(seen) == 200
    assert set(seen) == {(pid, n) for pid in {pid for pid, _ in seen} for n in range(100)}


def hold_messages(broker: Broker, name: str, number: int) -> Callable[[Any], None]:
    def hold(tell: Callable[[Any], None]) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        inbox = Inbox(broker, Queue(name), prefetch=number)
        inbox.wait(number)
        tell(number)
        message = inbox.messages[0]
        signal.sigwait({signal.SIGUSR1})
        tell(inbox.channel.holds(message.delivery_tag))
        message.ack()
        tell("acked")

    return hold


def test_messages_of_a_killed_process_come_back_at_once(
    broker: Broker, producer: Producer, queue: Queue, tmp_path: Path
) -> None:
    send(producer, queue, *range(5))
    with Forked(hold_messages(broker, queue.name, 3)) as holder:
        holder.hear()
        assert count(queue) == 2
        holder.kill()
        holder.join()
    assert glob.glob(f"{tmp_path}/*.bell.{holder.pid}*") == []
    inbox = Inbox(broker, queue)
    inbox.wait(5)
    assert inbox.payloads() == list(range(5))
    redelivered = [bool(m.delivery_info.get("redelivered")) for m in inbox.messages]
    assert redelivered == [True] * 3 + [False] * 2
    # The dead one's bell is gone, ours is there.
    assert len(glob.glob(f"{tmp_path}/*.bell.*")) == 1


def test_a_stalled_process_loses_its_messages_and_learns_it(
    url: str, broker: Broker, producer: Producer, queue: Queue
) -> None:
    send(producer, queue, 1, 2)
    hasty = Broker(url, {"lease": 0.3}, with_hub=False)

    def hold(tell: Callable[[Any], None]) -> None:
        logging.getLogger("celery").addHandler(_Telling(tell))
        hold_messages(hasty, queue.name, 2)(tell)

    with Forked(hold) as holder:
        assert holder.hear() == 2
        holder.kill(signal.SIGSTOP)
        inbox = Inbox(hasty, queue)
        inbox.wait(2)
        assert all(message.delivery_info["redelivered"] for message in inbox.messages)
        holder.kill(signal.SIGCONT)
        holder.kill(signal.SIGUSR1)
        assert holder.hear() is False
        assert "came late" in holder.hear()
        assert holder.hear() == "acked"
    assert all(inbox.channel.holds(message.delivery_tag) for message in inbox.messages)
    inbox.ack()
    inbox.close()
    assert queue.get() is None


class _Telling(logging.Handler):
    def __init__(self, tell: Callable[[Any], None]) -> None:
        super().__init__(logging.WARNING)
        self.tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        if "came late" in record.getMessage():
            self.tell(record.getMessage())


def test_a_fork_does_not_give_back_what_its_parent_holds(
    broker: Broker, producer: Producer, queue: Queue
) -> None:
    send(producer, queue, 1)
    inbox = Inbox(broker, queue)
    inbox.wait(1)

    def close(tell: Callable[[Any], None]) -> None:
        inbox.connection.collect()
        inbox.connection.release()

    with Forked(close) as child:
        assert child.join() == 0
    assert count(queue) == 0
    assert os.path.exists(inbox.connection.transport.session.bell.name)
    inbox.ack()
    inbox.close()
    assert queue.get() is None


# -- leases in one process


def test_a_lost_lease_is_noticed_before_anything_is_delivered(
    broker: Broker, producer: Producer, queue: Queue
) -> None:
    send(producer, queue, 1, 2, 3)
    inbox = Inbox(broker, queue, prefetch=3)
    inbox.connection.drain_events(timeout=PATIENCE_S)
    assert len(inbox.connection.transport.waiting) == 2
    session = inbox.connection.transport.session
    old = session.id
    bury_at_once(session.database, old)
    session.renewed -= 100  # as after a long stall
    inbox.wait(3)
    assert session.id != old
    # What may be running still takes its place in the window.
    inbox.messages[0].ack()
    inbox.wait(4)
    assert inbox.payloads() == [1, 1, 2, 3]
    assert [bool(m.headers.get("redelivered")) for m in inbox.messages] == [False, True, True, True]


def test_a_late_ack_takes_nothing_from_others(
    broker: Broker, producer: Producer, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    send(producer, queue, 1)
    inbox = Inbox(broker, queue)
    message = inbox.wait(1)[0]
    session = inbox.connection.transport.session
    bury_at_once(session.database, session.id)
    other = queue.get()
    message.ack()
    assert "came late" in caplog.text
    other.reject(requeue=True)
    assert queue.get().payload == 1


def bury_at_once(database: Any, session: int) -> None:
    """Let a session's lease have ended long ago, and let somebody notice."""
    database.write(
        lambda connection: connection.execute(
            "UPDATE taskq_session SET until = 0 WHERE id = ?", (session,)
        )
    )
    sweep(database)


def test_a_lease_is_renewed_while_the_loop_is_busy(
    url: str, queue: Queue, producer: Producer
) -> None:
    hasty = Broker(url, {"lease": 3}, with_hub=False)
    send(producer, queue, 1)
    inbox = Inbox(hasty, Queue(queue.name))
    inbox.wait(1)
    database = open_database(url)

    def until() -> float:
        return float(database.read("SELECT until FROM taskq_session")[0][0])

    first = until()
    wait_until(lambda: until() > first, "the lease moves on", turn=lambda: sweep(database))
    assert count(queue) == 0
    inbox.ack()
    hasty.close_all()


def test_a_removed_file_makes_the_consumer_connect_again(
    broker: Broker, producer: Producer, queue: Queue
) -> None:
    inbox = Inbox(broker, queue)
    transport = inbox.connection.transport
    for suffix in ("", "-wal", "-shm"):
        os.unlink(transport.database.path + suffix)
    transport.session.renew()
    with pytest.raises(LeaseLost, match="connect again to declare them anew") as raised:
        inbox.connection.drain_events(timeout=PATIENCE_S)
    assert isinstance(raised.value, inbox.connection.recoverable_connection_errors)


# -- expiry


def clock_forward(database: Any, table: str, column: str, seconds: float) -> None:
    database.write(
        lambda connection: connection.execute(f"UPDATE {table} SET {column} = {column} - {seconds}")
    )
    sweep(database)


def test_an_unused_queue_expires(broker: Broker, producer: Producer) -> None:
    queue = broker.declare(producer.channel, "x", expires=60)
    send(producer, queue, 1)
    database = producer.channel.connection.database
    inbox = Inbox(broker, queue)
    clock_forward(database, "taskq_queue", "used", 3600)
    assert queue.queue_declare(passive=True)
    inbox.close()
    clock_forward(database, "taskq_queue", "used", 30)
    assert count(queue) == 1
    clock_forward(database, "taskq_queue", "used", 31)
    with pytest.raises(ChannelError):
        queue.queue_declare(passive=True)
    assert database.read("SELECT count(*) FROM taskq_message") == [(0,)]


def test_expired_tasks_are_delivered_unless_nobody_consumes(
    broker: Broker, producer: Producer, queue: Queue
) -> None:
    send(producer, queue, 1, expiration=0)
    send(producer, queue, 2)
    database = producer.channel.connection.database
    inbox = Inbox(broker, queue)
    inbox.wait(2)
    inbox.close()
    clock_forward(database, "taskq_message", "stale", 1800)
    assert count(queue) == 2
    clock_forward(database, "taskq_message", "stale", 1801)
    assert count(queue) == 1
    assert queue.get().payload == 2


def test_dead_messages_are_removed_although_nobody_reads(
    broker: Broker, producer: Producer
) -> None:
    queue = broker.declare(producer.channel, "events", message_ttl=5)
    send(producer, queue, 1, 2)
    database = producer.channel.connection.database
    clock_forward(database, "taskq_message", "dies", 6)
    assert count(queue) == 0
    assert database.read("SELECT count(*) FROM taskq_message") == [(0,)]


# -- bells


def test_a_bell_far_down_the_tree_rings(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    broker = Broker(f"sqlite:///{deep}/broker.db", {}, with_hub=False)
    producer = Producer(broker.connect().channel())
    queue = broker.declare(producer.channel)
    inbox = Inbox(broker, queue)
    assert inbox.connection.transport.session.bell.audible

    def publish(tell: Callable[[Any], None]) -> None:
        send(Producer(broker.connect().channel()), queue, 1)

    with Forked(publish) as child:
        inbox.wait(1)
        assert child.join() == 0
    broker.close_all()


def test_a_dropped_bell_leaves_no_socket_open(tmp_path: Path) -> None:
    class Owner:
        pass

    (tmp_path / "db").touch()
    owner = Owner()
    owner.itself = owner  # type: ignore[attr-defined]
    owner.bell = Bell(str(tmp_path / "db.bell"), str(tmp_path / "db"))  # type: ignore[attr-defined]
    held, later = owner.bell._hearing, [owner]  # type: ignore[attr-defined]
    sockets = [weakref.ref(held), weakref.ref(owner.bell._ringing)]  # type: ignore[attr-defined]
    del owner
    # What is held from here comes first when the collector looks again.
    gc.collect()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        del held, later
        gc.collect()
    assert [str(warning.message) for warning in warned] == []
    assert [reference() for reference in sockets] == [None, None]


def test_the_socket_that_rings_is_closed_at_the_end_of_the_program(tmp_path: Path) -> None:
    code = (
        "import sys; from taskq.transports import sqlite_bell\n"
        "assert not sqlite_bell.ring(sys.argv[1])\n"
        "assert sqlite_bell._ringing.fileno() > 0"
    )
    command = [sys.executable, "-W", "always::ResourceWarning", "-c", code, str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_bell_the_file_is_looked_at(
    broker: Broker, producer: Producer, queue: Queue
) -> None:
    inbox = Inbox(broker, queue)
    assert inbox.wait_long() == []
    os.unlink(inbox.connection.transport.session.bell.name)

    def publish(tell: Callable[[Any], None]) -> None:
        sender = Producer(broker.connect().channel())
        send(sender, queue, 1)
        # Nobody answered: publishers do not ring there any more.
        tell(sender.channel.connection.database.read("SELECT audible FROM taskq_session"))
        send(sender, queue, 2)

    with Forked(publish) as child:
        inbox.wait(2)
        assert child.hear() == [(0,)]
    # No longer once a second.
    assert inbox.connection.transport._find_look_s() == FAST_LOOK_S
    with Forked(publish) as child:
        inbox.wait(4)
        assert child.join() == 0
    assert inbox.connection.transport._find_look_s() == FAST_LOOK_S


@pytest.mark.parametrize("with_hub", [False, True])
def test_closing_leaves_nothing_behind(
    broker: Broker, producer: Producer, queue: Queue, tmp_path: Path, with_hub: bool
) -> None:
    broker.with_hub = with_hub
    send(producer, queue, 1)
    inbox = Inbox(broker, queue, prefetch=1)
    inbox.wait(1)
    assert glob.glob(f"{tmp_path}/*.bell.*")
    inbox.close()
    assert glob.glob(f"{tmp_path}/*.bell.*") == []
    database = open_database(broker.url)
    for table in ("session", "consumer", "claimed"):
        assert database.read(f"SELECT * FROM taskq_{table}") == []


# -- queues that change under a consumer


def test_a_queue_made_anew_is_consumed_again(
    broker: Broker, producer: Producer, queue: Queue
) -> None:
    inbox = Inbox(broker, queue)
    queue.delete()
    queue.declare()
    send(producer, queue, 1)
    inbox.wait(1)


def test_with_a_hub_acks_wait_for_the_end_of_the_turn(
    url: str, producer: Producer, queue: Queue
) -> None:
    looping = Broker(url, {}, with_hub=True)
    looping.prefix = ""
    send(producer, queue, 1, 2)
    inbox = Inbox(looping, Queue(queue.name))
    inbox.wait(2)
    database = producer.channel.connection.database
    stored = "SELECT count(*) FROM taskq_message"
    inbox.messages[0].ack()
    assert database.read(stored) == [(2,)]
    inbox.channel.flush_acks()
    assert database.read(stored) == [(1,)]
    inbox.messages[1].ack()
    looping.settle(inbox.connection)
    assert database.read(stored) == [(0,)]
    looping.close_all()
