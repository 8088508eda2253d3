"""Behaviours 36 to 50: a task that sends its own call again."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from celery import chain, group
from celery.exceptions import MaxRetriesExceededError, Retry

TIMES = 2


class Whale(Exception):
    """The service is over capacity."""


@pytest.fixture
def flaky(app):
    """Retries TIMES times at once, then gives how often it did."""

    @app.task(bind=True, name="flaky", typing=False)
    def flaky(self, *args, **options):
        if self.request.retries < TIMES:
            raise self.retry(**{"countdown": 0, **options})
        return self.request.retries

    return flaky


def eta_in_s(message):
    """Seconds between now and the message's ETA."""
    eta = datetime.fromisoformat(message.headers["eta"])
    return (eta - datetime.now(timezone.utc)).total_seconds()


def test_036_same_id_and_queue(app, worker, flaky, sent):
    app.conf.task_routes = {"flaky": {"queue": "elsewhere"}}
    worker.start(queues=["mine"])
    result = worker.finish(flaky.apply_async(queue="mine"))
    assert result.result == TIMES
    assert [(each.headers["id"], each.routing_key) for each in sent] == [(result.id, "mine")] * 3


def test_036_it_raises_retry(app, worker):
    seen = []

    @app.task(bind=True, max_retries=1)
    def task(self):
        try:
            self.retry(countdown=0, exc=Whale("over"))
        except BaseException as exc:
            seen.append(exc)
            raise

    worker.finish(task.delay())
    retry, last = seen
    assert type(retry) is Retry and isinstance(retry.exc, Whale) and retry.when == 0
    assert isinstance(last, Whale)


def test_036_what_a_message_carries_is_kept(app, worker, sent):
    @app.task(bind=True, name="again")
    def again(self, x, y):
        if not self.request.retries:
            raise self.retry(countdown=0)

    @app.task(name="other")
    def other(*args):
        pass

    signature = again.s(1, y=2).set(
        link=other.s("link"), link_error=other.s("error"), headers={"tenant": "acme"}, priority=6,
        time_limit=60, soft_time_limit=50, shadow="shown", expires=3600, ignore_result=False,
    )  # fmt: skip
    last = (signature | other.si("next")).delay()
    worker.finish(last)
    first, second = (each for each in sent if each.name == "again")
    differing = {
        key: (first.headers.get(key), second.headers.get(key))
        for key in first.headers.keys() | second.headers.keys()
        if first.headers.get(key) != second.headers.get(key) and key != "expires"
    }
    assert differing.pop("retries") == (0, 1)
    # Sent by the first run, as any call that a task makes.
    assert differing == {"parent_id": (None, first.headers["id"])}
    expires = [datetime.fromisoformat(each.headers["expires"]) for each in (first, second)]
    assert expires[0] == expires[1]
    assert second.properties["priority"] == 6
    assert (list(second.args), second.kwargs) == ([1], {"y": 2})
    for key in ("callbacks", "errbacks", "chain"):
        args = [[list(part["args"]) for part in each.embed[key]] for each in (first, second)]
        assert args[0] == args[1]


def test_036_a_member_stays_in_its_group(app, worker, flaky, sent):
    result = group(flaky.s(), flaky.s()).delay()
    worker.finish(result)
    assert [each.result for each in result] == [TIMES, TIMES]
    assert len(sent) == 2 * (TIMES + 1)
    assert {each.headers["group"] for each in sent} == {result.id}
    indexes = {(each.headers["id"], each.headers["group_index"]) for each in sent}
    assert indexes == {(each.id, number) for number, each in enumerate(result)}


def test_036_and_in_its_chord(app, worker, sent):
    @app.task(bind=True, name="member")
    def member(self, x):
        if not self.request.retries:
            raise self.retry(countdown=0)

    @app.task(name="body")
    def body(results):
        pass

    member.apply_async((1,), chord=body.s(), group_id="g")
    worker.start().finish(member.AsyncResult(sent[0].headers["id"]))
    assert [each.embed["chord"]["task"] for each in sent[:2]] == ["body", "body"]
    assert [each.headers["group"] for each in sent[:2]] == ["g", "g"]


def test_036_a_chain_goes_on_after_retries(app, worker, flaky):
    @app.task
    def add(x, y):
        return x + y

    assert worker.finish(chain(flaky.s(), add.s(40)).delay()).result == 40 + TIMES


def test_037_retries_counts_from_zero(app, worker, flaky, sent):
    worker.finish(flaky.delay())
    assert [each.headers["retries"] for each in sent] == [0, 1, 2]


