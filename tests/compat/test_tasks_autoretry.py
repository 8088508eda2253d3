"""Behaviours 51 to 60: tasks that retry by themselves on known exceptions."""

from __future__ import annotations

import random

import pytest
from celery import Task
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.time import get_exponential_backoff_interval


class Whale(Exception):
    """The service is over capacity."""


class BlueWhale(Whale):
    """Worse."""


def run(task, *args, retries=0):
    """How one run ended, in this process; retries are not followed."""
    seen = []
    kept = task.retry

    def retry(*args, **kwargs):
        seen.append(kwargs)
        raise Retry("not here", kwargs.get("exc"))

    task.__dict__["retry"] = retry
    try:
        with pytest.raises(BaseException) as caught:
            task.push_request(retries=retries, called_directly=False)
            try:
                task.run(*args)
            finally:
                task.pop_request()
    finally:
        task.__dict__.pop("retry", None)
        assert task.retry == kept
    return caught.value, seen


def test_051_on_listed_exceptions_only(app, worker, sent):
    runs = []

    @app.task(bind=True, autoretry_for=(Whale,), default_retry_delay=0, max_retries=2)
    def refresh(self, kind):
        runs.append((kind.__name__ if kind else None, self.request.retries))
        raise kind("down")

    app.conf.update(task_serializer="pickle", accept_content=["pickle", "json"])
    listed = worker.finish(refresh.delay(BlueWhale))
    other = worker.finish(refresh.delay(ValueError))
    assert runs == [("BlueWhale", 0), ("BlueWhale", 1), ("BlueWhale", 2), ("ValueError", 0)]
    assert isinstance(listed.result, BlueWhale) and isinstance(other.result, ValueError)
    assert {each.headers["id"] for each in sent} == {listed.id, other.id}
    assert len(sent) == 4


def test_051_the_task_may_recover(app, worker):
    @app.task(bind=True, autoretry_for=(Whale,), default_retry_delay=0)
    def refresh(self, wanted):
        if self.request.retries < wanted:
            raise Whale
        return self.request.retries

    assert worker.finish(refresh.delay(2)).result == 2


def test_051_as_a_function(app):
    @app.task(autoretry_for=(Whale,))
    def refresh():
        raise Whale("down")

    with pytest.raises(Whale):
        refresh()


def test_052_retry_kwargs(app, worker, sent):
    @app.task(autoretry_for=(Whale,), retry_kwargs={"max_retries": 1, "countdown": 0})
    def refresh():
        raise Whale("down")

    result = worker.finish(refresh.delay())
    assert isinstance(result.result, Whale)
    assert [each.headers["retries"] for each in sent] == [0, 1]


def test_053_dont_autoretry_for(app):
    @app.task(autoretry_for=(Whale,), dont_autoretry_for=(BlueWhale,))
    def refresh(kind):
        raise kind("down")

    error, retried = run(refresh, Whale)
    assert isinstance(error, Retry) and isinstance(retried[0]["exc"], Whale)
    error, retried = run(refresh, BlueWhale)
    assert isinstance(error, BlueWhale) and retried == []


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [(True, [1, 2, 4, 8, 16]), (3, [3, 6, 12, 24, 48]), (2.9, [2, 4, 8, 16, 32])],
)
def test_054_exponential_backoff(app, backoff, delays):
    @app.task(autoretry_for=(Whale,), retry_backoff=backoff, retry_jitter=False)
    def refresh():
        raise Whale

    found = [run(refresh, retries=number)[1][0]["countdown"] for number in range(5)]
    assert found == delays


def test_055_the_cap(app):
    @app.task(autoretry_for=(Whale,), retry_backoff=True, retry_jitter=False)
    def patient():
        raise Whale

    @app.task(autoretry_for=(Whale,), retry_backoff=5, retry_backoff_max=17, retry_jitter=False)
    def hasty():
        raise Whale

    assert run(patient, retries=30)[1][0]["countdown"] == 600
    assert [run(hasty, retries=number)[1][0]["countdown"] for number in range(3)] == [5, 10, 17]


