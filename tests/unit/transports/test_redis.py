"""The Redis transport where the contract does not reach: tags, waits, leases, peers, network."""

from __future__ import annotations

import json
import logging
import pickle
import signal
import time
from collections.abc import Iterator
from typing import Any

import kombu
import pytest
import redis
from contract.processes import Forked
from contract.transports import Broker, Inbox
from kombu import Exchange, Producer, Queue
from kombu.exceptions import BatchPublishError, OperationalError
from patience import PATIENCE_S, wait_until
from servers import Proxy, RedisServer

from taskq.app.connections import Connection
from taskq.exceptions import ImproperlyConfigured
from taskq.transports import redis as transport_module
from taskq.transports import redis_waits as waits_module
from taskq.transports.redis import Transport

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

#: Seconds of a lease in tests that wait for its end.
SHORT_LEASE_S = 0.6


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
def producer(broker: Broker) -> Producer:
    return Producer(broker.connect().channel())


@pytest.fixture
def queue(broker: Broker, producer: Producer) -> Queue:
    return broker.declare(producer.channel)


def send(producer: Producer, queue: Queue, *bodies: Any, **options: Any) -> None:
    for body in bodies:
        producer.publish(body, routing_key=queue.name, **options)


def make_message(**changes: Any) -> bytes:
    """A message as some other program may push it."""
    message = {
        "body": "1",
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {},
        "properties": {},
        **changes,
    }
    return json.dumps(message).encode()


def count_waits(client: redis.Redis) -> int:
    return sum("b" in each["flags"] for each in client.client_list())


# -- tags and copies


def test_a_message_needs_no_tag(broker: Broker, client: redis.Redis, queue: Queue) -> None:
    client.lpush(queue.name, make_message())
    inbox = Inbox(broker, queue)
    assert inbox.wait(1)[0].payload == 1
    assert client.hlen("unacked") == client.zcard("unacked_index") == 1
    inbox.ack()
    assert client.hlen("unacked") == client.zcard("unacked_index") == 0


def test_nothing_is_read_out_of_a_message(
    broker: Broker, client: redis.Redis, queue: Queue
) -> None:
    tagged = make_message(headers={"x": {"delivery_tag": "same"}, "y": '"delivery_tag": "same"'})
    client.lpush(queue.name, tagged, tagged, tagged)
    inbox = Inbox(broker, queue)
    messages = inbox.wait(3)
    assert len({message.delivery_tag for message in messages}) == client.hlen("unacked") == 3
    # The copy is the message's own bytes.
    assert all(copy.startswith(b"[" + tagged) for copy in client.hvals("unacked"))
    inbox.close()
    assert client.llen(queue.name) == 3


def test_one_publish_to_two_queues(broker: Broker, producer: Producer) -> None:
    exchange = Exchange(broker.name("x"), "direct")
    queues = [
        broker.declare(producer.channel, name, exchange=exchange, routing_key="k")
        for name in ("a", "b")
    ]
    producer.publish(1, exchange=exchange, routing_key="k")
    first = Inbox(broker, *queues)
    first.wait(2)
    first.messages[0].ack()
    first.close()
    again = Inbox(broker, *queues)
    again.wait(1)
    # It comes back to the queue it came from, and to no other.
    assert again.messages[0].delivery_info["redelivered"]
    assert again.wait_long() == again.messages[:1]


def test_a_wrong_key_loses_nothing(broker: Broker, client: redis.Redis, queue: Queue) -> None:
    client.set("unacked", "not a hash")
    client.lpush(queue.name, make_message())
    inbox = Inbox(broker, queue)
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        inbox.wait(1)
    assert client.llen(queue.name) == 1
    client.delete("unacked")