def test_038_throw_false(app, worker, sent):
    @app.task(bind=True)
    def task(self):
        retry = self.retry(countdown=3600, throw=False)
        return [type(retry).__name__, retry.when]

    result = worker.finish(task.delay())
    assert (result.state, result.result) == ("SUCCESS", ["Retry", 3600])
    assert len(sent) == 2


def test_039_three_by_default_and_none_for_ever(app, worker, sent):
    @app.task(bind=True)
    def three(self):
        raise self.retry(countdown=0)

    @app.task(bind=True, max_retries=None)
    def for_ever(self):
        if self.request.retries == 20:
            return "at last"
        raise self.retry(countdown=0)

    assert three.max_retries == 3
    assert worker.finish(three.delay()).state == "FAILURE"
    assert len(sent) == 4
    assert worker.finish(for_ever.delay()).result == "at last"


def test_040_beyond_the_limit(app, worker):
    @app.task(bind=True, max_retries=0)
    def task(self):
        raise self.retry(countdown=0)

    result = worker.finish(task.delay())
    assert result.state == "FAILURE"
    assert type(result.result) is MaxRetriesExceededError


def test_040_even_while_an_exception_is_handled(app, worker):
    @app.task(bind=True, max_retries=0)
    def task(self):
        try:
            raise Whale("over")
        except Whale:
            raise self.retry(countdown=0)

    assert isinstance(worker.finish(task.delay()).result, MaxRetriesExceededError)


def test_041_beyond_the_limit_with_exc(app, worker):
    @app.task(bind=True, max_retries=0)
    def given(self):
        raise self.retry(countdown=0, exc=Whale("given"))

    @app.task(bind=True, max_retries=0)
    def handled(self):
        try:
            raise KeyError("handled")
        except KeyError:
            raise self.retry(countdown=0, exc=Whale("given"))

    first = worker.finish(given.delay())
    assert isinstance(first.result, Whale) and first.result.args == ("given",)
    second = worker.finish(handled.delay())
    assert isinstance(second.result, Whale)
    assert "KeyError: 'handled'" in second.traceback


def test_042_max_retries_of_one_call(app, worker, sent):
    @app.task(bind=True, max_retries=1)
    def more(self):
        if self.request.retries < 4:
            raise self.retry(countdown=0, max_retries=9)
        return self.max_retries

    @app.task(bind=True, max_retries=9)
    def fewer(self):
        raise self.retry(countdown=0, max_retries=1, exc=Whale("over"))

    assert worker.finish(more.delay()).result == 1
    sent.clear()
    assert isinstance(worker.finish(fewer.delay()).result, Whale)
    assert len(sent) == 2


def test_043_delays(app, worker, sent, eventually):
    soon = datetime.now(timezone.utc) + timedelta(seconds=50)
    given = {
        "default": {}, "countdown": {"countdown": 900}, "eta": {"eta": soon},
    }  # fmt: skip

    @app.task(bind=True)
    def task(self, kind):
        raise self.retry(**given[kind])

    @app.task(bind=True, default_retry_delay=1800)
    def slow(self):
        raise self.retry()

    assert task.default_retry_delay == 180
    worker.start()
    found = []
    for signature in (*(task.s(kind) for kind in given), slow.s()):
        sent.clear()
        signature.delay()
        eventually(lambda: len(sent) == 2, "the retry")
        found.append(sent[1])
    # The clock goes on between the retry and here, by a minute at most.
    for message, delay_s in zip(found, (180, 900, 50, 1800), strict=True):
        assert delay_s - 60 < eta_in_s(message) <= delay_s
    assert datetime.fromisoformat(found[2].headers["eta"]) == soon


def test_044_outside_of_a_worker(app, sent):
    @app.task(bind=True)
    def bare(self):
        raise self.retry()

    @app.task(bind=True)
    def given(self):
        raise self.retry(exc=Whale("given"))

    @app.task(bind=True)
    def handled(self, **options):
        try:
            raise KeyError("handled")
        except KeyError:
            raise self.retry(**options)

    for task, options, expected in (
        (bare, {}, Retry),
        (given, {}, Whale),
        (handled, {}, Retry),
        (handled, {"exc": Whale("given")}, Whale),
    ):
        with pytest.raises(expected) as caught:
            task(**options)
        if task is handled:
            assert isinstance(caught.value.__cause__ or caught.value.__context__, KeyError)
    assert sent == []


def test_044_the_handled_exception_is_raised_again(app):
    error = Whale("handled")

    @app.task(bind=True)
    def task(self):
        try:
            raise error
        except Whale as exc:
            raise self.retry(exc=exc)

    with pytest.raises(Whale) as caught:
        task()
    assert caught.value is error


