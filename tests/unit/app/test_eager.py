"""Running a task in the caller's process: apply(), task_always_eager and what they give."""

from __future__ import annotations

from datetime import date

import pytest
from contract.tracing import lone_app
from kombu.exceptions import EncodeError

from taskq import states
from taskq.exceptions import Ignore, Reject, Retry
from taskq.result import EagerResult


@pytest.fixture
def app():
    with lone_app("eager") as app:
        yield app


@pytest.fixture
def look(app):
    @app.task(bind=True, name="look")
    def look(self, *args, **kwargs):
        return dict(vars(self.request))

    return look


@pytest.fixture
def fail(app):
    @app.task(name="fail")
    def fail(*args):
        raise KeyError("k")

    return fail


def test_success(app):
    @app.task
    def double(x, times=2):
        return x * times

    result = double.apply((3,), {"times": 3}, task_id="ID")

    assert isinstance(result, EagerResult)
    assert (result.id, result.state, result.get()) == ("ID", states.SUCCESS, 9)
    assert app.AsyncResult("ID").state == states.PENDING


def test_request(look):
    request = look.apply((1,), {"k": 2}).get()

    assert request["is_eager"] is True
    assert request["called_directly"] is False
    assert request["args"] == (1,)
    assert request["kwargs"] == {"k": 2}
    assert request["retries"] == 0
    assert request["root_id"] == request["id"]
    assert request["parent_id"] is None
    assert request["loglevel"] == 0
    assert request["headers"] is None
    assert request["hostname"]
    assert request["delivery_info"] == {
        "is_eager": True, "exchange": None, "routing_key": None, "priority": None,
    }  # fmt: skip


def test_options(look):
    request = look.apply(
        task_id="ID", retries=2, logfile="f", loglevel=10, headers={"h": 1}, exchange="ex",
        routing_key="rk", priority=3, ignore_result=True, countdown=3, serializer="pickle",
        stamped_headers=["s"], s="mark",
    ).get()  # fmt: skip

    assert (request["id"], request["retries"]) == ("ID", 2)
    assert (request["logfile"], request["loglevel"]) == ("f", 10)
    assert request["headers"] == {"h": 1}
    assert request["delivery_info"]["exchange"] == "ex"
    assert request["delivery_info"]["routing_key"] == "rk"
    assert request["delivery_info"]["priority"] == 3
    assert request["ignore_result"] is True
    assert request["stamps"] == {"s": ["mark"]}


def test_nested_run_knows_its_parent(app, look):
    @app.task(bind=True)
    def outer(self):
        return self.request.id, look.apply().get()

    outer_id, request = outer.apply().get()

    assert request["parent_id"] == outer_id
    assert request["root_id"] == outer_id


# -- errors


def test_apply_keeps_the_error(fail):
    result = fail.apply()

    assert result.state == states.FAILURE
    assert isinstance(result.result, KeyError)
    assert "KeyError: 'k'" in result.traceback
    with pytest.raises(KeyError):
        result.get()
    assert isinstance(result.get(propagate=False), KeyError)


@pytest.mark.parametrize(
    ("setting", "throw", "raises"),
    [(False, True, True), (True, None, True), (True, False, False), (False, None, False)],
)
def test_throw(app, fail, setting, throw, raises):
    app.conf.task_eager_propagates = setting

    if raises:
        with pytest.raises(KeyError):
            fail.apply(throw=throw)
    else:
        assert fail.apply(throw=throw).state == states.FAILURE


def test_wrong_arguments_fail_the_task(app):
    @app.task
    def one(x):
        return x

    assert isinstance(one.apply((1, 2)).result, TypeError)


@pytest.mark.parametrize(
    ("error", "state"), [(Ignore("i"), states.IGNORED), (Reject("r", True), states.REJECTED)]
)
@pytest.mark.parametrize("throw", [True, False])
def test_ignore_and_reject(app, error, state, throw):
    @app.task
    def end():
        raise error

    result = end.apply(throw=throw)
    assert (result.state, result.result) == (state, error)


