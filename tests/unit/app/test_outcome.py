"""What follows from each ending: what is sent, stored, called and logged."""

from __future__ import annotations

import logging

import pytest
from billiard.einfo import ExceptionInfo
from contract.tracing import lone_app
from kombu.exceptions import EncodeError, OperationalError

from taskq import chain, group, signals, states
from taskq.app import trace
from taskq.app.outcome import TraceInfo, forget_frames, traceback_clear
from taskq.context import Context
from taskq.exceptions import Ignore, Reject, Retry

COMMON = {"parent_id": "ID", "root_id": "ID"}


@pytest.fixture
def app():
    with lone_app("ending") as app:
        yield app


@pytest.fixture
def sent(app):
    """What callbacks were sent with: (name, args, options)."""
    calls = []

    class Sending(app.Task):
        abstract = True

        def apply_async(self, args=None, kwargs=None, **options):
            calls.append((self.name, tuple(args), options))
            return app.AsyncResult(options.get("task_id") or "sent")

    @app.task(base=Sending, name="a")
    def a(*args):
        pass

    @app.task(base=Sending, name="b")
    def b(*args):
        pass

    @app.task(base=Sending, name="c")
    def c(*args):
        pass

    app.finalize()
    return calls


@pytest.fixture
def two(app):
    @app.task(name="two")
    def two():
        return 2

    return two


def run(task, request=None, **options):
    tracer = trace.build_tracer(task.name, task, app=task.app, **options)
    return tracer("ID", (), {}, {"id": "ID", **(request or {})})


def sigs(app, *names):
    return [dict(app.signature(name)) for name in names]


# -- success: what is sent


def test_one_callback(app, sent, two):
    callback = app.signature("a", args=(5,), options={"queue": "q", "priority": 3})

    run(two, {"callbacks": [dict(callback)]})

    assert sent == [("a", (2, 5), {"queue": "q", "priority": 3, **COMMON})]


def test_immutable_callback_keeps_the_result_out(app, sent, two):
    run(two, {"callbacks": [dict(app.signature("a", args=(5,), immutable=True))]})

    assert sent == [("a", (5,), COMMON)]


def test_several_callbacks_are_one_group(app, sent, two):
    run(two, {"callbacks": sigs(app, "a", "b"), "root_id": "ROOT"})

    assert [(name, args) for name, args, _ in sent] == [("a", (2,)), ("b", (2,))]
    groups = {options["group_id"] for _, _, options in sent}
    assert len(groups) == 1
    for _, _, options in sent:
        assert options["parent_id"] == "ID"
        assert options["root_id"] == "ROOT"


def test_groups_among_the_callbacks_go_first(app, sent, two):
    pair = group(app.signature("a"), app.signature("b"), app=app)

    run(two, {"callbacks": [dict(app.signature("c")), dict(pair)]})

    assert [name for name, _, _ in sent] == ["a", "b", "c"]


def test_chain_goes_on_with_its_last_item(app, sent, two):
    steps = sigs(app, "b", "a")

    run(two, {"chain": steps, "root_id": "ROOT"})

    assert sent == [("a", (2,), {"chain": steps[:1], "parent_id": "ID", "root_id": "ROOT"})]
    assert len(steps) == 2


def test_callbacks_go_before_the_chain(app, sent, two):
    run(two, {"chain": sigs(app, "b"), "callbacks": sigs(app, "a")})

    assert [name for name, _, _ in sent] == ["a", "b"]


def test_chain_as_callback(app, sent, two):
    steps = chain(app.signature("a"), app.signature("b"), app=app)

    run(two, {"callbacks": [dict(steps)]})

    assert [name for name, _, _ in sent] == ["a"]
    assert [step["task"] for step in sent[0][2]["chain"]] == ["b"]


@pytest.mark.parametrize("inherits", [True, False])
def test_priority_is_inherited_on_request(app, sent, two, inherits):
    app.conf.task_inherit_parent_priority = inherits

    run(two, {"callbacks": sigs(app, "a"), "delivery_info": {"priority": 5}})

    assert sent[0][2].get("priority") == (5 if inherits else None)


def test_callbacks_are_sent_when_the_result_is_ignored(app, sent, two):
    run(two, {"callbacks": sigs(app, "a"), "ignore_result": True})

    assert [name for name, _, _ in sent] == ["a"]


def test_result_knows_the_children_sent_for_it(app, two):
    @app.task(name="next")
    def next_one(x):
        return x

    app.finalize()
    run(two, {"callbacks": sigs(app, "next")})

    children = app.AsyncResult("ID").children
    assert [type(child).__name__ for child in children] == ["AsyncResult"]


