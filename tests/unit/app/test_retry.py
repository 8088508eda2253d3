"""Running a task again: what is sent, when it stops, and what a task may ask for by its options."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from contract.tracing import lone_app
from kombu.exceptions import OperationalError

from taskq import states
from taskq.app import trace
from taskq.app.retry import add_autoretry_behaviour
from taskq.exceptions import Ignore, MaxRetriesExceededError, Reject, Retry

DELIVERY = {"exchange": "", "routing_key": "myq", "priority": 5, "redelivered": False}


@pytest.fixture
def app():
    with lone_app("again") as app:
        yield app


@pytest.fixture
def sent(app, monkeypatch):
    """Messages that would have left: (headers, body, options), in order."""
    messages = []

    def keep(producer, name, message, **options):
        messages.append((message.headers, message.body, options))

    monkeypatch.setattr(app.amqp, "publish", keep)
    return messages


@pytest.fixture
def again(app):
    """again(f, ...): run a task whose body is f(self)."""

    @app.task(bind=True, name="again", max_retries=3)
    def task(self, *args, **kwargs):
        return task.body(self)

    def run(body, args=(1,), kwargs=None, **request):
        task.body = body
        tracer = trace.build_tracer(task.name, task, app=app)
        request = {
            "id": "ID", "task": "again", "retries": 0, "root_id": "ROOT", "parent_id": "PAR",
            "delivery_info": DELIVERY, "reply_to": "RT", "origin": "orig", **request,
        }  # fmt: skip
        return tracer("ID", args, kwargs or {}, request)

    run.task = task
    return run


def countdown_of(headers):
    if headers["eta"] is None:
        return 0
    eta = datetime.fromisoformat(headers["eta"])
    return round((eta - datetime.now(timezone.utc)).total_seconds())


# -- what is sent


def test_same_call_once_more(again, sent):
    ended = again(lambda self: self.retry(), kwargs={"a": 1})

    assert ended.info.state == states.RETRY
    (headers, body, options) = sent[0]
    assert headers["id"] == "ID"
    assert headers["retries"] == 1
    assert headers["root_id"] == "ROOT"
    assert headers["parent_id"] == "PAR"
    assert countdown_of(headers) == 180
    assert tuple(body[0]) == (1,)
    assert body[1] == {"a": 1}
    assert options["queue"].name == "myq"
    assert options["priority"] == 5


def test_workflow_limits_and_own_headers_travel(app, again, sent):
    callback = [dict(app.signature("x"))]
    again(
        lambda self: self.retry(), callbacks=callback, errbacks=callback, chain=callback,
        chord=callback[0], group="G", group_index=2, timelimit=[10, 5], shadow="SHOWN",
        replaced_task_nesting=3, custom="mine", **{"x-death": [1]}, ignore_result=True,
        stamped_headers=["s"], stamps={"s": 1},
    )  # fmt: skip

    headers, body, options = sent[0]
    embed = body[2]
    assert embed["callbacks"] == callback
    assert embed["errbacks"] == callback
    assert embed["chain"] == callback
    assert embed["chord"] == callback[0]
    assert (headers["group"], headers["group_index"]) == ("G", 2)
    assert headers["timelimit"] == [10, 5]
    assert headers["shadow"] == "SHOWN"
    assert headers["replaced_task_nesting"] == 3
    assert options["headers"] == {"custom": "mine"}
    assert headers["ignore_result"] is True
    assert headers["stamps"] == {"s": 1}


def test_task_says_whether_the_result_is_ignored_when_the_call_did_not(again, sent):
    again.task.ignore_result = True
    again(lambda self: self.retry(), ignore_result=None)
    again(lambda self: self.retry(), ignore_result=False)

    assert [headers["ignore_result"] for headers, _, _ in sent] == [True, False]


@pytest.mark.parametrize(
    ("options", "seconds"), [({"countdown": 5}, 5), ({"countdown": 0}, 0), ({}, 180)]
)
def test_when(again, sent, options, seconds):
    ended = again(lambda self: self.retry(**options))

    assert countdown_of(sent[0][0]) == seconds
    assert ended.info.retval.when == seconds


def test_eta(again, sent):
    eta = datetime(2035, 1, 1, tzinfo=timezone.utc)

    ended = again(lambda self: self.retry(eta=eta))

    assert datetime.fromisoformat(sent[0][0]["eta"]) == eta
    assert ended.info.retval.when == eta


def test_options_replace_those_of_the_message(again, sent):
    again(lambda self: self.retry(queue="other", priority=7, time_limit=9, headers={"new": 1}))

    headers, _, options = sent[0]
    assert options["headers"] == {"new": 1}
    assert options["queue"].name == "other"
    assert options["priority"] == 7
    assert headers["timelimit"][0] == 9


def test_named_exchange_of_the_message_is_used_again(again, sent):
    origin = {"exchange": "ex", "routing_key": "rk", "priority": None, "redelivered": True}

    again(lambda self: self.retry(), delivery_info=origin)
    again(lambda self: self.retry(routing_key="mine"), delivery_info=origin)

    assert [(o["exchange"], o["routing_key"]) for _, _, o in sent] == [("ex", "rk"), ("ex", "mine")]


# -- new arguments


@pytest.mark.parametrize(
    ("before", "new", "after"),
    [
        (((1,), {"y": 4, "z": 5}), {"args": (9,)}, ((9,), {"y": 4, "z": 5})),
        (((1,), {"y": 4, "z": 5}), {"args": (9, 8)}, ((9, 8), {"z": 5})),
        (((), {"x": 4, "z": 5}), {"args": ()}, ((), {"x": 4, "z": 5})),
        (((1, 5), {"z": 5}), {"kwargs": {"y": 9}}, ((1, 9), {})),
        (((1, 5), {"z": 5}), {"kwargs": {"x": 9}}, ((9, 5), {})),
        (((1, 5), {"z": 5}), {"kwargs": {}}, ((1, 5), {})),
        (((1,), {}), {"kwargs": {"y": 9, "z": 1}}, ((1,), {"y": 9, "z": 1})),
        (((1, 5), {"z": 5}), {"args": (3,), "kwargs": {"y": 2}}, ((3,), {"y": 2})),
    ],
)
def test_new_arguments_never_bind_twice(app, sent, before, new, after):
    @app.task(bind=True)
    def two(self, x, y=2, *, z=3):
        self.retry(**new)

    tracer = trace.build_tracer(two.name, two, app=app)
    tracer("ID", *before, {"id": "ID", "delivery_info": DELIVERY})

    args, kwargs, _ = sent[0][1]
    assert (tuple(args), kwargs) == after


# -- how it ends


def test_retry_object(again, sent):
    ended = again(lambda self: self.retry(exc=KeyError("k"), countdown=3))

    reason = ended.info.retval
    assert isinstance(reason, Retry)
    assert str(reason) == "Retry in 3s: KeyError('k')"
    assert reason.sig.task == "again"
    assert reason.is_eager is False


def test_without_throw_the_task_ends_as_it_likes(again, sent):
    ended = again(lambda self: (self.retry(throw=False), 7)[1])

    assert len(sent) == 1
    assert ended.info is None
    assert ended.retval == 7


def test_limit(again, sent):
    assert again(lambda self: self.retry(), retries=2).info.state == states.RETRY
    ended = again(lambda self: self.retry(), kwargs={"a": 1}, retries=3)

    error = ended.info.retval
    assert isinstance(error, MaxRetriesExceededError)
    assert str(error) == "Can't retry again[ID] args:(1,) kwargs:{'a': 1}"
    assert error.task_args == (1,)
    assert error.task_kwargs == {"a": 1}
    assert len(sent) == 1


def test_limit_with_a_reason(again, sent):
    assert isinstance(
        again(lambda self: self.retry(exc=KeyError("k")), retries=3).info.retval, KeyError
    )
    assert isinstance(again(lambda self: self.retry(exc=KeyError), retries=3).info.retval, KeyError)


def test_reason_is_raised_from_the_error_being_handled(again, sent):
    def body(self):
        try:
            raise ZeroDivisionError
        except ZeroDivisionError as exc:
            self.retry(exc=KeyError("k") if self.request.args[0] else exc)

    other = again(body, retries=3).info.retval
    assert isinstance(other, KeyError)
    assert isinstance(other.__cause__, ZeroDivisionError)
    same = again(body, args=(0,), retries=3).info.retval
    assert isinstance(same, ZeroDivisionError)
    assert same.__cause__ is None


@pytest.mark.parametrize(
    ("task_limit", "call_limit", "retries", "goes_on"),
    [
        (3, 0, 0, False),
        (3, 10, 5, True),
        (3, None, 3, False),
        (None, None, 500, True),
        (None, 2, 500, False),
    ],
)
def test_limit_of_one_call(again, sent, task_limit, call_limit, retries, goes_on):
    again.task.max_retries = task_limit

    ended = again(lambda self: self.retry(max_retries=call_limit), retries=retries)

    assert (ended.info.state == states.RETRY) is goes_on
    assert again.task.max_retries == task_limit


def test_retry_that_cannot_be_sent_rejects_the_message(again, app, monkeypatch):
    def refuse(*args, **kwargs):
        raise OperationalError("down")

    monkeypatch.setattr(app.amqp, "publish", refuse)

    ended = again(lambda self: self.retry())

    assert ended.info.state == states.REJECTED
    assert ended.info.retval.requeue is False
    assert isinstance(ended.info.retval.reason, OperationalError)


# -- outside a run


def test_called_as_a_function(again):
    again.task.body = lambda self: self.retry()
    with pytest.raises(Retry, match="Task can be retried"):
        again.task()
    again.task.body = lambda self: self.retry(exc=KeyError("k"))
    with pytest.raises(KeyError):
        again.task()


def test_called_as_a_function_while_handling_an_error(again):
    def body(self):
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            self.retry()

    again.task.body = body
    with pytest.raises(Retry) as caught:
        again.task()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_signature_from_request(again, sent):
    made = []

    def body(self):
        made.append(self.signature_from_request(args=(5,), kwargs={"k": 1}, queue="qq", foo=1))

    again(body)

    assert made[0].task == "again"
    assert made[0].args == (5,)
    assert made[0].kwargs == {"k": 1}
    options = made[0].options
    assert (options["task_id"], options["queue"], options["foo"]) == ("ID", "qq", 1)
    assert options["retries"] == 0


# -- autoretry


@pytest.fixture
def auto(app):
    """auto(error, retries=n, **options): the arguments `retry` was called with, or the error."""
    number = iter(range(100))

    class Noting(app.Task):
        abstract = True
        autoretry_for = ()

        def retry(self, *args, **kwargs):
            raise Retry("again", kwargs["exc"], kwargs)

    def run(error, retries=0, base=Noting, **options):
        @app.task(bind=True, base=base, name=f"auto{next(number)}", **options)
        def task(self):
            raise error

        tracer = trace.build_tracer(task.name, task, app=app)
        ended = tracer("ID", (), {}, {"id": "ID", "retries": retries})
        outcome = ended.info.retval
        if isinstance(outcome, Retry) and isinstance(outcome.when, dict):
            outcome.when.pop("exc")
            return outcome.when
        return outcome

    run.base = Noting
    return run


class Missing(KeyError):
    pass


def test_autoretry_for(auto):
    assert auto(KeyError("k"), autoretry_for=(KeyError,)) == {}
    assert auto(Missing("k"), autoretry_for=[KeyError]) == {}
    assert isinstance(auto(ValueError(), autoretry_for=(KeyError,)), ValueError)
    assert isinstance(auto(KeyError(), autoretry_for=()), KeyError)
    exempt = auto(Missing(), autoretry_for=(KeyError,), dont_autoretry_for=(Missing,))
    assert isinstance(exempt, Missing)


def test_autoretry_keeps_out_of_predicates(auto):
    assert isinstance(auto(Ignore(), autoretry_for=(Exception,)), Ignore)
    assert auto(Retry("mine"), autoretry_for=(Exception,)).message == "mine"
    assert auto(Reject("r"), autoretry_for=(Exception,)) == {}


def test_retry_kwargs(auto):
    wish = {"max_retries": 7, "countdown": 3}
    assert auto(KeyError(), autoretry_for=(KeyError,), retry_kwargs=wish) == wish
    assert wish == {"max_retries": 7, "countdown": 3}


@pytest.mark.parametrize(
    ("backoff", "retries", "seconds"),
    [
        (True, 0, 1), (True, 1, 2), (True, 3, 8), (True, 9, 512), (True, 10, 600), (3, 2, 12),
        (0.5, 2, 4),
    ],
)  # fmt: skip
def test_backoff(auto, backoff, retries, seconds):
    options = {"retry_backoff": backoff, "retry_jitter": False, "retry_kwargs": {"countdown": 77}}
    arguments = auto(KeyError(), retries, autoretry_for=(KeyError,), **options)
    assert arguments == {"countdown": seconds}


def test_backoff_max(auto):
    options = {"retry_backoff": 100, "retry_backoff_max": 150, "retry_jitter": False}
    assert auto(KeyError(), 2, autoretry_for=(KeyError,), **options) == {"countdown": 150}


def test_jitter_is_anything_up_to_the_pause(auto):
    pauses = {
        auto(KeyError(), 1, autoretry_for=(KeyError,), retry_backoff=4)["countdown"]
        for _ in range(90)
    }
    assert min(pauses) >= 0
    assert max(pauses) <= 8
    assert len(pauses) > 3


def test_attributes_of_a_base_class(auto):
    class Patient(auto.base):
        abstract = True
        autoretry_for = (KeyError,)
        retry_kwargs = {"max_retries": 5}
        retry_backoff = 2
        retry_jitter = False
        retry_backoff_max = 5

    assert auto(KeyError(), 1, base=Patient) == {"max_retries": 5, "countdown": 4}
    options = auto(ValueError(), 4, base=Patient, autoretry_for=(ValueError,))
    assert options == {"max_retries": 5, "countdown": 5}


def test_autoretry_gives_up_with_the_error(app, sent):
    @app.task(bind=True, autoretry_for=(KeyError,), max_retries=2)
    def fail(self):
        raise KeyError("k")

    tracer = trace.build_tracer(fail.name, fail, app=app)
    assert tracer("ID", (), {}, {"id": "ID", "retries": 1}).info.state == states.RETRY
    ended = tracer("ID", (), {}, {"id": "ID", "retries": 2})
    assert ended.info.state == states.FAILURE
    assert isinstance(ended.info.retval, KeyError)


def test_autoretry_keeps_to_the_limit_of_a_call_in_the_body(app, sent):
    @app.task(bind=True, autoretry_for=(KeyError,), max_retries=5)
    def fail(self):
        self.retry(exc=KeyError("k"), max_retries=1)

    tracer = trace.build_tracer(fail.name, fail, app=app)
    ended = tracer("ID", (), {}, {"id": "ID", "retries": 1})
    assert ended.info.state == states.FAILURE
    assert sent == []


def test_autoretry_of_a_direct_call_raises_the_error(app):
    @app.task(autoretry_for=(KeyError,))
    def fail():
        raise KeyError("k")

    with pytest.raises(KeyError):
        fail()


def test_autoretry_is_added_once(app):
    @app.task(autoretry_for=(KeyError,))
    def one():
        return 1

    run = one.run
    add_autoretry_behaviour(one, autoretry_for=(ValueError,))
    assert one.run == run
    assert one._orig_run is not one.run
