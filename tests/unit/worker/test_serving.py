"""A worker in this process: messages in, tasks run, commands answered."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from contract.workers import memory_app, serving
from kombu.common import QoS
from patience import PATIENCE_S, wait_until

from taskq import Celery, bootsteps
from taskq.exceptions import ImproperlyConfigured, NotRegistered, Reject, TaskRevokedError
from taskq.signals import task_received, task_rejected, task_revoked, task_unknown
from taskq.worker import program, state


@pytest.fixture
def app() -> Iterator[Celery]:
    app = memory_app("serving")

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="limited", rate_limit="1/m")
    def limited(x: int) -> int:
        return x

    runs: list[int] = []

    @app.task(name="late", acks_late=True)
    def late() -> str:
        runs.append(1)
        if len(runs) < 2:
            raise Reject("once more", requeue=True)
        return "second time"

    yield app
    app.close()


def test_a_call_becomes_a_result(app: Celery) -> None:
    with serving(app) as worker:
        assert app.send_task("add", (2, 3)).get(timeout=PATIENCE_S) == 5
        assert worker.consumer.restart_count == 0
    assert worker.exitcode == 0


def test_eta_is_kept_and_the_window_grows_meanwhile(app: Celery) -> None:
    with serving(app) as worker:
        app.send_task("add", (0, 0), countdown=600, task_id="much later")
        wait_until(lambda: state.scheduled_requests)
        before = worker.consumer.initial_prefetch_count
        assert worker.consumer.qos.value == before + 1
        soon = app.send_task("add", (1, 1), countdown=0.1)
        assert soon.get(timeout=PATIENCE_S) == 2
        assert worker.consumer.qos.value == before + 1
        inspect = app.control.inspect(timeout=PATIENCE_S, limit=1)
        assert inspect.scheduled()["w@test"][0]["priority"] == 6


def test_a_rate_limit_holds_tasks_back_until_it_is_lifted(app: Celery) -> None:
    with serving(app):
        assert app.send_task("limited", (1,)).get(timeout=PATIENCE_S) == 1
        held = [app.send_task("limited", (n,)) for n in (2, 3)]
        assert app.send_task("add", (1, 1)).get(timeout=PATIENCE_S) == 2
        assert [result.state for result in held] == ["PENDING", "PENDING"]
        assert len(state.reserved_requests) == 2
        replies = app.control.rate_limit("limited", 0, reply=True, limit=1)
        assert replies == [{"w@test": {"ok": "rate limit disabled successfully"}}]
        assert [result.get(timeout=PATIENCE_S) for result in held] == [2, 3]


def test_a_rejected_message_comes_again(app: Celery) -> None:
    with serving(app):
        assert app.send_task("late").get(timeout=PATIENCE_S) == "second time"


def test_revoked_and_expired_tasks_do_not_run(app: Celery) -> None:
    seen: list[dict[str, Any]] = []

    def on_revoked(**fields: Any) -> None:
        seen.append(fields)

    task_revoked.connect(on_revoked)
    try:
        with serving(app):
            app.control.revoke("unwanted", reply=True, limit=1)
            unwanted = app.send_task("add", (1, 1), task_id="unwanted")
            with pytest.raises(TaskRevokedError, match="revoked"):
                unwanted.get(timeout=PATIENCE_S)
            expired = app.send_task("add", (1, 1), expires=-5)
            with pytest.raises(TaskRevokedError, match="expired"):
                expired.get(timeout=PATIENCE_S)
    finally:
        task_revoked.disconnect(on_revoked)
    assert [fields["expired"] for fields in seen] == [False, True]


def test_unknown_and_invalid_messages_are_told_to_signals(app: Celery) -> None:
    seen: list[str] = []

    def on_unknown(name: str, id: str, **fields: Any) -> None:
        seen.append(f"unknown {name}")

    def on_rejected(exc: Any, **fields: Any) -> None:
        seen.append(f"rejected {type(exc).__name__}")

    task_unknown.connect(on_unknown)
    task_rejected.connect(on_rejected)
    try:
        with serving(app), app.connection_for_write() as connection:
            publish = connection.Producer().publish
            publish([1], serializer="json", routing_key="celery",
                    headers={"task": "add", "id": "x"})  # fmt: skip
            publish({"odd": 1}, serializer="json", routing_key="celery")
            publish([[], {}, {}], serializer="json", routing_key="celery",
                    headers={"task": ["add"], "id": "x"})  # fmt: skip
            with pytest.raises(NotRegistered):
                app.send_task("nothing").get(timeout=PATIENCE_S)
            assert app.send_task("add", (1, 1)).get(timeout=PATIENCE_S) == 2
    finally:
        task_unknown.disconnect(on_unknown)
        task_rejected.disconnect(on_rejected)
    assert seen == [
        "rejected InvalidTaskError", "rejected NoneType", "unknown ['add']", "unknown nothing",
    ]  # fmt: skip


def test_protocol_1_is_understood(app: Celery) -> None:
    body = {"task": "add", "id": "old", "args": [1], "kwargs": {"y": 2}, "retries": 0}
    with serving(app), app.connection_for_write() as connection:
        connection.Producer().publish(body, serializer="json", routing_key="celery")
        assert app.AsyncResult("old").get(timeout=PATIENCE_S) == 3


def test_received_is_told_with_the_request(app: Celery) -> None:
    seen: list[Any] = []

    def on_received(request: Any, sender: Any, **fields: Any) -> None:
        seen.append((request.id, sender))

    task_received.connect(on_received)
    try:
        with serving(app) as worker:
            app.send_task("add", (1, 1), task_id="one").get(timeout=PATIENCE_S)
            assert seen == [("one", worker.consumer)]
    finally:
        task_received.disconnect(on_received)


def test_a_stopping_worker_leaves_messages_where_they_are(app: Celery) -> None:
    with serving(app) as worker:
        handler = worker.consumer.create_task_handler()
        state.should_stop = 0
        assert handler(None) is None
    assert worker.exitcode == 0


def test_steps_of_users_see_the_worker_and_its_consumer(app: Celery) -> None:
    seen: list[str] = []

    class Mine(bootsteps.StartStopStep):
        requires = ("celery.worker.components:Pool",)

        def start(self, worker: Any) -> None:
            seen.append(f"worker has {type(worker.pool).__name__}")

    class Listens(bootsteps.ConsumerStep):
        requires = ("celery.worker.consumer:Tasks",)

        def get_consumers(self, channel: Any) -> list[Any]:
            seen.append("consumer has a channel")
            return []

    app.steps["worker"].add(Mine)
    app.steps["consumer"].add(Listens)
    with serving(app):
        assert app.send_task("add", (1, 1)).get(timeout=PATIENCE_S) == 2
    assert seen == ["worker has TaskPool", "consumer has a channel"]


def test_the_stages_are_those_the_program_lists(app: Celery) -> None:
    with serving(app) as worker:
        made = {
            "worker": tuple(step.alias for step in worker.blueprint.order),
            "consumer": tuple(step.alias for step in worker.consumer.blueprint.order),
        }
    assert made == program.STAGES


def test_a_lost_connection_is_made_anew(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    broken = threading.Event()

    def break_once() -> None:
        broken.set()
        raise ConnectionResetError("the network breaks now")

    with serving(app) as worker:
        app.send_task("add", (0, 0), countdown=600)
        wait_until(lambda: state.scheduled_requests)
        worker.consumer.connection_errors = (*worker.consumer.connection_errors, ConnectionError)
        with caplog.at_level(logging.WARNING):
            worker.timer.call_after(0, break_once)
            assert broken.wait(PATIENCE_S)
            assert app.send_task("add", (1, 1)).get(timeout=PATIENCE_S) == 2
        assert worker.consumer.restart_count == 1
    assert "Connection to broker lost" in caplog.text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"queues": "other"}, "queue 'other' isn't"),
    ],
)
def test_queues_that_may_not_be_made(app: Celery, options: dict[str, Any], says: str) -> None:
    app.conf.task_create_missing_queues = False
    with pytest.raises(ImproperlyConfigured, match=says):
        app.WorkController(pool="solo", **options)


def test_queues_can_be_chosen(app: Celery) -> None:
    with serving(app, queues="a,b", exclude_queues=["b"]) as worker:
        assert list(app.amqp.queues.consume_from) == ["a"]
        assert app.send_task("add", (1, 1), queue="a").get(timeout=PATIENCE_S) == 2
        app.control.add_consumer("c", reply=True, limit=1)
        assert app.send_task("add", (1, 2), queue="c").get(timeout=PATIENCE_S) == 3
        inspect = app.control.inspect(timeout=PATIENCE_S, limit=1)
        names = {q["name"] for q in inspect.active_queues()["w@test"]}
        assert names == {"a", "c"}
        app.control.cancel_consumer("c", reply=True, limit=1)
        wait_until(lambda: not worker.consumer.task_consumer.consuming_from("c"))


def test_the_default_pool_is_prefork(app: Celery) -> None:
    worker = app.WorkController()
    assert worker.pool.info["implementation"] == "celery.concurrency.prefork:TaskPool"
    app.conf.worker_pool = "solo"
    worker = app.WorkController()
    assert worker.pool.info["implementation"] == "celery.concurrency.solo:TaskPool"


def test_the_users_agent_is_started_and_stopped_beside_the_consumer() -> None:
    said: list[str] = []

    class Agent:
        def __init__(self, connection: Any) -> None:
            said.append("made")

        def start(self) -> None:
            said.append("start")

        def stop(self) -> None:
            said.append("stop")

    app = Celery("agents", broker="memory://", set_as_current=False, worker_agent=Agent)
    consumer = app.WorkController(pool="solo").consumer
    assert [step.alias for step in consumer.steps][:2] == ["Connection", "Agent"]
    assert isinstance(consumer.agent, Agent)
    step = consumer.blueprint["celery.worker.consumer.agent.Agent"]
    step.start(consumer)
    step.stop(consumer)
    assert said == ["made", "start", "stop"]


def test_fewer_messages_are_taken_ahead_while_tasks_of_a_lost_connection_run(app: Celery) -> None:
    consumer = app.WorkController(pool="solo", concurrency=3, prefetch_multiplier=2).consumer
    asked: list[int] = []
    consumer.qos = QoS(lambda prefetch_count: asked.append(prefetch_count), 6)

    class Running:
        pass

    running = [Running(), Running(), Running()]
    state.active_requests.update(running)  # type: ignore[arg-type]
    try:
        consumer._reduce_prefetch()
        # What is left is one slot's share: messages must come in for it to grow again.
        assert consumer.initial_prefetch_count == consumer.qos.value - 4 == 2
        consumer.qos.value = consumer.initial_prefetch_count
        (restore,) = consumer.on_task_message
        restore()
        assert consumer.qos.value == 2
        state.active_requests.difference_update(running[:2])  # type: ignore[arg-type]
        restore()
        assert consumer.qos.value == 4
        state.active_requests.clear()
        restore()
        consumer.perform_pending_operations()
        assert (consumer.qos.value, consumer.on_task_message) == (6, set())
        consumer.resize_prefetch(5)
        assert (consumer.qos.value, consumer.initial_prefetch_count) == (10, 10)
        # Not even a pool without slots may make it 0, which would be no limit.
        consumer.resize_prefetch(0)
        assert (consumer.qos.value, consumer.initial_prefetch_count) == (2, 2)
    finally:
        state.active_requests.clear()