def test_part_of_a_chord_is_reported_even_when_ignored(app, monkeypatch):
    told = []
    monkeypatch.setattr(
        type(app.backend),
        "on_chord_part_return",
        lambda self, request, state, result, **kw: told.append((request.id, state, result)),
        raising=False,
    )

    @app.task(ignore_result=True)
    def part():
        return 3

    run(part, {"chord": dict(app.signature("a")), "group": "G"})

    assert told == [("ID", states.SUCCESS, 3)]


# -- success: what cannot be sent


@pytest.fixture
def refusing(app):
    class Refusing(app.Task):
        abstract = True
        error = None

        def apply_async(self, *args, **kwargs):
            raise type(self).error

    @app.task(base=Refusing, name="refused")
    def refused(*args):
        pass

    app.finalize()
    return type(app.tasks["refused"])


@pytest.mark.parametrize("error", [OperationalError("down"), EncodeError("enc")])
@pytest.mark.parametrize("where", ["callbacks", "chain"])
def test_callback_the_broker_refuses_fails_the_task(app, refusing, two, error, where, caplog):
    refusing.error = error

    ended = run(two, {where: sigs(app, "refused")})

    assert ended.info.retval is error
    assert app.AsyncResult("ID").state == states.FAILURE
    assert "Task two[ID] raised unexpected" in caplog.text


def test_callback_that_is_broken_is_an_internal_error(app, refusing, two):
    refusing.error = ValueError("v")

    with pytest.warns(RuntimeWarning, match="outside body"):
        ended = run(two, {"callbacks": sigs(app, "refused")})

    assert isinstance(ended.info.retval, ValueError)
    assert app.AsyncResult("ID").state == states.FAILURE


# -- failure


def test_failure_tells_errbacks_unless_told_not_to(app, monkeypatch):
    said = []
    monkeypatch.setattr(
        type(app.backend),
        "mark_as_failure",
        lambda self, task_id, exc, tb, **kw: said.append((task_id, exc, sorted(kw.items()))),
    )

    @app.task
    def fail():
        raise ValueError

    error = ValueError("v")
    request = Context(id="ID", args=(1,), kwargs={})
    einfo = TraceInfo(states.FAILURE, error).handle_error_state(fail, request, call_errbacks=False)

    assert isinstance(einfo, ExceptionInfo)
    assert said == [
        ("ID", error, [("call_errbacks", False), ("request", request), ("store_result", True)])
    ]


@pytest.mark.parametrize(
    ("ignored", "even_if", "eager", "store_eager", "stored"),
    [
        (False, False, False, False, True),
        (True, False, False, False, False),
        (True, True, False, False, True),
        (False, False, True, False, False),
        (False, False, True, True, True),
        (True, False, True, True, False),
    ],
)
def test_whether_errors_are_stored(app, ignored, even_if, eager, store_eager, stored):
    @app.task(
        store_errors_even_if_ignored=even_if, store_eager_result=store_eager, ignore_result=ignored
    )
    def fail():
        raise ValueError

    run(fail, eager=eager)

    assert (app.AsyncResult("ID").state == states.FAILURE) is stored


class Unpicklable(Exception):
    def __init__(self, first, second):
        super().__init__(first)
        self.local = lambda: second


def test_error_that_cannot_travel(app):
    seen = []

    class Hooked(app.Task):
        abstract = True

        def on_failure(self, exc, *args):
            seen.append(exc)

        def after_return(self, status, retval, *args):
            seen.append(retval)

    @app.task(base=Hooked)
    def fail():
        raise Unpicklable(1, 2)

    ended = run(fail)

    # Hooks that hear of the failure get what can be sent, the last one gets what was raised.
    assert "Unpicklable" in repr(seen[0])
    assert isinstance(seen[1], Unpicklable)
    assert isinstance(ended.info.retval, Unpicklable)
    assert app.AsyncResult("ID").state == states.FAILURE


def test_after_return_gets_the_einfo_of_a_failure_better(app):
    """The guide promises it; Celery passes None."""
    seen = []

    class Hooked(app.Task):
        abstract = True

        def after_return(self, status, retval, task_id, args, kwargs, einfo):
            seen.append(einfo)

    @app.task(base=Hooked)
    def maybe(fails):
        if fails:
            raise ValueError("v")

    tracer = trace.build_tracer(maybe.name, maybe, app=app)
    tracer("ID", (True,), {}, {"id": "ID"})
    tracer("ID", (False,), {}, {"id": "ID"})

    assert "ValueError: v" in seen[0].traceback
    assert seen[1] is None


# -- what the log says


