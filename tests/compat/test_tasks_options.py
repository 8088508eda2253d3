"""Behaviours 72 to 78 and 85 to 87: options of a task. test_tasks_acks.py has the others."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone

import pytest
from celery.exceptions import CDeprecationWarning
from celery.utils.time import rate
from patience import wait_until


class Wrong(Exception):
    pass


def bucket_of(worker, task):
    return worker.controller.consumer.task_buckets[task.name]


def states_of(app, monkeypatch):
    """The states and meta of all results that are stored, in order."""
    stored = []
    # Every thread has a backend of its own.
    cls = type(app.backend)
    original = cls.store_result

    def store(self, task_id, result, state, *rest, **more):
        stored.append((state, result))
        return original(self, task_id, result, state, *rest, **more)

    monkeypatch.setattr(cls, "store_result", store)
    return stored


# -- rate limits


@pytest.mark.parametrize(
    ("limit", "per_second"),
    [
        (None, 0), (2, 2), (0.5, 0.5), ("3", 3), ("3/s", 3), ("30/m", 0.5), ("36/h", 0.01),
        ("0/s", 0),
    ],
)
def test_072_rates(limit, per_second):
    assert rate(limit) == per_second


def test_072_none_means_none(app, worker):
    @app.task
    def free():
        pass

    @app.task(rate_limit="30/m")
    def limited():
        pass

    worker.start()
    assert bucket_of(worker, free) is None
    assert bucket_of(worker, limited).fill_rate == 0.5


def test_073_one_bucket_per_type_and_worker(app, worker):
    ran = []

    @app.task(rate_limit="1/h")
    def one():
        ran.append("one")

    @app.task(rate_limit="1/h")
    def two():
        ran.append("two")

    @app.task
    def free():
        ran.append("free")

    for task in (one, one, two, two):
        task.delay()
    worker.start(prefetch_multiplier=10).finish(free.delay())
    # An hour of quiet has saved up one run, not more.
    assert ran == ["one", "two", "free"]
    assert (bucket_of(worker, one).capacity, bucket_of(worker, two).capacity) == (1, 1)


def test_073_the_limit_is_read_again_when_asked(app, worker):
    @app.task(rate_limit="1/h")
    def limited():
        pass

    worker.start(prefetch_multiplier=10).finish(limited.delay())
    limited.rate_limit = "1000/s"
    consumer = worker.controller.consumer
    consumer.call_soon(consumer.reset_rate_limits)
    wait_until(lambda: bucket_of(worker, limited).fill_rate == 1000, "the new limit is there")
    for result in [limited.delay(), limited.delay()]:
        worker.finish(result)


def test_073_all_limits_may_be_off(app, worker):
    @app.task(rate_limit="1/h")
    def limited():
        pass

    app.conf.worker_disable_rate_limits = True
    worker.start()
    for result in [limited.delay(), limited.delay()]:
        worker.finish(result)


def test_074_the_later_of_eta_and_limit(app, worker):
    ran = []

    @app.task(rate_limit="1/h")
    def limited(what):
        ran.append((what, datetime.now(timezone.utc)))

    eta = datetime.now(timezone.utc) + timedelta(milliseconds=300)
    worker.finish(limited.apply_async(("eta",), eta=eta))
    assert [what for what, _ in ran] == ["eta"]
    assert ran[0][1] >= eta
    # The only token is gone: this one's ETA comes, and it waits on.
    limited.apply_async(("limit",), countdown=0.01)
    wait_until(lambda: bucket_of(worker, limited).contents, "it waits for its rate limit")
    assert len(ran) == 1


# -- results


def test_075_ignored_results(app, worker, monkeypatch):
    ran = []

    @app.task(ignore_result=True)
    def quiet():
        ran.append(1)
        return "value"

    @app.task
    def last():
        pass

    stored = states_of(app, monkeypatch)
    result = quiet.delay()
    worker.finish(last.delay())
    assert ran == [1]
    assert (result.get(), result.state) == (None, "PENDING")
    assert stored == [("SUCCESS", None)]  # of the last one


@pytest.mark.parametrize("stores", [False, True])
def test_076_errors_of_ignored_results(app, worker, stores):
    @app.task(ignore_result=True, store_errors_even_if_ignored=stores)
    def failing():
        raise Wrong("no")

    @app.task
    def last():
        pass

    result = failing.delay()
    worker.finish(last.delay())
    assert app.AsyncResult(result.id).state == ("FAILURE" if stores else "PENDING")


@pytest.mark.parametrize(
    ("setting", "attribute", "call", "ignored"),
    [
        (False, None, None, False), (True, None, None, True), (True, False, None, False),
        (False, True, None, True), (False, True, False, False), (True, None, False, False),
        (False, False, True, True), (True, False, True, True),
    ],
)  # fmt: skip
def test_077_who_decides(app, worker, setting, attribute, call, ignored):
    app.conf.task_ignore_result = setting

    @app.task(ignore_result=attribute)
    def task():
        return "value"

    @app.task(ignore_result=False)
    def last():
        pass

    result = task.apply_async(**({} if call is None else {"ignore_result": call}))
    worker.finish(last.delay())
    assert app.AsyncResult(result.id).state == ("PENDING" if ignored else "SUCCESS")


def test_078_track_started(app, worker, monkeypatch):
    @app.task(track_started=True)
    def task():
        pass

    stored = states_of(app, monkeypatch)
    worker.finish(task.delay())
    assert stored[0] == ("STARTED", {"pid": os.getpid(), "hostname": "compat@test"})
    assert [state for state, _ in stored] == ["STARTED", "SUCCESS"]


def test_078_not_for_ignored_results_and_by_setting(app, worker, monkeypatch):
    app.conf.task_track_started = True

    @app.task(ignore_result=True)
    def quiet():
        pass

    @app.task
    def task():
        pass

    stored = states_of(app, monkeypatch)
    quiet.delay()
    worker.finish(task.delay())
    assert [state for state, _ in stored] == ["STARTED", "SUCCESS"]


# -- options of messages


def test_085_a_task_has_defaults_for_its_messages(app, sent):
    @app.task(
        expires=3600, priority=4, serializer="pickle", compression="zlib",
        time_limit=20, soft_time_limit=10,
    )  # fmt: skip
    def task():
        pass

    task.delay()
    task.apply_async(
        priority=1, serializer="json", compression="bzip2", time_limit=9, soft_time_limit=8,
        expires=60,
    )  # fmt: skip
    own, called = sent
    assert (own.properties["priority"], called.properties["priority"]) == (4, 1)
    assert own.headers["timelimit"] == [20, 10]
    assert called.headers["timelimit"] == [9, 8]
    now = datetime.now(timezone.utc)
    moments = [datetime.fromisoformat(each.headers["expires"]) for each in sent]
    seconds = [(moment - now).total_seconds() for moment in moments]
    assert 3000 < seconds[0] <= 3600 and 0 < seconds[1] <= 60
    assert type(task.expires) is int


def queued(app):
    """The raw messages in the in-memory broker's queue."""
    with app.connection_for_read() as connection:
        queue = connection.default_channel.queues["celery"]
        return [queue.get_nowait() for _ in range(queue.qsize())]