# -- retries


@pytest.fixture
def third(app):
    @app.task(bind=True, name="third")
    def third(self, *args):
        third.seen.append((self.request.id, self.request.retries, self.request.args))
        if self.request.retries < third.needed:
            self.retry(countdown=60, exc=ValueError("not yet"), args=("again",))
        return "fine"

    third.seen, third.needed = [], 2
    return third


def test_retries_run_at_once_under_the_same_id(third):
    result = third.apply(("first",), task_id="ID", headers={"h": 1})

    assert (result.id, result.get()) == ("ID", "fine")
    assert third.seen == [("ID", 0, ("first",)), ("ID", 1, ("again",)), ("ID", 2, ("again",))]


def test_retries_run_out(third):
    third.needed = 99

    result = third.apply()

    assert len(third.seen) == 4
    assert isinstance(result.result, ValueError)


def test_throw_raises_the_retry(third):
    with pytest.raises(Retry):
        third.apply(throw=True)
    assert len(third.seen) == 1


def test_retry_that_does_not_throw_is_not_run(app):
    @app.task(bind=True)
    def once(self):
        return str(self.retry(throw=False, countdown=4))

    assert once.apply().get() == "Retry in 4s"


# -- callbacks


def test_links_are_sent(app, fail):
    sent = []

    @app.task(name="note")
    def note(*args):
        sent.append(args)

    @app.task
    def two():
        return 2

    app.conf.task_always_eager = True
    two.apply(link=note.s(5))
    two.apply_async(link=[note.s(), note.si()])
    fail.apply(link_error=note.si("failed"))
    assert sent == [(2, 5), (2,), (), ("failed",)]


# -- task_always_eager


def test_always_eager_serialises_arguments(app, look):
    app.conf.task_always_eager = True

    request = look.apply_async(((1, 2),), {"k": date(2020, 1, 1)}, task_id="ID").get()

    assert request["id"] == "ID"
    assert request["args"] == [[1, 2]]
    assert request["kwargs"] == {"k": date(2020, 1, 1)}
    pickled = look.apply_async(((1, 2),), serializer="pickle").get()
    assert list(pickled["args"]) == [(1, 2)]
    with pytest.raises(EncodeError):
        look.apply_async((object(),))


def test_always_eager_propagates_on_request(app, fail):
    app.conf.task_always_eager = True
    assert fail.delay().state == states.FAILURE
    app.conf.task_eager_propagates = True
    with pytest.raises(KeyError):
        fail.delay()


def test_store_eager_result(app):
    @app.task(store_eager_result=True)
    def maybe(fails):
        if fails:
            raise KeyError("k")
        return 1

    maybe.apply((False,), task_id="good")
    maybe.apply((True,), task_id="bad")
    maybe.apply((False,), task_id="ignored", ignore_result=True)

    assert app.AsyncResult("good").get() == 1
    assert app.AsyncResult("bad").state == states.FAILURE
    assert app.AsyncResult("ignored").state == states.PENDING


def test_stored_eager_retries(app):
    seen = []

    @app.task(store_eager_result=True, bind=True)
    def twice(self):
        if self.request.retries:
            seen.append(app.AsyncResult(self.request.id).state)
            return 1
        raise self.retry()

    result = twice.apply(task_id="ID")
    assert result.get() == 1
    assert seen == [states.RETRY]
    assert app.AsyncResult("ID").state == states.SUCCESS


# -- hooks


@pytest.mark.parametrize("hook", ["on_success", "after_return"])
def test_hooks_that_raise_are_raised(app, hook):
    def raising(self, *args):
        raise RuntimeError(hook)

    base = type("Hooked", (app.Task,), {hook: raising, "abstract": True})

    @app.task(base=base)
    def one():
        return 1

    with pytest.raises(RuntimeError, match=hook):
        one.apply()


def test_shutdown_goes_through(app):
    @app.task
    def stop():
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        stop.apply()