def test_what_is_no_message_is_dropped_and_shown(
    broker: Broker, client: redis.Redis, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    client.lpush(queue.name, b"\xff{", make_message(body="2"))
    inbox = Inbox(broker, queue)
    assert inbox.wait(1)[0].payload == 2
    assert r"b'\xff{'" in caplog.text
    inbox.ack()
    assert client.hlen("unacked") == 0


def test_lower_numbers_go_first(broker: Broker, producer: Producer, queue: Queue) -> None:
    for number, priority in enumerate([9, 0, 6, 3, None, 42]):
        send(producer, queue, number, priority=priority)
    inbox = Inbox(broker, queue)
    inbox.wait(6)
    assert inbox.payloads() == [1, 4, 3, 2, 0, 5]


# -- waiting


def test_one_message_wakes_one_worker(
    broker: Broker, client: redis.Redis, producer: Producer, queue: Queue
) -> None:
    inboxes = [Inbox(broker, queue) for _ in range(10)]

    def turn_all() -> None:
        for inbox in inboxes:
            broker.turn(inbox.connection)

    wait_until(lambda: count_waits(client) == 40, "all wait on all lists", turn=turn_all)
    calls = [inbox.channel.session.calls for inbox in inboxes]
    send(producer, queue, 1)
    wait_until(lambda: any(inbox.messages for inbox in inboxes), turn=turn_all)
    turn_all()
    asked = sum(
        inbox.channel.session.calls > before for inbox, before in zip(inboxes, calls, strict=True)
    )
    assert asked == sum(len(inbox.messages) for inbox in inboxes) == 1


def test_a_full_window_waits_for_nothing(
    broker: Broker, client: redis.Redis, producer: Producer, queue: Queue
) -> None:
    inbox = Inbox(broker, queue, prefetch=1)
    wait_until(lambda: count_waits(client) == 4, turn=lambda: broker.turn(inbox.connection))
    send(producer, queue, 1)
    inbox.wait(1)
    wait_until(lambda: count_waits(client) == 0, turn=lambda: broker.turn(inbox.connection))
    send(producer, queue, 2)
    assert client.llen(queue.name) == 1
    other = Inbox(broker, queue)
    assert other.wait(1)[0].payload == 2


def test_what_is_beyond_the_last_slot_goes_straight_back(
    broker: Broker, client: redis.Redis, producer: Producer, queue: Queue
) -> None:
    inbox = Inbox(broker, queue, prefetch=1)
    wait_until(lambda: count_waits(client) == 4, turn=lambda: broker.turn(inbox.connection))
    # Each is answered by a wait of its own.
    for priority in (0, 3, 6, 9):
        send(producer, queue, priority, priority=priority)
    inbox.wait(1)
    broker.settle(inbox.connection)
    wait_until(
        lambda: sum(map(client.llen, inbox.channel.lists_of(queue.name))) == 3,
        turn=lambda: broker.turn(inbox.connection),
    )
    assert not client.keys("taskq.worker.*:inflight:*")


@pytest.mark.parametrize("trouble", ["closed", "silent"])
def test_waits_that_cannot_be_ended_are_hung_up_on(
    broker: Broker,
    client: redis.Redis,
    producer: Producer,
    queue: Queue,
    trouble: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waits_module, "END_S", 0.1)
    inbox = Inbox(broker, queue, prefetch=1)
    wait_until(lambda: count_waits(client) == 4, turn=lambda: broker.turn(inbox.connection))
    waits = inbox.channel._waits._waits
    # The last one: a message in the first list rings another.
    last = waits[inbox.channel.lists_of(queue.name)[-1]]
    if trouble == "closed":
        last.line.close()
    else:
        # The server knows nothing of the wait, and its good-bye has got lost.
        last.client = 0
    for number in range(3):
        send(producer, queue, number)
    inbox.wait(1)
    wait_until(lambda: count_waits(client) == 0, turn=lambda: broker.turn(inbox.connection))
    for count in (2, 3):
        inbox.messages[-1].ack()
        inbox.wait(count)
    assert inbox.payloads() == [0, 1, 2]
    inbox.messages[-1].ack()
    # It goes on waiting, on new lines.
    wait_until(lambda: count_waits(client) == 4, turn=lambda: broker.turn(inbox.connection))
    assert not client.keys("taskq.worker.*:inflight:*")


def test_a_ring_while_a_call_is_on_its_way_is_heard(redis_url: str) -> None:
    broker = Broker(redis_url, {}, with_hub=True)
    inbox = Inbox(broker, broker.queue())
    inbox.wait_long()
    channel = inbox.channel
    channel.hungry = True
    channel.turn()
    # The call may have looked before the message was there.
    channel.on_rung(None)
    channel.hear()
    assert channel.hungry
    broker.close_all()


@pytest.mark.parametrize(("acked", "asks"), [(1, False), (4, False), (5, False), (6, True)])
def test_a_turn_that_will_be_followed_by_more_acks_is_waited_for_once(
    redis_url: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, acked: int, asks: bool
) -> None:
    broker = Broker(redis_url, {}, with_hub=True)
    queue = broker.queue()
    client.lpush(queue.name, *[make_message() for _ in range(20)])
    inbox = Inbox(broker, queue, prefetch=8)
    inbox.wait(8)
    channel, sent = inbox.channel, []
    send_commands = channel._calls.send

    def note(commands: Any, receiver: Any) -> None:
        sent.append([command[0] for command in commands])
        send_commands(commands, receiver)

    monkeypatch.setattr(channel._calls, "send", note)
    for message in inbox.messages[:acked]:
        message.ack()
    acks, call = ["HDEL", "ZREM"], ["EVALSHA"]
    channel.turn()
    channel.hear()
    assert sent == ([acks + call] if asks else [acks])
    if not asks:
        # Nothing more has ended: it is asked for what there is.
        channel.turn()
        channel.hear()
        assert sent == [acks, call]
    inbox.wait(8 + acked)
    broker.close_all()


def test_many_lists_are_watched_by_one_connection(
    broker: Broker, client: redis.Redis, producer: Producer
) -> None:
    queues = [broker.declare(producer.channel, f"q{number}") for number in range(9)]
    inbox = Inbox(broker, *queues)
    inbox.wait_long()
    assert count_waits(client) == 0
    for number in (8, 3):
        send(producer, queues[number], number)
        inbox.wait(len(inbox.messages) + 1)
    assert inbox.payloads() == [8, 3]


# -- leases


def test_acks_do_not_wait_for_a_backlog(
    broker: Broker, client: redis.Redis, producer: Producer, queue: Queue
) -> None:
    send(producer, queue, *range(50))
    inbox = Inbox(broker, queue, prefetch=4)
    inbox.wait(4)
    acked = inbox.messages[0]
    acked.ack()
    # No more acks follow, and nothing else happens.
    wait_until(
        lambda: not client.hexists("unacked", acked.delivery_tag),
        turn=lambda: broker.turn(inbox.connection),
    )


def test_a_dead_workers_messages_come_back(
    redis_url: str, client: redis.Redis, broker: Broker, producer: Producer, queue: Queue
) -> None:
    options = {"lease": SHORT_LEASE_S}

    def consume(tell: Any) -> None:
        mine = Broker(redis_url, options, with_hub=broker.with_hub)
        inbox = Inbox(mine, queue, prefetch=3)
        inbox.wait(3)
        tell(True)
        mine.run(inbox.connection, lambda: False)

    send(producer, queue, 1, 2, 3)
    with Forked(consume) as worker:
        worker.hear(PATIENCE_S)
        worker.kill(signal.SIGKILL)
        worker.join()
    broker.options = options
    inbox = Inbox(broker, queue)
    inbox.wait(3)
    assert inbox.payloads() == [1, 2, 3]
    assert all(message.headers["redelivered"] for message in inbox.messages)


def test_what_a_dead_worker_was_just_given_comes_back(
    broker: Broker, client: redis.Redis, producer: Producer, queue: Queue
) -> None:
    broker.options = {"lease": SHORT_LEASE_S}
    client.hset("taskq.workers", "dead", json.dumps([queue.name]))
    client.lpush(f"taskq.worker.dead:inflight:{queue.name}", make_message(body="7"))
    inbox = Inbox(broker, queue)
    assert inbox.wait(1)[0].payload == 7
    assert not client.hexists("taskq.workers", "dead")
    # An answer to a wait of its that comes late is not lost either.
    client.lpush(f"taskq.worker.dead:inflight:{queue.name}", make_message(body="8"))
    assert inbox.wait(2)[1].payload == 8


def test_what_a_worker_held_that_died_after_it_was_buried_comes_back(
    broker: Broker, client: redis.Redis, queue: Queue
) -> None:
    broker.options = {"lease": SHORT_LEASE_S}
    # It was late to renew its lease: others took it for dead, and then it was not for a moment.
    client.hset("taskq.workers", "~late", json.dumps([time.time(), [queue.name]]))
    copy = b'[%b, "", "%b"]' % (make_message(body="7"), queue.name.encode())
    client.hset("unacked", "late:1:1", copy)
    client.zadd("unacked_index", {"late:1:1": time.time()})
    client.set("taskq.worker.late", 1, px=300)
    inbox = Inbox(broker, queue)
    assert inbox.wait(1)[0].payload == 7
    assert not client.exists("taskq.worker.late")
    assert not client.hexists("unacked", "late:1:1")


def test_a_held_message_outlives_the_visibility_timeout(
    redis_url: str, client: redis.Redis, broker: Broker, producer: Producer, queue: Queue
) -> None:
    broker.options = {"visibility_timeout": 1}
    send(producer, queue, 1)
    inbox = Inbox(broker, queue)
    tag = inbox.wait(1)[0].delivery_tag
    with kombu.Connection(redis_url, transport_options={"visibility_timeout": 1}) as peer:
        first = client.zscore("unacked_index", tag)
        assert first is not None

        def sweep() -> None:
            peer.default_channel.qos.restore_visible(interval=1)

        # The loop stands still, as in a long task; only the lease's thread is alive.
        wait_until(lambda: (client.zscore("unacked_index", tag) or 0) > first + 2, turn=sweep)
    assert client.llen(queue.name) == 0
    inbox.ack()
    assert client.hlen("unacked") == 0


def test_a_worker_that_stalled_starts_nothing_that_was_given_away(
    broker: Broker,
    client: redis.Redis,
    producer: Producer,
    queue: Queue,
    caplog: pytest.LogCaptureFixture,
) -> None:
    send(producer, queue, 1, 2)
    inbox = Inbox(broker, queue)
    first, second = inbox.wait(2)
    session = inbox.channel.session
    # As if this process had been stopped for longer than its lease ...
    client.delete(session.key)
    client.hdel("unacked", first.delivery_tag)
    client.zrem("unacked_index", first.delivery_tag)
    session.renewed -= session.lease_s
    # ... and somebody had put one of its messages back.
    assert not inbox.channel.holds(first.delivery_tag)
    assert inbox.channel.holds(second.delivery_tag)
    assert client.exists(session.key)
    first.ack()
    assert "came late" in caplog.text
    second.ack()


def test_a_call_that_was_given_up_has_no_effect(
    broker: Broker, client: redis.Redis, producer: Producer, queue: Queue
) -> None:
    inbox = Inbox(broker, queue)
    inbox.wait_long()
    channel = inbox.channel
    channel._end_waits()
    _, _, command = channel._build_reserve(5, [queue.name])
    send(producer, queue, 1)
    channel.session.invalidate_calls()
    assert channel.line.ask(command) == [None]
    assert client.llen(queue.name) == 1


def test_a_fork_takes_nothing_from_its_parent(
    broker: Broker, client: redis.Redis, producer: Producer, queue: Queue
) -> None:
    send(producer, queue, 1)
    inbox = Inbox(broker, queue)
    inbox.wait(1)

    def leave(tell: Any) -> None:
        inbox.connection.release()
        producer.publish(2, routing_key=queue.name)
        tell(True)

    with Forked(leave) as child:
        child.hear(PATIENCE_S)
        assert child.join() == 0
    inbox.wait(2)
    assert client.hlen("unacked") == 2
    inbox.ack()
    wait_until(lambda: client.hlen("unacked") == 0, turn=lambda: broker.turn(inbox.connection))


def test_the_lease_must_be_seconds(redis_url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="lease"):
        Connection(redis_url, transport_options={"lease": "long"}).connect()


# -- the network


@pytest.mark.parametrize("with_hub", [False, True])
def test_a_lost_reply_loses_nothing(
    redis_server: RedisServer, redis_url: str, client: redis.Redis, with_hub: bool
) -> None:
    with Proxy(redis_server.port) as proxy:
        broker = Broker(proxy.through(redis_url), {}, with_hub)
        queue = broker.queue()
        client.lpush(queue.name, make_message(body="1"), make_message(body="2"))
        # The script has run; its reply does not arrive.
        cut = proxy.cut_when(lambda way, data: way == "down" and b'"body"' in data)
        inbox = Inbox(broker, queue)
        inbox.wait(2)
        assert cut.is_set()
        assert inbox.payloads() == [1, 2]
        assert client.hlen("unacked") == 2
        inbox.ack()
        wait_until(lambda: client.hlen("unacked") == 0, turn=lambda: broker.turn(inbox.connection))
        broker.close_all()


def test_a_lost_connection_gives_everything_back_at_once(
    redis_server: RedisServer, redis_url: str, client: redis.Redis
) -> None:
    with Proxy(redis_server.port) as proxy:
        broker = Broker(proxy.through(redis_url), {}, with_hub=True)
        queue = broker.queue()
        client.lpush(queue.name, *[make_message() for _ in range(5)])
        inbox = Inbox(broker, queue, prefetch=3)
        inbox.wait(3)
        inbox.messages[0].ack()
        proxy.refuse()
        with pytest.raises(inbox.connection.connection_errors):
            broker.run(inbox.connection, lambda: False)
        inbox.close()
        assert client.llen(queue.name) == 2
        proxy.accept()
        # What was acked stays acked.
        wait_until(lambda: client.llen(queue.name) == 4 and client.hlen("unacked") == 0)
        assert not client.hkeys("taskq.workers")[1:]


def test_a_consumer_whose_waits_were_cut_off_is_taken_apart(
    broker: Broker, client: redis.Redis, producer: Producer, queue: Queue
) -> None:
    connection = broker.connect()
    channel = connection.default_channel
    kombu.Consumer(channel, [queue], on_message=print).consume()
    wait_until(lambda: count_waits(client) == 4, turn=lambda: broker.turn(connection))
    key = channel.session.key
    for each in client.client_list():
        if "b" in each["flags"]:
            client.client_kill(each["addr"])
    with pytest.raises(connection.connection_errors):
        broker.run(connection, lambda: False)
    # Nothing stumbles, so nothing is left behind.
    connection.collect()
    assert channel.closed
    assert not client.exists(key)
    send(producer, queue, 1)
    assert Inbox(broker, queue).wait(1)[0].payload == 1


def test_a_connection_the_server_closed_is_made_anew(
    broker: Broker, client: redis.Redis, producer: Producer, queue: Queue
) -> None:
    send(producer, queue, 1)
    client.client_kill_filter(skipme=True)
    send(producer, queue, 2)
    assert client.llen(queue.name) == 2


def test_what_was_sent_to_a_connection_just_closed_is_sent_again(
    broker: Broker, client: redis.Redis, queue: Queue
) -> None:
    client.lpush(queue.name, *[make_message() for _ in range(3)])
    inbox = Inbox(broker, queue, prefetch=1)
    for number in range(1, 4):
        inbox.wait(number)
        # Right after its reply: nobody looks whether the server is still there.
        calls = inbox.messages[-1].channel._calls
        calls._trusted_s = PATIENCE_S
        client.client_kill("{}:{}".format(*calls.socket.getsockname()))
        inbox.messages[-1].ack()
    wait_until(lambda: client.hlen("unacked") == 0, turn=lambda: broker.turn(inbox.connection))
    assert len(inbox.messages) == 3
    assert client.llen(queue.name) == 0
    assert client.zcard("unacked_index") == 0


def test_a_batch_that_is_not_confirmed_says_so(
    redis_server: RedisServer, redis_url: str, client: redis.Redis
) -> None:
    with Proxy(redis_server.port) as proxy, Connection(proxy.through(redis_url)) as connection:
        producer = Producer(connection.channel())
        producer.publish(0, routing_key="batched")
        proxy.cut_when(lambda way, data: way == "down" and data.startswith(b":"))
        with pytest.raises(BatchPublishError), producer.batch():
            producer.publish(1, routing_key="batched")
            producer.publish(2, routing_key="batched")


def test_new_bindings_of_others_are_seen(broker: Broker, producer: Producer) -> None:
    exchange = Exchange(broker.name("x"), "topic")
    first = broker.declare(producer.channel, "first", exchange=exchange, routing_key="a.*")
    producer.publish(1, exchange=exchange, routing_key="a.b")
    other = broker.connect().channel()
    second = broker.declare(other, "second", exchange=exchange, routing_key="#")
    producer.publish(2, exchange=exchange, routing_key="a.b")
    assert first.queue_declare(passive=True).message_count == 2
    assert second.queue_declare(passive=True).message_count == 1


# -- kombu's peers


def test_queues_are_shared_with_kombu(
    redis_url: str, client: redis.Redis, broker: Broker, producer: Producer, queue: Queue
) -> None:
    with kombu.Connection(redis_url) as peer:
        send(Producer(peer.channel()), queue, {"from": "kombu"}, priority=3)
        inbox = Inbox(broker, queue)
        assert inbox.wait(1)[0].payload == {"from": "kombu"}
        inbox.ack()
        inbox.close()
        send(producer, queue, {"from": "taskq"}, priority=3)
        message = wait_until(queue(peer.channel()).get)
        assert message.payload == {"from": "taskq"}
        assert message.properties["priority"] == 3
        message.ack()


def test_kombu_puts_our_messages_back_where_they_were(
    redis_url: str, client: redis.Redis, broker: Broker, producer: Producer, queue: Queue
) -> None:
    send(producer, queue, 1, priority=6)
    inbox = Inbox(broker, queue, prefetch=1)
    tag = inbox.wait(1)[0].delivery_tag
    with kombu.Connection(redis_url) as peer:
        peer.default_channel.qos.restore_by_tag(tag)
    assert client.llen(f"{queue.name}\x06\x166") == 1


def test_a_dead_peers_messages_come_back(
    redis_url: str, client: redis.Redis, broker: Broker, producer: Producer, queue: Queue
) -> None:
    send(producer, queue, 1)
    peer = kombu.Connection(redis_url)
    taken = queue(peer.channel()).get()
    client.zadd("unacked_index", {taken.delivery_tag: 1.0})
    broker.options = {"visibility_timeout": 1.5}
    inbox = Inbox(broker, queue)
    assert inbox.wait(1)[0].headers["redelivered"]
    taken.ack()
    peer.release()


# -- URLs


def test_tls() -> None:
    with RedisServer(tls=True) as server, Connection(server.url) as connection:
        queue = Queue("secure")(connection.channel())
        Producer(queue.channel).publish(1, routing_key="secure")
        assert queue.get(no_ack=True).payload == 1
        assert isinstance(connection.transport, Transport)


def test_tls_is_not_given_up(redis_url: str) -> None:
    # The server waits for the end of what it takes for a command.
    options = {"socket_timeout": 0.5, "socket_connect_timeout": 0.5}
    url = redis_url.replace("redis://", "rediss://")
    connection = Connection(url, transport_options=options)
    with connection, pytest.raises(OperationalError):
        connection.ensure_connection(max_retries=1, interval_start=0)


def test_a_unix_socket(redis_server: RedisServer) -> None:
    with Connection(f"redis+{redis_server.socket_url}") as connection:
        Producer(connection.channel()).publish(1, routing_key="by-socket")
        assert connection.channel().queue_purge("by-socket") == 1


def test_copies_keep_class_and_name(redis_url: str) -> None:
    url = redis_url.replace("redis://", "redis://:secret@")
    connection = Connection([url, "redis://:secret@other:6379/0"])
    for each in (connection, connection.clone(), pickle.loads(pickle.dumps(connection))):
        assert each.get_transport_cls() is Transport
        assert each.transport_cls == "redis"
        assert each.as_uri().startswith("redis://:**@")
        assert "secret" not in each.as_uri()
    connection.maybe_switch_next()
    assert connection.hostname == "other"
    assert connection.get_transport_cls() is Transport
    assert connection.transport.driver_type == "redis"


def test_the_way_back_to_kombu(redis_url: str) -> None:
    options = {"lane": "kombu"}
    name = Connection(redis_url, transport_options=options).get_transport_cls().__module__
    assert name == "kombu.transport.redis"
    with pytest.raises(ImproperlyConfigured, match="'taskq' or 'kombu'"):
        Connection(redis_url, transport_options={"lane": "fast"}).get_transport_cls()


def test_an_old_server_is_named(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    monkeypatch.setattr(transport_module, "OLDEST", (999, 0))
    with Connection(redis_url) as connection, pytest.raises(ImproperlyConfigured, match="'lane'"):
        connection.Consumer([Queue("q")], on_message=print).consume()
