"""What any broker transport of ours must do, as seen through kombu.

An adapter is a subclass whose `url` fixture gives a broker of its own, and which names in `LACKS`
what its broker cannot do. Each test runs twice: with kombu's Hub, if the transport registers with
one, and with drain_events.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import pytest
from kombu import Consumer, Exchange, Producer, Queue
from kombu.asynchronous import Hub
from kombu.exceptions import ChannelError
from patience import PATIENCE_S

from taskq.app.connections import Connection


class Broker:
    """A test's way to a broker: connections that are closed at its end, and a way to wait."""

    def __init__(
        self,
        url: str,
        options: dict[str, Any],
        with_hub: bool,
        lacks: frozenset[str] = frozenset(),
    ) -> None:
        self.url, self.options, self.with_hub, self.lacks = url, options, with_hub, lacks
        self._connections: list[Connection] = []
        self._hubs: dict[int, Hub] = {}
        self.prefix = uuid4().hex[:8]

    def connect(self) -> Connection:
        connection = Connection(self.url, transport_options=dict(self.options))
        connection.connect()
        self._connections.append(connection)
        return connection

    def name(self, name: str) -> str:
        """A name no other test uses: some brokers in memory are one for the whole process."""
        return f"{self.prefix}-{name}"

    def queue(self, name: str = "q", **options: Any) -> Queue:
        return Queue(self.name(name), **options)

    def declare(self, channel: Any, name: str = "q", **options: Any) -> Queue:
        queue = self.queue(name, **options)(channel)
        queue.declare()
        return queue

    def count(self, queue: Queue) -> int:
        """How many messages wait in a declared queue; some brokers know no empty one."""
        try:
            return int(queue.queue_declare(passive=True).message_count)
        except ChannelError:
            if "empty_queues" not in self.lacks:
                raise
            return 0

    def run(
        self, connection: Connection, until: Callable[[], Any], seconds: float = PATIENCE_S
    ) -> bool:
        """Deliver what comes until the condition holds; says whether it does in time."""
        deadline = time.monotonic() + seconds
        while not until():
            if time.monotonic() >= deadline:
                return False
            self.turn(connection)
        return True

    def turn(self, connection: Connection) -> None:
        """Let a loop come round once, or wait for one message."""
        if self.with_hub:
            hub = self._hub(connection)
            timer = hub.call_later(0.02, lambda: None)
            hub.run_once()
            timer.cancel()
        else:
            try:
                connection.drain_events(timeout=0.02)
            except TimeoutError:
                pass

    def settle(self, connection: Connection) -> None:
        """Let a loop send what it has collected."""
        for _ in range(3):
            self.turn(connection)

    def _hub(self, connection: Connection) -> Hub:
        hub = self._hubs.get(id(connection))
        if hub is None:
            hub = self._hubs[id(connection)] = Hub()
            connection.register_with_event_loop(hub)
        return hub

    def close(self, connection: Connection) -> None:
        connection.release()
        hub = self._hubs.pop(id(connection), None)
        if hub is not None:
            hub.close()

    def close_all(self) -> None:
        for connection in self._connections:
            self.close(connection)


class Inbox:
    """A consumer that keeps what it gets."""

    def __init__(self, broker: Broker, *queues: Queue, prefetch: int = 0, **options: Any) -> None:
        self.broker = broker
        self.connection = broker.connect()
        self.channel = self.connection.channel()
        if prefetch:
            self.channel.basic_qos(0, prefetch, False)
        self.messages: list[Any] = []
        self.consumer = Consumer(
            self.channel, list(queues), on_message=self.messages.append, **options
        )
        self.consumer.consume()

    def wait(self, count: int, seconds: float = PATIENCE_S) -> list[Any]:
        self.broker.run(self.connection, lambda: len(self.messages) >= count, seconds)
        assert len(self.messages) == count
        return self.messages

    def wait_long(self) -> list[Any]:
        """What is there after a while in which more could have come."""
        self.broker.settle(self.connection)
        return self.messages

    def payloads(self) -> list[Any]:
        return [message.payload for message in self.messages]

    def ack(self) -> None:
        for message in self.messages:
            message.ack()
        self.broker.settle(self.connection)

    def close(self) -> None:
        self.broker.close(self.connection)