def test_085_as_the_broker_sees_them(app):
    @app.task(serializer="pickle", compression="zlib")
    def task():
        pass

    task.delay()
    task.apply_async(serializer="json", compression="bzip2")
    messages = queued(app)
    assert [each["content-type"] for each in messages] == [
        "application/x-python-serialize", "application/json",
    ]  # fmt: skip
    assert [each["headers"]["compression"] for each in messages] == [
        "application/x-gzip", "application/x-bz2",
    ]  # fmt: skip


@pytest.mark.parametrize("attribute", ["queue", "exchange", "routing_key"])
def test_085_routing_attributes_are_deprecated(app, sent, attribute):
    with pytest.warns(CDeprecationWarning, match="6.0"):
        task = app.task(lambda_task, name="routed", lazy=False, **{attribute: "elsewhere"})
    assert getattr(task, attribute) == "elsewhere"
    task.delay()
    assert sent[0].routing_key == ("elsewhere" if attribute == "queue" else "celery")


def lambda_task():
    pass


def test_086_settings_are_the_defaults(app):
    app.conf.update(task_serializer="yaml", task_compression="zlib")

    @app.task
    def task():
        pass

    task.delay()
    [message] = queued(app)
    assert task.serializer == "yaml"
    assert message["content-type"] == "application/x-yaml"
    assert message["headers"]["compression"] == "application/x-gzip"


def test_086_precedence(app, sent):
    app.conf.update(task_time_limit=30, task_default_priority=2, task_acks_late=True)

    @app.task
    def plain():
        pass

    @app.task(time_limit=20, priority=5, acks_late=False)
    def own():
        pass

    plain.delay()
    own.delay()
    own.apply_async(time_limit=10, priority=7)
    assert [each.properties["priority"] for each in sent] == [2, 5, 7]
    assert [each.headers["timelimit"] for each in sent] == [[30, None], [20, None], [10, None]]
    assert (plain.acks_late, own.acks_late) == (True, False)


def test_087_annotations(app, worker):
    failures = []

    def on_failure(self, exc, *arguments):
        failures.append(type(exc))

    app.conf.task_annotations = {
        "*": {"on_failure": on_failure, "priority": 3},
        "named": {"rate_limit": "10/s", "own": "value", "priority": 4},  # "*" comes last
    }

    @app.task(name="named")
    def named():
        pass

    @app.task(name="failing")
    def failing():
        raise Wrong

    assert (named.rate_limit, named.own, named.priority) == ("10/s", "value", 3)
    assert (failing.rate_limit, failing.priority) == (None, 3)
    worker.finish(failing.delay())
    assert failures == [Wrong]


def test_087_annotations_as_objects_and_lists(app):
    class Annotate:
        def annotate(self, task):
            return {"rate_limit": "1/s"} if task.name.startswith("tests.") else None

        def annotate_any(self):
            return {"priority": 1}

    app.conf.task_annotations = (Annotate(), {"other": {"max_retries": 9}})
    one = app.task(lambda_task, name="tests.one")
    other = app.task(lambda_task, name="other")
    assert (one.rate_limit, one.priority) == ("1/s", 1)
    assert (other.rate_limit, other.priority, other.max_retries) == (None, 1, 9)
