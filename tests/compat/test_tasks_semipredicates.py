"""Behaviours 101 to 104: endings that are no errors. Retry has test_tasks_retry.py."""

from __future__ import annotations

import pytest
from celery import signals
from celery.exceptions import Ignore, Reject, Retry
from kombu import Exchange, Queue
from kombu.message import Message
from patience import wait_until
from servers.fixtures import rabbitmq_vhost  # noqa: F401 # a fixture


@pytest.fixture
def settled(monkeypatch):
    """How the messages of tasks were settled, in order."""
    lines = []

    def watch(name):
        original = getattr(Message, name)

        def settle(message, *args, **kwargs):
            if "id" in message.headers:
                requeue = kwargs.get("requeue")
                lines.append(name if requeue is None else f"{name} requeue={requeue}")
            return original(message, *args, **kwargs)

        monkeypatch.setattr(Message, name, settle)

    watch("ack")
    watch("reject")
    return lines


@pytest.fixture
def ended(app, worker):
    """Run a task that raises `error` once and then ends; its result."""

    def run(error, **options):
        @app.task(bind=True, **options)
        def task(self):
            RUNS.append(self.request.delivery_info["redelivered"])
            if len(RUNS) == 1:
                raise error

        @app.task
        def last():
            pass

        RUNS.clear()
        result = task.delay()
        worker.finish(last.delay())
        if len(RUNS) == 1 and getattr(error, "requeue", False) and options.get("acks_late"):
            worker.finish(result)
        worker.stop()
        return result

    return run


RUNS: list = []


def failed_tasks():
    seen = []

    def keep(exception, **more):
        seen.append(type(exception).__name__)

    signals.task_failure.connect(keep, weak=False)
    return seen


@pytest.mark.parametrize("late", [False, True])
def test_101_ignore(ended, settled, late):
    failures = failed_tasks()
    result = ended(Ignore("seen"), acks_late=late)
    assert result.state == "PENDING"
    assert settled == ["ack", "ack"]
    assert failures == [] and len(RUNS) == 1


def test_101_a_state_of_its_own(app, worker):
    @app.task(bind=True)
    def task(self):
        self.update_state(state="LATER", meta={"left": 3})
        raise Ignore

    @app.task
    def last():
        pass

    result = task.delay()
    worker.finish(last.delay())
    assert (result.state, result.info) == ("LATER", {"left": 3})


def test_102_reject(ended, settled):
    failures = failed_tasks()
    result = ended(Reject("no", requeue=False), acks_late=True)
    assert result.state == "FAILURE"
    assert "no" in str(result.result)
    assert failures == ["Reject"]
    assert settled[0] == "reject requeue=False" and len(RUNS) == 1


def test_103_reject_with_requeue(ended, settled):
    failures = failed_tasks()
    result = ended(Reject("again", requeue=True), acks_late=True)
    assert result.state == "SUCCESS"
    assert settled[0] == "reject requeue=True"
    assert len(RUNS) == 2
    assert failures == []


@pytest.mark.parametrize("requeue", [False, True])
def test_104_too_late_to_reject(ended, settled, requeue):
    result = ended(Reject("no", requeue=requeue))
    assert settled == ["ack", "ack"]
    assert len(RUNS) == 1
    assert result.state == ("PENDING" if requeue else "FAILURE")


def test_102_who_hears_of_it(app, worker):
    told = failed_tasks()

    class Telling(app.Task):
        def on_failure(self, *arguments):
            told.append("hook")

        def after_return(self, *arguments):
            told.append("after")

    @app.task(base=Telling, acks_late=True)
    def task():
        raise Reject("no", requeue=False)

    @app.task
    def errback():
        told.append("errback")

    @app.task
    def last():
        pass

    task.apply_async(link_error=errback.si())
    worker.start()
    wait_until(lambda: len(told) == 2, "both are told")
    worker.finish(last.delay())
    # Neither hook: for the tracer it is no failure.
    assert sorted(told) == ["Reject", "errback"]


@pytest.fixture
def rabbit(app, rabbitmq_vhost):  # noqa: F811
    """The application on RabbitMQ, a queue of its own, and where its dead letters go."""
    dead = Exchange("compat.dead", "fanout")
    parked = Queue("compat.parked", dead)
    arguments = {"x-dead-letter-exchange": dead.name}
    work = Queue("compat.work", Exchange("compat.work"), "work", queue_arguments=arguments)
    app.conf.update(
        broker_url=rabbitmq_vhost.url, broker_connection_retry_on_startup=True,
        task_queues=[work], task_default_queue=work.name, task_default_exchange="compat.work",
        task_default_routing_key="work", broker_transport_options={},
    )  # fmt: skip
    with app.connection_for_write() as connection:
        bound = parked(connection.default_channel)
        bound.declare()
        yield bound
        bound.delete()
        work(connection.default_channel).delete()


def test_102_dead_letters(app, worker, rabbit):
    @app.task(acks_late=True)
    def task():
        raise Reject("no", requeue=False)

    result = worker.finish(task.delay())
    message = wait_until(lambda: rabbit.get(no_ack=True), "the message is parked")
    assert message.headers["id"] == result.id
    assert message.headers["x-death"][0]["reason"] == "rejected"
    worker.stop()


@pytest.mark.parametrize(
    ("error", "state"),
    [(Ignore("x"), "IGNORED"), (Reject("x"), "REJECTED"), (Retry("x"), "RETRY")],
)
def test_101_eager(app, error, state):
    @app.task
    def task():
        raise error

    result = task.apply()
    assert result.state == state
    assert result.result is error