class TransportContract:
    """The tests; pytest collects the adapters' subclasses."""

    #: Of: hub, restore, ack_multiple, priority, eta, ttl, auto_delete, conditional_delete, shared,
    #: batch, empty_queues (only a queue with messages can be seen), fanout_queues (a fanout
    #: exchange reaches consumers, and no queue keeps it).
    LACKS: frozenset[str] = frozenset()
    OPTIONS: dict[str, Any] = {}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        loops = ["drain"] if "hub" in self.LACKS else ["drain", "hub"]
        metafunc.parametrize("loop", loops)

    @pytest.fixture
    def broker(self, url: str, loop: str) -> Iterator[Broker]:
        broker = Broker(url, self.OPTIONS, loop == "hub", self.LACKS)
        yield broker
        broker.close_all()

    def needs(self, feature: str) -> None:
        if feature in self.LACKS:
            pytest.skip(f"this broker has no {feature}")

    @pytest.fixture
    def channel(self, broker: Broker) -> Any:
        return broker.connect().channel()

    @pytest.fixture
    def producer(self, channel: Any) -> Producer:
        return Producer(channel, serializer="json")

    def send(self, producer: Producer, queue: Queue, *bodies: Any, **options: Any) -> None:
        for body in bodies:
            producer.publish(body, routing_key=queue.name, **options)

    # -- messages

    def test_a_message_arrives_as_it_was_sent(self, broker: Broker, producer: Producer) -> None:
        queue = broker.declare(producer.channel)
        headers = {"task": "t", "none": None, "list": [1, {"a": "ä"}]}
        body = {"answer": 42, "text": "žluťoučký 🐎"}
        self.send(
            producer, queue, body, headers=headers, correlation_id="c", reply_to="r", priority=3
        )
        inbox = Inbox(broker, queue)
        message = inbox.wait(1)[0]
        assert message.payload == body
        assert {key: message.headers[key] for key in headers} == headers
        assert message.properties["correlation_id"] == "c"
        assert message.properties["reply_to"] == "r"
        assert message.properties["priority"] == 3
        assert message.content_type == "application/json"
        assert message.content_encoding == "utf-8"
        assert message.delivery_info["routing_key"] == queue.name
        assert message.delivery_info["exchange"] == ""
        assert not message.delivery_info.get("redelivered")
        assert not message.headers.get("redelivered")

    def test_bytes_stay_bytes(self, broker: Broker, producer: Producer) -> None:
        queue = broker.declare(producer.channel)
        body = bytes(range(256))
        producer.publish(body, routing_key=queue.name, content_type="application/data")
        assert bytes(Inbox(broker, queue).wait(1)[0].body) == body

    def test_ten_megabytes_arrive(self, broker: Broker, producer: Producer) -> None:
        queue = broker.declare(producer.channel)
        body = b"0123456789" * 1_000_000
        producer.publish(body, routing_key=queue.name, content_type="application/data")
        inbox = Inbox(broker, queue)
        assert bytes(inbox.wait(1)[0].body) == body
        inbox.ack()

    def test_messages_come_in_the_order_they_were_sent(
        self, broker: Broker, producer: Producer
    ) -> None:
        queue = broker.declare(producer.channel)
        self.send(producer, queue, *range(150))
        inbox = Inbox(broker, queue)
        inbox.wait(150)
        assert inbox.payloads() == list(range(150))

    def test_a_waiting_consumer_gets_what_comes(self, broker: Broker, producer: Producer) -> None:
        queue = broker.declare(producer.channel)
        inbox = Inbox(broker, queue)
        assert inbox.wait_long() == []
        for number in range(5):
            self.send(producer, queue, number)
            inbox.wait(number + 1)
        assert inbox.payloads() == list(range(5))

    def test_draining_an_empty_queue_times_out(self, broker: Broker, channel: Any) -> None:
        queue = broker.declare(channel)
        with channel.Consumer([queue], on_message=print), pytest.raises(socket.timeout):
            channel.connection.client.drain_events(timeout=0.05)

    # -- settling

    def test_what_is_acked_never_comes_back(self, broker: Broker, producer: Producer) -> None:
        queue = broker.declare(producer.channel)
        self.send(producer, queue, 1, 2)
        inbox = Inbox(broker, queue)
        inbox.wait(2)
        inbox.ack()
        inbox.close()
        assert Inbox(broker, queue).wait_long() == []
        assert broker.count(queue(producer.channel)) == 0

    def test_ack_multiple_settles_all_up_to_it(self, broker: Broker, producer: Producer) -> None:
        self.needs("ack_multiple")
        queue = broker.declare(producer.channel)
        self.send(producer, queue, 1, 2, 3)
        inbox = Inbox(broker, queue)
        inbox.wait(3)[1].ack(multiple=True)
        inbox.close()
        again = Inbox(broker, queue)
        again.wait(1)
        assert again.payloads() == [3]

    def test_without_ack_a_message_is_gone_when_delivered(
        self, broker: Broker, producer: Producer
    ) -> None:
        queue = broker.declare(producer.channel)
        self.send(producer, queue, 1)
        inbox = Inbox(broker, queue, no_ack=True)
        inbox.wait(1)
        inbox.close()
        assert Inbox(broker, queue).wait_long() == []

    def test_closing_gives_back_what_is_not_acked(self, broker: Broker, producer: Producer) -> None:
        self.needs("restore")
        queue = broker.declare(producer.channel)
        self.send(producer, queue, 1, 2, 3)
        inbox = Inbox(broker, queue, prefetch=2)
        inbox.wait(2)[0].ack()
        broker.settle(inbox.connection)
        inbox.close()
        again = Inbox(broker, queue)
        again.wait(2)
        assert again.payloads() == [2, 3]
        assert again.messages[0].headers.get("redelivered") is True
        assert again.messages[0].delivery_info.get("redelivered") is True

    def test_reject_drops(self, broker: Broker, producer: Producer) -> None:
        queue = broker.declare(producer.channel)
        self.send(producer, queue, 1)
        inbox = Inbox(broker, queue)
        inbox.wait(1)[0].reject()
        broker.settle(inbox.connection)
        inbox.close()
        assert Inbox(broker, queue).wait_long() == []

    def test_requeue_puts_back_behind_the_others(self, broker: Broker, producer: Producer) -> None:
        self.needs("restore")
        queue = broker.declare(producer.channel)
        self.send(producer, queue, 1, 2)
        inbox = Inbox(broker, queue, prefetch=1)
        inbox.wait(1)[0].requeue()
        inbox.wait(2)[1].ack()
        inbox.wait(3)
        assert inbox.payloads() == [1, 2, 1]
        assert inbox.messages[2].delivery_info.get("redelivered") is True
        inbox.messages[2].ack()

    def test_recover_delivers_again(self, broker: Broker, producer: Producer) -> None:
        self.needs("restore")
        queue = broker.declare(producer.channel)
        self.send(producer, queue, 1, 2)
        inbox = Inbox(broker, queue)
        inbox.wait(2)
        inbox.consumer.recover(requeue=True)
        inbox.wait(4)
        assert sorted(inbox.payloads()[2:]) == [1, 2]
        assert all(m.delivery_info.get("redelivered") for m in inbox.messages[2:])

    def test_prefetch_holds_messages_back(self, broker: Broker, producer: Producer) -> None:
        queue = broker.declare(producer.channel)
        self.send(producer, queue, *range(5))
        inbox = Inbox(broker, queue, prefetch=2)
        inbox.wait(2)
        assert len(inbox.wait_long()) == 2
        inbox.messages[0].ack()
        inbox.wait(3)
        assert len(inbox.wait_long()) == 3

    def test_a_bigger_window_takes_effect(self, broker: Broker, producer: Producer) -> None:
        queue = broker.declare(producer.channel)
        self.send(producer, queue, *range(5))
        inbox = Inbox(broker, queue, prefetch=1)
        inbox.wait(1)
        inbox.channel.basic_qos(0, 4, False)
        inbox.wait(4)
        assert len(inbox.wait_long()) == 4

    def test_get_one_message(self, broker: Broker, producer: Producer) -> None:
        queue = broker.declare(producer.channel)
        assert queue.get() is None
        self.send(producer, queue, 1, 2)
        first = queue.get()
        assert first.payload == 1
        first.ack()
        assert queue.get(no_ack=True).payload == 2
        assert queue.get() is None

    # -- consumers

    def test_a_cancelled_consumer_gets_nothing(self, broker: Broker, producer: Producer) -> None:
        queue = broker.declare(producer.channel)
        inbox = Inbox(broker, queue)
        inbox.consumer.cancel()
        self.send(producer, queue, 1)
        assert inbox.wait_long() == []
        assert len(Inbox(broker, queue).wait(1)) == 1

    def test_consumers_share_a_queue(self, broker: Broker, producer: Producer) -> None:
        queue = broker.declare(producer.channel)
        inboxes = [Inbox(broker, queue, prefetch=3) for _ in range(2)]
        self.send(producer, queue, *range(6))
        for inbox in inboxes:
            inbox.wait(3)
        assert sorted(inboxes[0].payloads() + inboxes[1].payloads()) == list(range(6))

    def test_queues_take_turns(self, broker: Broker, producer: Producer) -> None:
        queues = [broker.declare(producer.channel, name) for name in ("a", "b")]
        for queue in queues:
            self.send(producer, queue, *[queue.name] * 4)
        inbox = Inbox(broker, *queues, prefetch=4)
        inbox.wait(4)
        assert {inbox.payloads().count(queue.name) for queue in queues} == {2}

    # -- routing

    def exchange(self, broker: Broker, kind: str) -> Exchange:
        return Exchange(broker.name(kind), kind)

    @pytest.mark.parametrize(
        ("kind", "bindings", "key", "expected"),
        [
            ("direct", ["red", "blue"], "red", [0]),
            ("direct", ["red", "red"], "red", [0, 1]),
            ("topic", ["task.#", "worker.*", "#"], "worker.heartbeat", [1, 2]),
            ("topic", ["*.received", "task.*.x"], "task.received", [0]),
            ("fanout", ["a", "b"], "anything", [0, 1]),
        ],
    )
    def test_exchanges_route(
        self,
        broker: Broker,
        producer: Producer,
        kind: str,
        bindings: list[str],
        key: str,
        expected: list[int],
    ) -> None:
        if kind == "fanout":
            self.needs("fanout_queues")
        exchange = self.exchange(broker, kind)
        queues = [
            broker.declare(producer.channel, f"q{number}", exchange=exchange, routing_key=binding)
            for number, binding in enumerate(bindings)
        ]
        producer.publish({}, exchange=exchange, routing_key=key)
        counts = [broker.count(queue) for queue in queues]
        assert counts == [int(number in expected) for number in range(len(queues))]

    def test_an_unbound_queue_gets_nothing_more(self, broker: Broker, producer: Producer) -> None:
        exchange = self.exchange(broker, "direct")
        queue = broker.declare(producer.channel, exchange=exchange, routing_key="k")
        queue.unbind_from(exchange, "k")
        producer.publish({}, exchange=exchange, routing_key="k")
        assert broker.count(queue) == 0

    def test_other_connections_see_queues_and_bindings(
        self, broker: Broker, producer: Producer
    ) -> None:
        self.needs("shared")
        exchange = self.exchange(broker, "topic")
        queue = broker.declare(producer.channel, exchange=exchange, routing_key="a.#")
        other = Producer(broker.connect().channel())
        other.publish({}, exchange=exchange.name, routing_key="a.b")
        assert broker.count(queue) == 1

    # -- queues

    def test_a_passive_declaration_only_looks(self, broker: Broker, producer: Producer) -> None:
        with pytest.raises(ChannelError, match="no queue"):
            broker.queue("missing")(producer.channel).queue_declare(passive=True)
        queue = broker.declare(producer.channel)
        self.send(producer, queue, 1, 2)
        assert queue.queue_declare(passive=True)[:2] == (queue.name, 2)

    def test_a_passive_exchange_declaration_only_looks(self, broker: Broker, channel: Any) -> None:
        exchange = Exchange(broker.name("x"), "direct")(channel)
        with pytest.raises(ChannelError, match="no exchange"):
            exchange.declare(passive=True)
        exchange.declare()
        exchange.declare(passive=True)

    def test_purge_removes_and_counts(self, broker: Broker, producer: Producer) -> None:
        queue = broker.declare(producer.channel)
        self.send(producer, queue, 1, 2, 3)
        assert queue.purge() == 3
        assert queue.purge() == 0
        assert queue.get() is None

    def test_a_deleted_queue_is_gone(self, broker: Broker, producer: Producer) -> None:
        exchange = self.exchange(broker, "direct")
        queue = broker.declare(producer.channel, exchange=exchange, routing_key="k")
        producer.publish({}, exchange=exchange, routing_key="k")
        queue.delete()
        with pytest.raises(ChannelError):
            queue.queue_declare(passive=True)

    @pytest.mark.parametrize("condition", ["if_empty", "if_unused"])
    def test_a_condition_keeps_a_queue(
        self, broker: Broker, producer: Producer, condition: str
    ) -> None:
        self.needs("conditional_delete")
        queue = broker.declare(producer.channel)
        if condition == "if_empty":
            self.send(producer, queue, 1)
        else:
            Inbox(broker, queue)
        # AMQP raises, kombu's virtual transports only keep the queue.
        try:
            queue.delete(**{condition: True})
        except ChannelError as exc:
            assert "PRECONDITION_FAILED" in str(exc)
        assert queue.queue_declare(passive=True).queue == queue.name

    def test_an_auto_delete_queue_ends_with_its_consumer(
        self, broker: Broker, channel: Any
    ) -> None:
        self.needs("auto_delete")
        queue = broker.declare(channel, auto_delete=True)
        inbox = Inbox(broker, queue)
        queue.queue_declare(passive=True)
        inbox.close()
        with pytest.raises(ChannelError):
            queue.queue_declare(passive=True)

    def test_an_exclusive_queue_ends_with_its_connection(
        self, broker: Broker, channel: Any
    ) -> None:
        self.needs("auto_delete")
        connection = broker.connect()
        queue = broker.declare(connection.channel(), exclusive=True)
        queue(channel).queue_declare(passive=True)
        broker.close(connection)
        with pytest.raises(ChannelError):
            queue(channel).queue_declare(passive=True)

    def test_a_message_dies_with_its_time_to_live(self, broker: Broker, producer: Producer) -> None:
        self.needs("ttl")
        queue = broker.declare(producer.channel, message_ttl=0.02)
        self.send(producer, queue, 1)
        deadline = time.monotonic() + 0.03
        broker.run(producer.channel.connection.client, lambda: time.monotonic() > deadline, 1)
        assert Inbox(broker, queue).wait_long() == []

    # -- priority, ETA, batches

    def test_higher_priority_first(self, broker: Broker, producer: Producer) -> None:
        self.needs("priority")
        queue = broker.declare(producer.channel)
        for number, priority in enumerate([None, 0, 9, 5, 9, 42, -3]):
            self.send(producer, queue, number, priority=priority)
        inbox = Inbox(broker, queue)
        inbox.wait(7)
        assert inbox.payloads() == [2, 4, 5, 3, 0, 1, 6]

    def test_a_message_with_an_eta_stays_until_due(
        self, broker: Broker, producer: Producer
    ) -> None:
        self.needs("eta")
        queue = broker.declare(producer.channel)
        inbox = Inbox(broker, queue, prefetch=1)
        now = datetime.now(timezone.utc)
        for body, eta in (("tomorrow", now + timedelta(1)), ("past", now - timedelta(1))):
            self.send(producer, queue, body, headers={"eta": eta.isoformat()})
        inbox.wait(1)
        assert inbox.payloads() == ["past"]
        # It occupies no place in the window and is counted with the queue.
        assert broker.count(queue) == 1
        inbox.messages[0].ack()
        soon = datetime.now(timezone.utc) + timedelta(seconds=0.12)
        self.send(producer, queue, "soon", headers={"eta": soon.isoformat()})
        inbox.wait(2)
        assert soon <= datetime.now(timezone.utc)
        assert inbox.payloads()[1] == "soon"

    def test_a_batch_is_sent_at_its_end(self, broker: Broker, producer: Producer) -> None:
        self.needs("batch")
        queue = broker.declare(producer.channel)
        inbox = Inbox(broker, queue)
        with producer.batch() as batch:
            self.send(producer, queue, 1, 2)
            assert broker.count(queue) == 0
            batch.flush()
            self.send(producer, queue, 3)
        inbox.wait(3)
        assert inbox.payloads() == [1, 2, 3]

    def test_a_batch_that_fails_sends_nothing(self, broker: Broker, producer: Producer) -> None:
        self.needs("batch")
        queue = broker.declare(producer.channel)
        with pytest.raises(ZeroDivisionError), producer.batch():
            self.send(producer, queue, 1)
            raise ZeroDivisionError
        assert queue.get() is None
