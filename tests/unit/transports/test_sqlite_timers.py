"""A loop without other work comes round when a message is due, not at its next look for changes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from contract.transports import Broker, Inbox
from kombu import Producer
from kombu.asynchronous import Hub

from taskq.transports import register
from taskq.transports.sqlite import SLOW_LOOK_S

register()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(f"sqlite:///{tmp_path}/broker.db", {}, with_hub=True)
    yield broker
    broker.close_all()


@pytest.fixture
def producer(broker: Broker) -> Producer:
    return Producer(broker.connect().channel())


def turn_until(hub: Hub, arrived: list[Any]) -> float:
    started = time.monotonic()
    while not arrived and time.monotonic() - started < 5 * SLOW_LOOK_S:
        hub.run_once()
    return time.monotonic() - started


def test_a_delayed_message_comes_when_it_is_due(broker: Broker, producer: Producer) -> None:
    queue = broker.declare(producer.channel)
    inbox = Inbox(broker, queue)
    broker.settle(inbox.connection)
    eta = (datetime.now(timezone.utc) + timedelta(seconds=0.1)).isoformat()
    producer.publish(1, routing_key=queue.name, headers={"eta": eta})
    assert turn_until(broker._hub(inbox.connection), inbox.messages) < SLOW_LOOK_S / 2


def test_a_timer_set_by_a_delivery_is_not_slept_over(broker: Broker, producer: Producer) -> None:
    queue = broker.declare(producer.channel)
    inbox = Inbox(broker, queue)
    broker.settle(inbox.connection)
    hub = broker._hub(inbox.connection)
    fired: list[float] = []

    def hold(message: Any) -> None:
        hub.call_later(0.1, lambda: fired.append(time.monotonic()))

    inbox.consumer.on_message = hold
    producer.publish(1, routing_key=queue.name)
    started = time.monotonic()
    turn_until(hub, fired)
    assert fired[0] - started < SLOW_LOOK_S / 2
