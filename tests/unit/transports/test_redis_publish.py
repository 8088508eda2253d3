"""The sending half of the Redis transport where the contract does not reach: tags and lists."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from kombu import Producer
from servers import RedisServer

from taskq.app.connections import Connection
from taskq.transports.redis_line import Line


@pytest.fixture
def connection(redis_url: str) -> Iterator[Connection]:
    with Connection(redis_url) as connection:
        yield connection


def test_tags_are_of_one_channel_and_process(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels: list[Any] = [connection.channel(), connection.channel()]
    tags = [channel._next_delivery_tag() for channel in channels for _ in range(3)]
    # A channel that is used again after a fork.
    monkeypatch.setattr(os, "getpid", lambda: -1)
    tags += [channel._next_delivery_tag() for channel in channels for _ in range(3)]
    assert len(set(tags)) == 12
    assert len({tag[:24] for tag in tags}) == 4


@pytest.mark.parametrize("steps", [[0, 3, 6, 9], [0, 5], [2, 5]])
@pytest.mark.parametrize("priority", [None, 0, 2, 5, 9])
def test_a_message_goes_to_the_list_of_its_priority(
    redis_url: str, steps: list[int], priority: int | None
) -> None:
    with Connection(redis_url, transport_options={"priority_steps": steps}) as connection:
        channel: Any = connection.default_channel
        Producer(channel).publish(1, routing_key="tasks", priority=priority)
        name = channel._q_for_pri("tasks", priority or 0)
        assert channel.line.ask(("LLEN", name)) == [1]


def test_a_line_says_what_broke(redis_server: RedisServer) -> None:
    pool = redis.ConnectionPool(port=redis_server.port, socket_timeout=0.2)
    line = Line(pool)
    assert line.ask(("PING",)) == [b"PONG"]
    with pytest.raises(redis.TimeoutError):
        line.ask(("BLPOP", "nothing", "60"))
    assert line.socket is None
    number = line.ask(("CLIENT", "ID"))[0]
    redis.Redis(port=redis_server.port).client_kill_filter(_id=number)
    time.sleep(0.05)
    # Nothing was lost with the connection: another one is opened before anything is sent.
    assert line.ask(("PING",), ("CLIENT", "ID"))[1] != number
    with pytest.raises(redis.ResponseError):
        line.ask(("NONSENSE",), ("PING",))
    assert line.ask(("PING",)) == [b"PONG"]