def test_045_the_state(app, worker, eventually):
    @app.task(bind=True)
    def task(self):
        try:
            raise Whale("over")
        except Whale as exc:
            raise self.retry(exc=exc, countdown=3600)

    worker.start()
    result = task.delay()
    eventually(lambda: result.state == "RETRY", "a stored RETRY")
    assert not result.ready()
    assert isinstance(result.result, Whale) and result.result.args == ("over",)
    assert result.traceback.startswith("Traceback")
    assert 'raise Whale("over")' in result.traceback


def test_046_options_override(app, worker, sent):
    @app.task(bind=True, name="moves")
    def moves(self):
        if not self.request.retries:
            raise self.retry(
                countdown=0, queue="other", priority=9, headers={"tenant": "new"}, time_limit=70,
                expires=datetime.now(timezone.utc) + timedelta(hours=5), serializer="pickle",
            )  # fmt: skip
        return [self.request.tenant, self.request.time_limit]

    app.conf.accept_content = ["json", "pickle"]
    worker.start(queues=["first", "other"])
    result = moves.apply_async(queue="first", priority=1, headers={"tenant": "old"}, time_limit=9)
    assert worker.finish(result).result == ["new", 70]
    assert [(each.routing_key, each.properties["priority"]) for each in sent] == [
        ("first", 1),
        ("other", 9),
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ([1, 2], {"c": 3, "d": 4})),
        ({"args": [7, 8]}, ([7, 8], {"c": 3, "d": 4})),
        ({"kwargs": {"c": 9}}, ([1, 2], {"c": 9})),
        ({"args": [5], "kwargs": {"b": 6}}, ([5], {"b": 6})),
        # What the new part binds is dropped from the inherited one.
        ({"args": [7, 8, 9]}, ([7, 8, 9], {"d": 4})),
    ],
)
def test_047_arguments_of_a_retry(app, worker, sent, options, expected):
    @app.task(bind=True, name="again")
    def again(self, a, b, c=None, d=None):
        if not self.request.retries:
            raise self.retry(countdown=0, **options)

    worker.finish(again.apply_async((1, 2), {"c": 3, "d": 4}))
    assert (list(sent[1].args), sent[1].kwargs) == expected


def test_047_keywords_that_name_positional_ones(app, worker):
    @app.task(bind=True)
    def again(self, a, b):
        if not self.request.retries:
            raise self.retry(countdown=0, kwargs={"b": 9})
        return [a, b]

    assert worker.finish(again.delay(1, 2)).result == [1, 9]


@pytest.mark.parametrize("ignored", [True, False])
def test_048_ignore_result_is_kept(app, worker, sent, eventually, ignored):
    runs = []

    @app.task(bind=True, ignore_result=not ignored)
    def flaky(self):
        runs.append(self.request.retries)
        if self.request.retries < TIMES:
            raise self.retry(countdown=0)
        return self.request.retries

    result = flaky.apply_async(ignore_result=ignored)
    worker.start()
    eventually(lambda: len(runs) == TIMES + 1, "the last run")
    worker.stop()
    assert [each.headers["ignore_result"] for each in sent] == [ignored] * (TIMES + 1)
    stored = app.AsyncResult(result.id)
    assert (stored.state, stored.result) == (("PENDING", None) if ignored else ("SUCCESS", TIMES))


def test_049_a_retry_that_cannot_be_sent(app, worker, caplog, eventually):
    @app.task(bind=True, acks_late=True)
    def task(self):
        raise self.retry(countdown=0, serializer="no such serializer")

    worker.start()
    result = task.delay()
    eventually(lambda: "reject requeue=False" in caplog.text, "the log of the rejection")
    worker.stop()
    [told] = [each for each in caplog.records if "reject requeue=False" in each.getMessage()]
    assert told.levelname == "WARNING" and result.id in told.getMessage()
    assert "No encoder installed for no such serializer" in told.getMessage()
    assert result.state == "FAILURE"
    # Neither a second message nor the first one again.
    with app.connection_for_read() as connection:
        assert connection.default_channel._size("celery") == 0


def test_050_what_the_error_says(app, worker):
    seen = []

    @app.task(bind=True, name="proj.task", max_retries=0)
    def task(self, x, y):
        try:
            raise self.retry()
        except MaxRetriesExceededError as exc:
            seen.append(exc)
            raise

    result = worker.finish(task.apply_async((1,), {"y": 2}, task_id="the-id"))
    [error] = seen
    assert (list(error.task_args), error.task_kwargs) == ([1], {"y": 2})
    assert str(error) == "Can't retry proj.task[the-id] args:(1,) kwargs:{'y': 2}"
    assert str(result.result) == str(error)
