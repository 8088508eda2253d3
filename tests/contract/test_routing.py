"""Routing on real brokers: kinds of exchanges, priorities, broadcasts, dead letters, -Q and -X."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from contract.workers import serving
from kombu import Exchange, Queue
from kombu.common import Broadcast
from patience import wait_until

from taskq import Celery
from taskq.exceptions import QueueNotFound

Make = Callable[..., Celery]


@pytest.fixture
def unique() -> str:
    """Begins the names of this test's queues and exchanges."""
    return f"routing-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    made = []

    def make(broker: str, **settings: Any) -> Celery:
        url = f"sqlite:///{tmp_path}/q.db"
        if broker != "sqlite":
            url = request.getfixturevalue(f"{broker}_url")
        app = Celery("routing", broker=url, backend="cache+memory://", set_as_current=False)
        app.conf.update(worker_prefetch_multiplier=1, **settings)
        made.append(app)
        return app

    yield make
    for app in made:
        app.close()


def noting(app: Celery) -> list[tuple[str, Any]]:
    """A task `note`, and what it was called with: (routing key, value), in order."""
    seen: list[tuple[str, Any]] = []

    @app.task(name="note", bind=True)
    def note(self: Any, value: Any) -> None:
        seen.append((self.request.delivery_info["routing_key"], value))

    return seen


def test_every_kind_of_exchange_on_rabbitmq(make: Make, unique: str) -> None:
    topic, fan, headed, direct = (
        Exchange(f"{unique}-{kind}", kind) for kind in ("topic", "fanout", "headers", "direct")
    )
    match = {"x-match": "all", "format": "pdf"}
    queues = [
        Queue(f"{unique}-topic", topic, "media.#"),
        Queue(f"{unique}-fan-1", fan),
        Queue(f"{unique}-fan-2", fan),
        Queue(f"{unique}-headed", headed, binding_arguments=match),
        Queue(f"{unique}-direct", direct, "some.key"),
    ]
    app = make("rabbitmq", task_queues=queues, task_default_queue=queues[-1].name)
    seen = noting(app)
    with serving(app):
        for value, options in {
            "topic": {"exchange": topic.name, "routing_key": "media.video"},
            "not bound": {"exchange": topic.name, "routing_key": "feed"},
            "fan": {"exchange": fan.name, "exchange_type": "fanout"},
            "headed": {"queue": f"{unique}-headed", "headers": {"format": "pdf"}},
            "other head": {"queue": f"{unique}-headed", "headers": {"format": "x"}},
            "direct": {"exchange": direct.name, "routing_key": "some.key"},
            "by name": {"queue": f"{unique}-direct"},
            "by topic queue": {"queue": f"{unique}-topic", "routing_key": "media.x"},
        }.items():
            app.send_task("note", (value,), **options)
        wait_until(lambda: len(seen) == 7, report=lambda: seen)
    assert sorted(value for _, value in seen) == [
        "by name", "by topic queue", "direct", "fan", "fan", "headed", "topic",
    ]  # fmt: skip


#: What is sent, and the order in which it comes.
PRIORITIES = {
    "rabbitmq": ([0, 255, 3, 100, 7], [255, 100, 7, 3, 0]),
    "redis": ([9, 0, 6, 3], [0, 3, 6, 9]),
    "sqlite": ([0, 9, 3, 7], [9, 7, 3, 0]),
}


@pytest.mark.parametrize("broker", PRIORITIES)
def test_priorities(make: Make, unique: str, broker: str) -> None:
    sent, expected = PRIORITIES[broker]
    settings = {"task_queue_max_priority": 255} if broker == "rabbitmq" else {}
    app = make(broker, task_default_queue=unique, **settings)
    seen = noting(app)
    for priority in sent:
        app.send_task("note", (priority,), priority=priority)
    with serving(app, concurrency=1):
        wait_until(lambda: len(seen) == len(sent), report=lambda: seen)
    assert [value for _, value in seen] == expected


@pytest.mark.parametrize("priority", [256, -1, "high", 2.5])
def test_what_is_no_priority_on_rabbitmq(make: Make, unique: str, priority: Any) -> None:
    app = make("rabbitmq", task_default_queue=unique)
    with pytest.raises(ValueError, match="priority must be a whole number from 0 to 255"):
        app.send_task("note", (1,), priority=priority)
    app.send_task("note", (1,), priority=0)


