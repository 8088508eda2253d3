"""A message is the same whether it is sent alone, in a pipeline or in a group. On real brokers."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from taskq import Celery, group

#: Differ from message to message.
IDS = {"id", "root_id", "correlation_id", "delivery_tag"}
#: Say that a message is of a group.
OF_GROUP = {"group", "group_index"}

OPTIONS: list[dict[str, Any]] = [
    {},
    {"priority": 3, "headers": {"x-own": ["a", 1, None, True], "one": 1}},
    {"kwargs": {"y": "é"}, "compression": "gzip", "shadow": "other", "ignore_result": True},
    {"time_limit": 9, "soft_time_limit": 7.5, "serializer": "pickle", "delivery_mode": 1},
    {"eta": "2098-01-01T00:00:00+00:00", "reply_to": "me"},
    {"stamped_headers": ["mark"], "mark": "m", "retries": 2},
]


class Broker:
    """An application on a broker, and what of its messages arrives there."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.queue = f"alike-{uuid.uuid4().hex[:10]}"
        self.app = Celery("alike", broker=url, backend=None, set_as_current=False)
        self.app.conf.update(task_default_queue=self.queue, broker_heartbeat=0)

        @self.app.task(name="alike", lazy=False)
        def alike(*args: Any, **kwargs: Any) -> None: ...

        self.alike = alike

    def take(self) -> list[dict[str, Any]]:
        """The messages in the order they were sent: headers, properties and the rest."""
        if self.url.startswith("redis"):
            return self._take_from_redis()
        found = []
        with self.app.connection_for_read() as connection:
            channel = connection.default_channel
            while (message := channel.basic_get(self.queue, no_ack=True)) is not None:
                properties = dict(message.properties)
                headers = properties.pop("application_headers")
                found.append({"headers": headers, "properties": properties, "body": message.body})
        return found

    def _take_from_redis(self) -> list[dict[str, Any]]:
        found = []
        with redis.Redis.from_url(self.url) as client:
            for key in sorted(client.scan_iter(f"{self.queue}*")):
                found += [json.loads(raw) for raw in reversed(client.lrange(key, 0, -1))]
                client.delete(key)
        return found

    def close(self) -> None:
        with self.app.connection_for_write() as connection:
            connection.default_channel.queue_delete(self.queue)
        self.app.close()


@pytest.fixture(params=["redis_url", "rabbitmq_url"])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    broker = Broker(request.getfixturevalue(request.param))
    yield broker
    broker.close()


def common(message: dict[str, Any], without: set[str] = IDS) -> dict[str, Any]:
    """What of a message does not depend on which one it is, with the types of all values."""
    parts = {part: message[part] for part in ("headers", "properties")}
    return {
        "names": {part: list(values) for part, values in parts.items()},
        "rest": {key: value for key, value in message.items() if key not in parts},
        "values": {
            (part, name): repr(value)
            for part, values in parts.items()
            for name, value in values.items()
            if name not in without
        },
    }


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
def test_alone_in_a_pipeline_and_in_a_group(broker: Broker, options: dict[str, Any]) -> None:
    given = dict(options)
    kwargs = given.pop("kwargs", {})
    call = broker.alike
    call.apply_async((1, "a"), kwargs, **given)
    with broker.app.pipeline():
        call.apply_async((1, "a"), kwargs, **given)
        call.apply_async((1, "a"), kwargs, **given)
    group([call.signature((1, "a"), kwargs, dict(given)) for _ in range(2)]).apply_async()
    alone, *piped, first, second = broker.take()
    assert [common(each) for each in piped] == [common(alone)] * 2
    expected = common(alone, IDS | OF_GROUP)
    assert [common(each, IDS | OF_GROUP) for each in (first, second)] == [expected] * 2
    assert [each["headers"]["group_index"] for each in (first, second)] == [0, 1]
    assert first["headers"]["group"] == second["headers"]["group"]
    sent = [alone, *piped, first, second]
    for name in ("id", "root_id"):
        assert len({each["headers"][name] for each in sent}) == len(sent)
    for each in sent:
        assert each["headers"]["id"] == each["properties"]["correlation_id"]
    if "delivery_tag" in alone["properties"]:
        assert len({each["properties"]["delivery_tag"] for each in sent}) == len(sent)


def test_no_two_messages_have_one_delivery_tag(redis_url: str) -> None:
    """The tags of a batch are counted; those of other batches, and of calls alone, are others."""
    broker = Broker(redis_url)
    for _ in range(3):
        broker.alike.delay()
        with broker.app.pipeline():
            for _ in range(20):
                broker.alike.delay()
    tags = [each["properties"]["delivery_tag"] for each in broker.take()]
    assert len(set(tags)) == len(tags) == 3 * 21
    assert [str(uuid.UUID(tag)) for tag in tags] == tags
    broker.close()


def test_a_task_that_expires_stays_an_hour_longer_in_rabbitmq(rabbitmq_url: str) -> None:
    """So that a worker that starts late marks it as revoked; what asks for a TTL has its TTL."""
    broker = Broker(rabbitmq_url)
    # Without a confirm nobody would hear that RabbitMQ refuses a time to live.
    broker.app.conf.broker_transport_options = {"confirm_publish": True}
    hour = 3600.0
    for options in ({"expires": 90}, {"expires": -5}, {"expiration": 90}, {"expires": 1e10}):
        broker.alike.apply_async(**options)
    with broker.app.pipeline():
        broker.alike.apply_async(expires=90)
    found = [float(each["properties"]["expiration"]) / 1000 for each in broker.take()]
    assert found == [hour + 90, hour, 90, 10 * 365 * 86400, hour + 90]
    broker.close()


def test_a_name_too_long_for_rabbitmq(rabbitmq_url: str) -> None:
    broker = Broker(rabbitmq_url)
    for option in ("task_id", "routing_key", "reply_to"):
        with pytest.raises(ValueError, match="at most 255 bytes, and this has 300"):
            broker.alike.apply_async(**{option: "x" * 300, "exchange": "amq.direct"})
    broker.close()


def test_equal_values_of_other_types_and_changed_ones_keep_apart(broker: Broker) -> None:
    shared = ["a"]
    values: list[Any] = [1, True, 1.0, "1", None, 0, False, shared]

    def send_all() -> None:
        for value in values:
            broker.alike.apply_async(headers={"x-value": value})

    send_all()
    shared.append("b")
    broker.alike.apply_async(headers={"x-value": shared})
    with broker.app.pipeline():
        send_all()
    found = [repr(each["headers"]["x-value"]) for each in broker.take()]
    plain = [repr(value) for value in values[:-1]]
    assert found == [*plain, "['a']", "['a', 'b']", *plain, "['a', 'b']"]


def test_several_queues_and_priorities_keep_their_order(broker: Broker) -> None:
    with broker.app.pipeline():
        for number in range(6):
            broker.alike.apply_async((number,), priority=(0, 0, 3)[number % 3])
    found = [each["headers"]["argsrepr"] for each in broker.take()]
    if broker.url.startswith("redis"):
        assert found == [f"({number},)" for number in (0, 1, 3, 4, 2, 5)]
    else:
        assert found == [f"({number},)" for number in range(6)]
