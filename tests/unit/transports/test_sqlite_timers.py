"""A loop without other work comes round when a message is due, not at its next look for changes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from contract.transports import Broker, Inbox
from kombu import Producer
from kombu.asynchronous import Hub
from patience import FOREVER_S, PATIENCE_S

from taskq.transports import register, sqlite

register()


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    monkeypatch.setattr(sqlite, "SLOW_LOOK_S", FOREVER_S)
    broker = Broker(f"sqlite:///{tmp_path}/broker.db", {}, with_hub=True)
    yield broker
    broker.close_all()


@pytest.fixture
def producer(broker: Broker) -> Producer:
    return Producer(broker.connect().channel())


def turn_until(hub: Hub, arrived: list[Any]) -> None:
    late: list[bool] = []
    alarm = hub.call_later(PATIENCE_S, lambda: late.append(True))
    while not arrived and not late:
        hub.run_once()
    alarm.cancel()
    assert not late, "the loop slept over it"


def test_a_delayed_message_comes_when_it_is_due(broker: Broker, producer: Producer) -> None:
    queue = broker.declare(producer.channel)
    inbox = Inbox(broker, queue)
    broker.settle(inbox.connection)
    eta = (datetime.now(timezone.utc) + timedelta(seconds=0.1)).isoformat()
    producer.publish(1, routing_key=queue.name, headers={"eta": eta})
    turn_until(broker._hub(inbox.connection), inbox.messages)
    assert inbox.payloads() == [1]


def test_a_timer_set_by_a_delivery_is_not_slept_over(broker: Broker, producer: Producer) -> None:
    queue = broker.declare(producer.channel)
    inbox = Inbox(broker, queue)
    broker.settle(inbox.connection)
    hub = broker._hub(inbox.connection)
    fired: list[bool] = []

    def hold(message: Any) -> None:
        hub.call_later(0.1, lambda: fired.append(True))

    inbox.consumer.on_message = hold
    producer.publish(1, routing_key=queue.name)
    turn_until(hub, fired)
