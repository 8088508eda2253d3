"""A consumer on RabbitMQ: how its acks travel, and how its tasks wait in the broker."""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import pytest
from kombu import Consumer, Producer, Queue
from kombu.asynchronous import Hub
from patience import PATIENCE_S
from servers import Vhost

from taskq.app.connections import Connection
from taskq.transports import amqp_delays


class Desk:
    """A consumer in a kombu Hub, and what it writes to the broker."""

    def __init__(self, url: str, window: int = 0) -> None:
        self.queue = Queue(f"desk-{uuid4().hex[:8]}")
        self.connection = Connection(url)
        self.channel = self.connection.default_channel
        self.hub = Hub()
        self.connection.register_with_event_loop(self.hub)
        self.messages: list[Any] = []
        self.on_message: Callable[[Any], Any] = self.messages.append
        if window:
            self.channel.basic_qos(0, window, True)
        self.consumer = Consumer(
            self.channel, [self.queue], on_message=lambda m: self.on_message(m)
        )
        self.consumer.consume()
        self.written: list[bytes] = []
        wire = self.connection.connection.wire
        self.write = wire.write
        wire.write = self.note

    def note(self, data: Any) -> None:
        self.written.append(bytes(data))
        self.write(data)

    def send(self, count: int, **options: Any) -> None:
        with self.connection.clone() as other:
            producer = Producer(other)
            for number in range(1, count + 1):
                producer.publish(number, routing_key=self.queue.name, **options)

    def run(self, until: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not until():
            assert time.monotonic() < deadline
            timer = self.hub.call_later(0.02, lambda: None)
            self.hub.run_once()
            timer.cancel()

    def run_all(self, count: int) -> None:
        self.run(lambda: len(self.messages) >= count)

    def run_only(self, count: int) -> None:
        """Run until there are so many messages; there are no more of them a little later."""
        self.run_all(count)
        end = time.monotonic() + 0.2
        self.run(lambda: time.monotonic() > end)
        assert len(self.messages) == count

    @property
    def acks(self) -> list[list[tuple[int, bool]]]:
        """For each write: the tags acked, and whether with all below."""
        found = []
        for data in self.written:
            frames = [data[at : at + 21] for at in range(0, len(data), 21)]
            found.append([struct.unpack(">Q?", each[11:20]) for each in frames])
        return found

    def count_left(self) -> int:
        with self.connection.clone() as other:
            return int(self.queue(other.default_channel).queue_declare(passive=True).message_count)

    def close(self) -> None:
        self.connection.release()
        self.hub.close()
        with self.connection.clone() as other:
            self.queue(other.default_channel).delete()


@pytest.fixture
def desk(rabbitmq_url: str) -> Iterator[Desk]:
    desk = Desk(rabbitmq_url)
    yield desk
    desk.close()


class TestAcks:
    def test_of_a_turn_are_one_frame(self, desk: Desk) -> None:
        desk.send(5)
        desk.run_all(5)
        for message in desk.messages[:4]:
            message.ack()
        assert desk.written == []
        desk.run(lambda: desk.written)
        assert desk.acks == [[(4, True)]]

    def test_nothing_outstanding_is_acked(self, desk: Desk) -> None:
        desk.send(6)
        desk.run_all(6)
        one, two, three, four, five, six = desk.messages
        for message in (six, two, four, three):
            message.ack()
        desk.run(lambda: len(desk.written) == 1)
        assert desk.acks == [[(2, False), (3, False), (4, False), (6, False)]]
        five.ack()
        one.ack()
        desk.run(lambda: len(desk.written) == 2)
        assert desk.acks[1] == [(5, True)]

    def test_a_rejected_message_is_outstanding_no_more(self, desk: Desk) -> None:
        desk.send(3)
        desk.run_all(3)
        desk.messages[0].reject()
        desk.written.clear()
        desk.messages[1].ack()
        desk.run(lambda: desk.written)
        assert desk.acks == [[(2, False)]]

    def test_what_runs_comes_back_when_the_connection_is_cut(self, desk: Desk) -> None:
        desk.send(4)
        desk.run_all(4)
        for message in desk.messages[1:]:
            message.ack()
        desk.run(lambda: desk.written)
        desk.connection.collect()
        desk.hub.reset()
        with desk.connection.clone() as other:
            again: list[Any] = []
            with Consumer(other, [desk.queue], on_message=again.append):
                while not again:
                    other.drain_events(timeout=PATIENCE_S)
            (message,) = again
            assert (message.payload, message.delivery_info["redelivered"]) == (1, True)

    def test_none_is_held_while_the_loop_waits(self, desk: Desk) -> None:
        held: list[int] = []
        poll = desk.hub.poller.poll

        def poll_noting(timeout: float) -> Any:
            held.append(len(desk.channel._done))
            return poll(timeout)

        desk.hub.poller.poll = poll_noting
        desk.on_message = lambda message: (message.ack(), desk.messages.append(message))
        desk.send(300)
        desk.run_all(300)
        desk.run(lambda: sum(map(len, desk.acks)) and desk.acks[-1][-1][0] == 300)
        assert len(held) > 1
        assert set(held) == {0}

    def test_without_a_loop_they_are_sent_at_once(self, desk: Desk) -> None:
        desk.send(1)
        desk.run_all(1)
        desk.hub.close()
        desk.messages[0].ack()
        assert desk.acks == [[(1, False)]]

    def test_closing_sends_them(self, desk: Desk) -> None:
        desk.send(2)
        desk.run_all(2)
        desk.messages[0].ack()
        desk.messages[1].ack()
        desk.connection.close()
        assert desk.count_left() == 0


class TestWindow:
    """It is that of the channel, whichever way the broker counts it."""

    @pytest.fixture
    def desk(self, rabbitmq_url: str) -> Iterator[Desk]:
        with closing(Desk(rabbitmq_url, window=2)) as desk:
            yield desk

    def test_of_one_consumer_is_counted_by_consumer(self, desk: Desk) -> None:
        desk.send(4)
        desk.run_only(2)
        assert desk.channel.window._is_by_consumer
        desk.messages[0].ack()
        desk.run_only(3)
        # To say the same again changes nothing.
        desk.channel.basic_qos(0, 2, True)
        assert desk.channel.window._is_by_consumer

    def test_can_be_changed(self, desk: Desk) -> None:
        desk.send(9)
        desk.run_only(2)
        desk.channel.basic_qos(0, 5, True)
        assert not desk.channel.window._is_by_consumer
        desk.run_only(5)
        for message in desk.messages:
            message.ack()
        desk.run_only(9)
        desk.messages[5].ack()
        desk.channel.basic_qos(0, 1, True)
        desk.send(1)
        desk.run_only(9)
        assert [message.payload for message in desk.messages] == list(range(1, 10))
        assert not any(message.delivery_info["redelivered"] for message in desk.messages)
        for message in desk.messages[6:]:
            message.ack()
        desk.run_only(10)

    def test_is_shared_by_two_consumers(self, desk: Desk) -> None:
        desk.send(1)
        desk.run_only(1)
        other = Queue(f"{desk.queue.name}-b")
        desk.consumer.add_queue(other)
        desk.consumer.consume()
        for number in range(3):
            Producer(desk.channel).publish(number, routing_key=other.name)
        desk.run_only(2)
        desk.send(1)
        desk.run_only(2)
        desk.messages[0].ack()
        desk.messages[1].ack()
        desk.run_only(4)
        other(desk.channel).delete()

    def test_counts_what_an_ended_consumer_was_given(self, desk: Desk) -> None:
        desk.send(4)
        desk.run_only(2)
        desk.consumer.cancel()
        desk.consumer.consume()
        desk.run_only(2)
        desk.messages[0].ack()
        desk.run_only(3)

    @pytest.mark.parametrize("options", [
        {"auto_delete": True},
        {"queue_arguments": {"x-single-active-consumer": True}},
    ])  # fmt: skip
    def test_no_consumer_leaves_a_queue_that_minds(
        self, rabbitmq_url: str, options: dict[str, Any]
    ) -> None:
        with closing(Desk(rabbitmq_url)) as desk:
            desk.consumer.cancel()
            channel = desk.connection.connection.channel()
            channel.basic_qos(0, 1, True)
            queue = Queue(f"{desk.queue.name}-minds", **options)
            consumer = Consumer(channel, [queue], on_message=desk.messages.append)
            consumer.consume()
            assert not channel.window._is_by_consumer
            for number in range(2):
                Producer(channel).publish(number, routing_key=queue.name)
            desk.run_only(1)
            desk.messages[0].ack()
            desk.run_only(2)
            queue(channel).delete()


@pytest.fixture(scope="module")
def vhost(rabbitmq_vhost: Vhost) -> Iterator[Vhost]:
    with Vhost(rabbitmq_vhost.broker) as vhost:
        yield vhost


class TestDelays:
    @pytest.fixture
    def desk(self, vhost: Vhost) -> Iterator[Desk]:
        amqp_delays._unwilling.clear()
        desk = Desk(vhost.url)
        yield desk
        desk.close()

    def delay(self, desk: Desk, seconds: float, **options: Any) -> bool:
        """Send one message and ask the broker to keep it; says whether it does."""
        there = len(desk.messages)
        desk.send(1, **options)
        desk.run_all(there + 1)
        return bool(desk.channel.basic_delay(desk.messages[there].delivery_tag, seconds))

    def was_asked(self, desk: Desk) -> bool:
        return desk.connection.connection.delays._client is not None

    def test_a_message_comes_back_as_it_was_sent(self, desk: Desk) -> None:
        begun = time.time()
        options = {"compression": "zlib", "headers": {"id": "1", "mine": [1]}, "expiration": 2}
        assert self.delay(desk, 6.9, **options)
        desk.run(lambda: not desk.channel.held)
        assert desk.count_left() == 0
        desk.run_all(2)
        assert 5 <= time.time() - begun < PATIENCE_S
        first, again = desk.messages
        assert again.payload == first.payload == 1
        assert again.is_back
        assert again.headers == first.headers
        assert {k: v for k, v in first.properties.items() if k != "expiration"} == again.properties
        info = {"exchange": "", "routing_key": desk.queue.name, "redelivered": False}
        assert {key: again.delivery_info[key] for key in info} == info

    @pytest.mark.parametrize(
        ("written", "expected"),
        [(["media", "a.b"], ["media", "a.b"])]
        + [(each, ["", "q"]) for each in (None, "ab", [], ["a"], ["a", 1], ["a", "b", "c"])],
    )
    def test_where_it_was_sent_to(self, written: Any, expected: list[str]) -> None:
        properties = {"application_headers": {"mine": 1, amqp_delays.SENT_TO: written}}
        info: dict[str, Any] = {"exchange": "celery_delayed_1"}
        amqp_delays.restore(properties, info, "q")
        assert [info["exchange"], info["routing_key"]] == expected
        assert properties == {"application_headers": {"mine": 1}}

    def test_short_waits_stay_in_the_worker(self, desk: Desk) -> None:
        assert not self.delay(desk, 5)
        assert not self.was_asked(desk)

    @pytest.mark.parametrize(
        "options", [{"auto_delete": True}, {"exclusive": True}, {"expires": 60}]
    )
    def test_a_queue_that_may_end_is_none_to_return_to(
        self, desk: Desk, options: dict[str, Any]
    ) -> None:
        queue = Queue(f"{desk.queue.name}-ends", **options)
        Consumer(desk.channel, [queue], on_message=desk.messages.append).consume()
        Producer(desk.channel).publish(1, routing_key=queue.name)
        desk.run_all(1)
        assert not desk.channel.basic_delay(desk.messages[0].delivery_tag, 60)
        assert not self.was_asked(desk)
        queue(desk.channel).delete()

    @pytest.mark.long
    def test_a_name_with_dots_takes_nothing_from_the_others(self, desk: Desk) -> None:
        # `#.b` of a queue b would take what is meant for a queue a.b.
        short = Queue(desk.queue.name.rpartition("-")[2])
        long = Queue(f"x.{short.name}")
        consumer = Consumer(desk.channel, [short, long], on_message=lambda m: desk.on_message(m))
        consumer.consume()
        for name in (short.name, long.name):
            with desk.connection.clone() as other:
                Producer(other).publish(name, routing_key=name)
        desk.run_all(2)
        for message in desk.messages:
            assert desk.channel.basic_delay(message.delivery_tag, 6)
        desk.run_all(4)
        desk.run(lambda: not desk.connection.connection.delays._parked)
        assert sorted(m.payload for m in desk.messages[2:]) == sorted((short.name, long.name))
        for message in desk.messages[2:]:
            assert message.delivery_info["routing_key"] == message.payload
        assert len(desk.messages) == 4

    def test_where_the_user_may_not_declare(
        self, desk: Desk, vhost: Vhost, caplog: pytest.LogCaptureFixture
    ) -> None:
        vhost.ctl("set_permissions", "guest", "^(?!celery_delayed).*", ".*", ".*")
        with caplog.at_level(logging.WARNING, "taskq"):
            assert self.delay(desk, 60)
            # Nothing is waited for: the broker's no comes later.
            desk.run_all(2)
            assert not self.delay(desk, 60)
        vhost.ctl("set_permissions", "guest", ".*", ".*", ".*")
        (record,) = [each for each in caplog.records if "wait in this worker" in each.message]
        assert "ACCESS_REFUSED" in record.message
        first, again, _ = desk.messages
        assert again is first
        assert len(desk.channel.held) == 2
        desk.messages[0].ack()
        desk.run(lambda: len(desk.channel.held) == 1)

    @pytest.mark.parametrize("missing", ["queue", "exchange"])
    def test_what_the_broker_does_not_take_is_held_here(self, desk: Desk, missing: str) -> None:
        assert self.delay(desk, 60, headers={"id": "a"})
        desk.run(lambda: not desk.channel.held)
        with desk.connection.clone() as other:
            if missing == "queue":
                other.default_channel.queue_delete("celery_delayed_5")
            else:
                other.default_channel.exchange_delete("celery_delayed_5")
        desk.messages.clear()
        assert self.delay(desk, 60, headers={"id": "b"})
        desk.run_all(2)
        first, again = desk.messages
        assert again is first
        assert first.delivery_tag in desk.channel.held
        assert not desk.channel.basic_delay(first.delivery_tag, 60)

    def test_setting_up_holds_nothing_up(self, desk: Desk) -> None:
        desk.send(2)
        desk.run_all(2)
        first, second = desk.messages
        assert desk.channel.basic_delay(first.delivery_tag, 60)
        assert desk.channel.basic_delay(second.delivery_tag, 60)
        delays = desk.connection.connection.delays
        assert not delays._is_set_up
        # It takes so long that the second is due.
        delays._unsent[1] = (*delays._unsent[1][:2], time.monotonic())
        desk.run_all(3)
        assert desk.messages[2] is second
        desk.run(lambda: list(desk.channel.held) == [second.delivery_tag])

    def test_those_of_a_turn_are_sent_together(self, desk: Desk) -> None:
        desk.channel.basic_qos(0, 0, True)
        assert self.delay(desk, 60)
        desk.run(lambda: not desk.channel.held)
        wire = desk.connection.connection.delays._client.connection.wire
        desk.send(5)
        desk.run_all(6)
        written: list[bytes] = []
        wire.write = written.append
        for message in desk.messages[1:]:
            assert desk.channel.basic_delay(message.delivery_tag, 60)
        assert not written
        desk.connection.connection.end_turn()
        (data,) = written
        assert data.count(b"\x10celery_delayed_5") == 5

    def test_without_a_loop_a_confirm_is_awaited(self, desk: Desk) -> None:
        desk.send(2)
        desk.run_all(2)
        first, second = desk.messages
        desk.connection.connection.leave()
        assert desk.channel.basic_delay(first.delivery_tag, 60)
        assert list(desk.channel.held) == [second.delivery_tag]
        with desk.connection.clone() as other:
            other.default_channel.exchange_delete("celery_delayed_5")
        assert not desk.channel.basic_delay(second.delivery_tag, 60)
        assert list(desk.channel.held) == [second.delivery_tag]
        assert len(desk.messages) == 2

    def test_a_redelivered_message_is_held_here(self, desk: Desk) -> None:
        desk.send(1)
        desk.run_all(1)
        desk.messages[0].requeue()
        desk.run_all(2)
        assert not desk.channel.basic_delay(desk.messages[1].delivery_tag, 60)
