"""Messages that wait for their time in Redis: parked in one step, moved back in one step."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from contract.transports import Broker, Inbox
from kombu import Exchange, Queue
from patience import PATIENCE_S, wait_until
from servers import Proxy, RedisServer
from unit.transports.test_redis import make_message

from taskq.transports import redis_delays
from taskq.worker.strategy import LONGEST_HELD_S

#: Seconds nobody waits for here.
LONG_S = 3600.0


@pytest.fixture(params=["drain", "hub"])
def broker(redis_url: str, request: pytest.FixtureRequest) -> Iterator[Broker]:
    broker = Broker(redis_url, {}, with_hub=request.param == "hub")
    yield broker
    broker.close_all()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def queue(broker: Broker) -> Queue:
    return broker.declare(broker.connect().channel())


def keys_of(name: str, prefix: str = "") -> tuple[str, str]:
    return f"{prefix}taskq.delayed.{name}", f"{prefix}taskq.delayed:messages.{name}"


def park_all(inbox: Inbox, seconds: float) -> None:
    for message in inbox.messages:
        assert inbox.channel.basic_delay(message.delivery_tag, seconds)
    inbox.messages.clear()
    inbox.broker.settle(inbox.connection)


def count_everywhere(client: redis.Redis, name: str) -> tuple[int, int, int, int]:
    """In the list, in `unacked`, parked by moment, parked by tag."""
    tags, messages = keys_of(name)
    return client.llen(name), client.hlen("unacked"), client.zcard(tags), client.hlen(messages)


def test_it_comes_back_as_it_was(
    broker: Broker, client: redis.Redis, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody would look again in time: its own moment wakes the loop.
    monkeypatch.setattr(redis_delays, "LOOK_S", LONG_S)
    raw = make_message(
        headers={"id": "x", "retries": 2, "note": "\u00e4"}, properties={"priority": 6}
    )
    name = f"{queue.name}\x06\x166"
    client.lpush(name, raw)
    inbox = Inbox(broker, queue)
    (first,) = inbox.wait(1)
    before = client.time()
    park_all(inbox, 0.3)
    assert client.hlen("unacked") == client.zcard("unacked_index") == 0
    tags, messages = keys_of(name)
    ((tag, due),) = client.zrange(tags, 0, 0, withscores=True)
    assert client.hget(messages, tag) == raw
    assert due > before[0] + before[1] / 1e6
    (again,) = inbox.wait(1)
    now = client.time()
    assert now[0] + now[1] / 1e6 >= due
    assert again.delivery_tag != first.delivery_tag
    assert again.headers == first.headers
    assert again.delivery_info == first.delivery_info == {"exchange": "", "routing_key": queue.name}
    assert client.hvals("unacked") == [b"[" + raw + f', "", "{queue.name}"]'.encode()]
    assert not client.exists(tags, messages)


def test_what_a_dead_worker_parked_is_moved_by_another(
    broker: Broker, client: redis.Redis, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_delays, "LOOK_S", 0.2)
    other = Inbox(broker, broker.queue())
    broker.settle(other.connection)
    other.consumer.cancel()
    client.lpush(queue.name, make_message())
    inbox = Inbox(broker, queue)
    inbox.wait(1)
    park_all(inbox, 1.0)
    inbox.close()
    assert count_everywhere(client, queue.name) == (0, 0, 1, 1)
    other.consumer.consume()
    other.wait(1)


def test_the_first_due_is_consumed_first_and_before_what_waits(
    broker: Broker, client: redis.Redis, queue: Queue
) -> None:
    client.lpush(queue.name, *[make_message(body=str(number)) for number in range(5)])
    inbox = Inbox(broker, queue)
    inbox.wait(5)
    for number, message in enumerate(inbox.messages):
        assert inbox.channel.basic_delay(message.delivery_tag, (3 + number * 2 % 5) / 100)
    inbox.consumer.cancel()
    broker.settle(inbox.connection)
    inbox.messages.clear()
    client.lpush(queue.name, make_message(body="99"))
    tags, _ = keys_of(queue.name)
    last = client.zrange(tags, -1, -1, withscores=True)[0][1]
    wait_until(lambda: client.time()[0] + client.time()[1] / 1e6 > last, "all are due")
    # All at once, with nothing in the list meanwhile but what waits.
    again = Inbox(broker, queue, prefetch=1)
    wait_until(lambda: client.zcard(tags) == 0, turn=lambda: broker.turn(again.connection))
    order = [int(json.loads(raw)["body"]) for raw in client.lrange(queue.name, 0, -1)][::-1]
    assert [*again.payloads(), *order] in ([0, 3, 1, 4, 2, 99], [99, 0, 3, 1, 4, 2])


def test_more_than_one_step_moves(
    broker: Broker, client: redis.Redis, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_delays, "AT_ONCE", 3)
    monkeypatch.setattr(redis_delays, "GAP_S", LONG_S)
    client.lpush(queue.name, *[make_message(body=str(number)) for number in range(10)])
    inbox = Inbox(broker, queue)
    inbox.wait(10)
    park_all(inbox, 0.0)
    inbox.wait(10)
    assert sorted(inbox.payloads()) == list(range(10))


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_wrong_key_is_said_and_the_message_held(
    broker: Broker,
    client: redis.Redis,
    queue: Queue,
    caplog: pytest.LogCaptureFixture,
    wrong: int,
) -> None:
    client.set(keys_of(queue.name)[wrong], "neither a sorted set nor a hash")
    raw = make_message(body="7")
    client.lpush(queue.name, raw)
    inbox = Inbox(broker, queue)
    inbox.wait(1)
    park_all(inbox, LONG_S)
    inbox.wait(1)
    assert "this worker holds them: WRONGTYPE" in caplog.text
    assert inbox.messages[0].payload == 7
    # It is not marked, and is not tried again.
    assert client.hvals("unacked")[0].startswith(b"[" + raw)
    assert not inbox.channel.basic_delay(inbox.messages[0].delivery_tag, LONG_S)
    inbox.ack()
    assert client.hlen("unacked") == 0


def test_a_wrong_key_keeps_what_is_parked(
    broker: Broker,
    client: redis.Redis,
    queue: Queue,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_delays, "LOOK_S", 0.2)
    client.lpush(queue.name, make_message())
    inbox = Inbox(broker, queue)
    inbox.wait(1)
    park_all(inbox, 0.1)
    tags, messages = keys_of(queue.name)
    client.rename(messages, "aside")
    client.set(messages, "no hash")
    wait_until(
        lambda: "cannot come back: WRONGTYPE" in caplog.text,
        turn=lambda: broker.turn(inbox.connection),
    )
    broker.settle(inbox.connection)
    assert client.zcard(tags) == client.hlen("aside") == 1
    client.rename("aside", messages)
    inbox.wait(1)


@pytest.mark.parametrize("with_hub", [True, False])
@pytest.mark.parametrize("has_run", [True, False])
def test_a_cut_while_parking_neither_loses_nor_doubles(
    redis_server: RedisServer, redis_url: str, client: redis.Redis, with_hub: bool, has_run: bool
) -> None:
    with Proxy(redis_server.port) as proxy:
        broker = Broker(proxy.through(redis_url), {}, with_hub)
        queue = broker.queue()
        client.lpush(queue.name, *[make_message(body=str(number)) for number in range(3)])
        inbox = Inbox(broker, queue)
        inbox.wait(3)
        broker.settle(inbox.connection)
        park = redis_delays.build_call(redis_delays.PARK, [], [])[1].encode()
        if has_run:
            # Whatever comes next downwards is the answer to the script.
            heard = []
            cut = proxy.cut_when(
                lambda way, data: (
                    heard.append(way) if way == "up" and park in data else way == "down" and heard
                )
            )
        else:
            cut = proxy.cut_when(lambda way, data: way == "up" and park in data)
        message = inbox.messages[0]
        # Its waits are cut too: a consumer hears of it, and closes.
        with pytest.raises(inbox.connection.connection_errors):
            inbox.channel.basic_delay(message.delivery_tag, LONG_S)
            broker.run(inbox.connection, lambda: False)
        assert cut.wait(PATIENCE_S)
        assert sum(count_everywhere(client, queue.name)[1:3]) == 3
        broker.close_all()
        wait_until(lambda: count_everywhere(client, queue.name) == (2, 0, 1, 1))


def test_closing_parks_what_was_given_up(broker: Broker, client: redis.Redis, queue: Queue) -> None:
    client.lpush(queue.name, make_message(), make_message())
    inbox = Inbox(broker, queue)
    inbox.wait(2)
    assert inbox.channel.basic_delay(inbox.messages[0].delivery_tag, LONG_S)
    inbox.close()
    assert count_everywhere(client, queue.name) == (1, 0, 1, 1)


def test_what_is_given_to_another_is_not_parked(
    broker: Broker, client: redis.Redis, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    client.lpush(queue.name, make_message())
    inbox = Inbox(broker, queue)
    inbox.wait(1)
    # As a sweep does when the lease has ended.
    client.delete("unacked", "unacked_index")
    park_all(inbox, LONG_S)
    assert count_everywhere(client, queue.name) == (0, 0, 0, 0)
    assert "1 waiting task(s) were given to another worker" in caplog.text


def test_a_server_that_forgot_the_scripts(
    private_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_delays, "LOOK_S", 0.2)
    broker = Broker(private_redis.url, {}, with_hub=True)
    queue = broker.queue()
    with private_redis.client() as client:
        client.lpush(queue.name, make_message())
        inbox = Inbox(broker, queue)
        inbox.wait(1)
        client.script_flush()
        park_all(inbox, 0.5)
        client.script_flush()
        inbox.wait(1)
        broker.close_all()


def test_without_ack_there_is_nothing_to_park(
    broker: Broker, client: redis.Redis, queue: Queue
) -> None:
    client.lpush(queue.name, make_message())
    inbox = Inbox(broker, queue, no_ack=True)
    (message,) = inbox.wait(1)
    assert not inbox.channel.basic_delay(message.delivery_tag, LONG_S)


def fill(broker: Broker, client: redis.Redis, queue: Queue) -> Any:
    """Three parked, two of them of another priority, and one in the list; gives a channel."""
    prefix = broker.options.get("global_keyprefix", "")
    for number, priority in enumerate([0, 3, 3]):
        name = queue.name if not priority else f"{queue.name}\x06\x163"
        body = make_message(body=str(number), properties={"priority": priority})
        client.lpush(prefix + name, body)
    inbox = Inbox(broker, queue)
    inbox.wait(3)
    park_all(inbox, LONG_S)
    inbox.close()
    client.lpush(prefix + queue.name, make_message(body="3"))
    return broker.connect().channel()


@pytest.mark.parametrize("prefix", ["", "mine:"])
def test_listing_and_releasing(
    redis_url: str, client: redis.Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_delays, "AT_ONCE", 1)
    broker = Broker(redis_url, {"global_keyprefix": prefix}, with_hub=False)
    queue = broker.queue()
    channel = fill(broker, client, queue)
    parked = list(channel.list_parked(queue.name))
    assert [each.message.payload for each in parked] == [0, 1, 2]
    assert all(time.time() + LONG_S / 2 < each.due for each in parked)
    assert client.zcard(keys_of(queue.name, prefix)[0]) == 1
    assert channel.release_parked(queue.name) == 3
    assert list(channel.list_parked(queue.name)) == []
    assert channel.release_parked(queue.name) == 0
    inbox = Inbox(broker, queue)
    inbox.wait(4)
    assert inbox.payloads() == [0, 3, 1, 2]
    assert all("delayed" not in key.decode() for key in client.scan_iter())
    broker.close_all()


def test_what_waits_counts_with_its_queue(broker: Broker, client: redis.Redis) -> None:
    channel = fill(broker, client, broker.queue())
    queue = broker.queue()(channel)
    assert queue.queue_declare(passive=True).message_count == 4
    client.delete(queue.name)
    assert queue.queue_declare(passive=True).message_count == 3
    assert queue.purge() == 3
    assert not client.exists(*keys_of(queue.name), *keys_of(f"{queue.name}\x06\x163"))


def test_a_deleted_queue_takes_along_what_waits(broker: Broker, client: redis.Redis) -> None:
    exchange = Exchange(broker.name("x"), "direct")
    queue = broker.declare(broker.connect().channel(), exchange=exchange, routing_key="k")
    fill(broker, client, queue)
    queue.delete()
    assert all(queue.name not in key.decode() for key in client.scan_iter())


def test_everybody_looks_before_the_shortest_wait_ends() -> None:
    assert redis_delays.LOOK_S < LONGEST_HELD_S


def test_where_nothing_is_parked_nobody_asks_often(
    broker: Broker, client: redis.Redis, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    build_call = redis_delays.build_call
    monkeypatch.setattr(redis_delays, "LOOK_S", LONG_S)
    monkeypatch.setattr(
        redis_delays,
        "build_call",
        lambda name, *rest: asked.append(name) or build_call(name, *rest),
    )
    inbox = Inbox(broker, queue)
    for number in range(50):
        client.lpush(queue.name, make_message())
        inbox.wait(number + 1)
    inbox.ack()
    assert asked == [redis_delays.RELEASE]