@pytest.mark.parametrize("broker", ["rabbitmq", "redis"])
def test_a_broadcast_reaches_everybody(make: Make, unique: str, broker: str) -> None:
    got = []

    def settings() -> dict[str, Any]:
        queues = [Queue(unique), Broadcast(f"{unique}-all")]
        return {"task_queues": queues, "task_default_queue": unique}

    app = make(broker, **settings())
    with app.connection_for_read() as connection:
        for number in range(2):
            # Every process has settings, and so a queue, of its own.
            own = make(broker, **settings()).amqp.queues[f"{unique}-all"]
            app.amqp.TaskConsumer(
                connection.channel(), queues=[own],
                on_message=lambda message, n=number: (got.append(n), message.ack()),
            ).consume()  # fmt: skip
        other = make(broker, **settings())
        seen = noting(other)
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=0.1)  # on Redis, who does not listen yet misses it
        with serving(other):
            other.send_task("note", ("to all",), queue=f"{unique}-all")

            def everybody() -> bool:
                if len(got) < 2:
                    connection.drain_events(timeout=10)
                return len(got) == 2 and len(seen) == 1

            wait_until(everybody, report=lambda: (got, seen))
    assert sorted(got) == [0, 1]


def test_dead_letters_on_rabbitmq(make: Make, unique: str) -> None:
    dead = Queue(f"{unique}-dead", Exchange(f"{unique}-dead", "direct"), "dead")
    arguments = {
        "x-dead-letter-exchange": dead.exchange.name, "x-dead-letter-routing-key": "dead",
    }  # fmt: skip
    alive = Queue(f"{unique}-alive", queue_arguments=arguments)
    app = make("rabbitmq", task_queues=[alive], task_default_queue=alive.name)
    with app.connection_for_write() as connection:
        bound = dead(connection.default_channel)
        bound.declare()
        with serving(app):
            app.send_task("nobody.knows", task_id="lost")
            app.send_task("also.unknown", task_id="lost too")
            ids = []

            def both() -> bool:
                message = bound.get(no_ack=True)
                if message is not None:
                    ids.append(message.headers["id"])
                return len(ids) == 2

            wait_until(both)
    assert sorted(ids) == ["lost", "lost too"]


def test_missing_queues_are_made_as_quorum_queues(make: Make, unique: str) -> None:
    app = make(
        "rabbitmq", task_default_queue=unique, task_create_missing_queue_type="quorum",
        task_create_missing_queue_exchange_type="topic",
    )  # fmt: skip
    app.send_task("note", (1,), queue=f"{unique}-made")
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        channel.queue_declare(f"{unique}-made", passive=True)
        kept = Queue(f"{unique}-made", queue_arguments={"x-queue-type": "quorum"})
        found = wait_until(lambda: kept(channel).get(no_ack=True))
        assert found.headers["task"] == "note"
        with pytest.raises(channel.connection.client.channel_errors, match="quorum"):
            channel.queue_declare(f"{unique}-made", durable=True, auto_delete=False)


def test_no_queue_is_made_when_that_is_off(make: Make, unique: str) -> None:
    app = make("redis", task_queues=[Queue(unique)], task_create_missing_queues=False)
    with pytest.raises(QueueNotFound, match=f"did you mean '{unique}'"):
        app.send_task("note", (1,), queue=f"{unique}x")


@pytest.mark.parametrize("broker", ["rabbitmq", "redis", "sqlite"])
def test_a_worker_takes_from_the_queues_it_is_told(make: Make, unique: str, broker: str) -> None:
    names = [f"{unique}-{letter}" for letter in "abc"]
    app = make(broker, task_queues=[Queue(name) for name in names], task_default_queue=names[0])
    seen = noting(app)
    for name in names:
        app.send_task("note", (name,), queue=name)
    with serving(app, queues=[names[1], f"{unique}-new"]):
        app.send_task("note", ("new",), queue=f"{unique}-new")
        wait_until(lambda: len(seen) == 2, report=lambda: seen)
    assert sorted(value for _, value in seen) == sorted([names[1], "new"])
    seen.clear()
    app.amqp.queues = app.conf.task_queues
    with serving(app, exclude_queues=[names[0], names[1]]):
        wait_until(lambda: seen, report=lambda: seen)
    assert [value for _, value in seen] == [names[2]]