def test_056_full_jitter(app, monkeypatch):
    @app.task(autoretry_for=(Whale,), retry_backoff=True)
    def refresh():
        raise Whale

    found = {run(refresh, retries=6)[1][0]["countdown"] for _ in range(400)}
    assert found <= set(range(65)) and len(found) > 20
    assert min(found) < 8 and max(found) > 56

    ranges = []
    monkeypatch.setattr(random, "randrange", lambda stop: ranges.append(stop) or stop - 1)
    assert get_exponential_backoff_interval(2, 3, 600, full_jitter=True) == 16
    assert ranges == [17]


def test_057_backoff_alone_does_nothing(app, worker, sent):
    @app.task(retry_backoff=True)
    def refresh():
        raise Whale

    assert worker.finish(refresh.delay()).state == "FAILURE"
    assert len(sent) == 1

    @app.task(bind=True, retry_backoff=True, default_retry_delay=7)
    def by_hand(self):
        raise self.retry()

    with pytest.raises(Retry) as caught:
        by_hand.push_request(called_directly=False, id="1", args=(), kwargs={}, is_eager=True)
        try:
            by_hand.run()
        finally:
            by_hand.pop_request()
    assert caught.value.when == 7


def test_057_without_backoff_the_delay_is_the_default_one(app):
    @app.task(autoretry_for=(Whale,), default_retry_delay=77)
    def refresh():
        raise Whale

    refresh.push_request(called_directly=False, id="1", args=(), kwargs={}, is_eager=True)
    try:
        with pytest.raises(Retry) as caught:
            refresh.run()
    finally:
        refresh.pop_request()
    assert caught.value.when == 77


@pytest.mark.parametrize(
    ("error", "is_retried"),
    [(Ignore(), False), (Retry("mine"), False), (Reject("no"), True), (KeyError(), True)],
)
def test_058_semipredicates(app, error, is_retried):
    @app.task(autoretry_for=(Exception,))
    def refresh():
        raise error

    raised, retried = run(refresh)
    assert bool(retried) is is_retried
    if not is_retried:
        assert raised is error


def test_058_the_limit_of_a_retry_in_the_body_holds(app, worker, sent):
    @app.task(bind=True, autoretry_for=(Whale,), default_retry_delay=0)
    def refresh(self):
        raise self.retry(exc=Whale("down"), countdown=0, max_retries=1)

    assert isinstance(worker.finish(refresh.delay()).result, Whale)
    assert [each.headers["retries"] for each in sent] == [0, 1]


def test_059_options_of_a_class(app):
    class Patient(Task):
        autoretry_for = (Whale,)
        dont_autoretry_for = (BlueWhale,)
        max_retries = 5
        retry_kwargs = {"queue": "later"}
        retry_backoff = 100
        retry_backoff_max = 700
        retry_jitter = False

    class Body(Patient):
        name = "body"

        def run(self, kind):
            raise kind

    @app.task(base=Patient)
    def refresh(kind):
        raise kind

    @app.task(base=Patient, retry_backoff=7, autoretry_for=(KeyError,))
    def own(kind):
        raise kind

    for task in (refresh, app.register_task(Body())):
        [options] = run(task, Whale, retries=1)[1]
        assert (options["countdown"], options["queue"]) == (200, "later")
        assert run(task, Whale, retries=9)[1][0]["countdown"] == 700
        assert run(task, BlueWhale)[1] == []
        assert task.max_retries == 5
    assert run(own, Whale)[1] == []
    assert run(own, KeyError)[1][0]["countdown"] == 7


def test_060_backoff_replaces_a_countdown(app):
    @app.task(
        autoretry_for=(Whale,), retry_kwargs={"countdown": 77}, retry_backoff=2, retry_jitter=False
    )
    def refresh():
        raise Whale

    @app.task(autoretry_for=(Whale,), retry_kwargs={"countdown": 77})
    def fixed():
        raise Whale

    assert run(refresh)[1][0]["countdown"] == 2
    assert run(fixed)[1][0]["countdown"] == 77