@pytest.fixture
def ending(app):
    @app.task(name="ending", throws=(KeyError,))
    def ending(error):
        raise error

    def end_with(error, **request):
        tracer = trace.build_tracer("ending", ending, app=app)
        return tracer("ID", (error,), {}, {"id": "ID", "hostname": "node@host", **request})

    return end_with


@pytest.mark.parametrize(
    ("error", "level", "text", "has_traceback"),
    [
        (ValueError("v"), logging.ERROR, "raised unexpected: ValueError('v')", True),
        (KeyError("k"), logging.INFO, "raised expected: KeyError('k')", False),
        (Ignore("i"), logging.INFO, "ignored", False),
        (Reject("r", requeue=True), logging.WARNING, "reject requeue=True: r", True),
    ],
)
def test_log_of_an_error(ending, caplog, error, level, text, has_traceback):
    with caplog.at_level(logging.INFO):
        ending(error, kwargsrepr="{...}")

    record = caplog.records[-1]
    assert record.name == "celery.app.trace"
    assert record.levelno == level
    assert record.getMessage() == f"Task ending[ID] {text}"
    assert bool(record.exc_info) is has_traceback
    assert sorted(record.data) == [
        "args", "description", "exc", "hostname", "id", "internal", "kwargs", "name", "traceback",
    ]  # fmt: skip
    assert record.data["hostname"] == "node@host"
    assert record.data["kwargs"] == "{...}"
    assert type(error).__name__ in record.data["traceback"]


def test_log_of_a_retry(app, ending, caplog):
    with caplog.at_level(logging.INFO):
        ending(Retry(exc=ValueError("v"), when=10), shadow="SHOWN")

    record = caplog.records[-1]
    assert record.levelno == logging.INFO
    assert record.getMessage() == "Task SHOWN[ID] retry: Retry in 10s: ValueError('v')"
    assert sorted(record.data) == ["exc", "id", "name"]


# -- retry, ignore, reject


def test_retry_is_stored_with_its_cause(app, ending):
    heard = []

    def receiver(sender, request, reason, einfo, **kwargs):
        heard.append((request.id, reason.exc, type(einfo)))

    signals.task_retry.connect(receiver)
    try:
        ended = ending(Retry(exc=ValueError("v"), when=10))
    finally:
        signals.task_retry.disconnect(receiver)

    result = app.AsyncResult("ID")
    assert result.state == states.RETRY
    assert isinstance(result.info, ValueError)
    assert ended.info.state == states.RETRY
    assert heard[0][0] == "ID"
    assert isinstance(heard[0][1], ValueError)
    assert heard[0][2] is ExceptionInfo


def test_retry_of_an_ignored_result_is_not_stored(app, ending):
    ending(Retry(exc=ValueError("v"), when=10), ignore_result=True)

    assert app.AsyncResult("ID").state == states.PENDING


@pytest.mark.parametrize(
    ("error", "state"), [(Ignore("i"), states.IGNORED), (Reject("r", True), states.REJECTED)]
)
def test_ignore_and_reject_are_stored_by_nobody_here(app, ending, error, state):
    ended = ending(error)

    assert ended.info.state == state
    assert ended.info.retval is error
    assert isinstance(ended.retval, ExceptionInfo)
    assert app.AsyncResult("ID").state == states.PENDING


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (states.FAILURE, ValueError("never raised")),
        (states.RETRY, Retry(exc=ValueError("v"), when=3)),
        (states.IGNORED, Ignore("i")),
        (states.REJECTED, Reject("r")),
    ],
)
def test_endings_made_in_the_main_process_need_no_traceback(app, state, error):
    @app.task
    def any_task():
        pass

    request = Context(id="ID", args=(), kwargs={})
    einfo = TraceInfo(state, error).handle_error_state(any_task, request)

    assert einfo.traceback
    assert einfo.type is type(error)


def test_own_trace_info(ending, app):
    handled = []

    class Info(trace.TraceInfo):
        def handle_failure(self, task, req, **kwargs):
            handled.append(self.state)
            return super().handle_failure(task, req, **kwargs)

    @app.task
    def fail():
        raise ValueError

    run(fail, Info=Info)

    assert handled == [states.FAILURE]


# -- frames


def test_traceback_clear_empties_frames():
    def fail():
        local = object()
        raise ValueError(local)

    try:
        fail()
    except ValueError as exc:
        error = exc
    frame = error.__traceback__.tb_next.tb_frame
    assert frame.f_locals
    traceback_clear(error)
    assert not frame.f_locals
    assert error.__traceback__ is not None
    forget_frames(error)
    assert error.__traceback__ is None


def test_forget_frames_follows_causes_in_circles():
    first, second = ValueError(1), KeyError(2)
    first.__cause__, second.__cause__ = second, first
    forget_frames(first)
    assert second.__traceback__ is None
