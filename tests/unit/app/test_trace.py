"""How one call is run: order, what is stored when, what hooks and broken parts can do to it.

Every expectation was checked against Celery 5.7.0, except where the name of the test says better.
"""

from __future__ import annotations

import gc
import json
import logging
import sys
import threading
import weakref

import pytest
from contract.tracing import lone_app
from kombu.exceptions import ContentDisallowed, DecodeError, EncodeError, OperationalError
from patience import PATIENCE_S

from taskq import Celery, signals, states
from taskq._state import get_current_task, task_join_will_block
from taskq.app import trace
from taskq.app.redelivery import successful_requests
from taskq.backends.memory import MemoryBackend
from taskq.exceptions import (
    BackendGetMetaError,
    BackendStoreError,
    Ignore,
    InvalidTaskError,
    NotRegistered,
    Reject,
    WorkerShutdown,
)
from taskq.result import allow_join_result
from taskq.worker.state import successful_requests as seen_by_the_worker

SIGNALS = ("prerun", "postrun", "success", "failure", "retry", "internal_error")


class Noting(MemoryBackend):
    """The memory backend, keeping a diary."""

    diary: list = []

    def store_result(self, task_id, result, state, **kwargs):
        self.diary.append(f"store {state}")
        return super().store_result(task_id, result, state, **kwargs)

    def mark_as_done(self, task_id, result, request=None, store_result=True, state="SUCCESS"):
        self.diary.append(f"mark_as_done {store_result}")
        return super().mark_as_done(task_id, result, request, store_result, state)

    def process_cleanup(self):
        self.diary.append(f"cleanup {get_current_task()}")


@pytest.fixture
def diary():
    Noting.diary = []
    return Noting.diary


@pytest.fixture
def app(diary):
    with lone_app("traced", Noting) as app:
        yield app


@pytest.fixture
def base(app, diary):
    class Hooked(app.Task):
        abstract = True

        def before_start(self, task_id, args, kwargs):
            diary.append("before_start")

        def on_success(self, retval, task_id, args, kwargs):
            diary.append(f"on_success {retval}")

        def on_failure(self, exc, task_id, args, kwargs, einfo):
            diary.append(f"on_failure {exc!r}")

        def on_retry(self, exc, task_id, args, kwargs, einfo):
            diary.append(f"on_retry {exc!r}")

        def after_return(self, status, retval, task_id, args, kwargs, einfo):
            diary.append(f"after_return {status} {retval!r}")

    return Hooked


@pytest.fixture
def listening(diary):
    """Receivers that write every task signal into the diary."""
    kept = []
    for name in SIGNALS:

        def receiver(signal, sender, _name=name, **named):
            state = f" {named['state']} {named['retval']!r}" if _name == "postrun" else ""
            diary.append(_name + state)

        kept.append((getattr(signals, f"task_{name}"), receiver))
        kept[-1][0].connect(receiver, weak=False)
    yield
    for signal, receiver in kept:
        signal.disconnect(receiver)


def run(task, *args, request=None, **options):
    tracer = trace.build_tracer(task.name, task, app=task.app, **options)
    return tracer("ID", args, {}, {"id": "ID", **(request or {})})


# -- order


def test_success_in_order(app, base, diary, listening):
    @app.task(base=base, track_started=True)
    def double(x):
        diary.append("run")
        return x * 2

    ended = run(double, 2)

    assert diary == [
        "prerun",
        "store STARTED",
        "before_start",
        "run",
        "mark_as_done True",
        "store SUCCESS",
        "on_success 4",
        "success",
        "after_return SUCCESS 4",
        "postrun SUCCESS 4",
        "cleanup None",
    ]
    assert ended.retval == 4
    assert ended.info is None
    assert ended.runtime > 0
    assert ended.retstr == "4"


def test_failure_in_order(app, base, diary, listening):
    @app.task(base=base)
    def fail():
        raise KeyError("foo")

    ended = run(fail)

    assert diary == [
        "prerun",
        "before_start",
        "store FAILURE",
        "on_failure KeyError('foo')",
        "failure",
        "after_return FAILURE KeyError('foo')",
        "postrun FAILURE KeyError('foo')",
        "cleanup None",
    ]
    assert ended.info.state == states.FAILURE
    assert isinstance(ended.info.retval, KeyError)
    assert "KeyError: 'foo'" in ended.retval.traceback
    assert ended.runtime is None


def test_eager_run_stores_nothing_and_cleans_up_nothing(app, base, diary, listening):
    @app.task(base=base, track_started=True)
    def double(x):
        return x * 2

    run(double, 2, eager=True)

    assert "mark_as_done False" in diary
    assert not [line for line in diary if line.startswith(("store", "cleanup"))]


def test_started_says_where(app):
    metas = []

    @app.task(track_started=True, bind=True)
    def look(self):
        metas.append(self.backend.get_task_meta(self.request.id, cache=False))

    run(look, hostname="node@host")

    assert metas[0]["status"] == states.STARTED
    assert metas[0]["result"]["hostname"] == "node@host"
    assert isinstance(metas[0]["result"]["pid"], int)


# -- what the body sees


def test_request_and_current_task(app):
    seen = {}

    @app.task(bind=True)
    def look(self, x):
        request = self.request
        seen.update(id=request.id, args=request.args, direct=request.called_directly)
        seen.update(current=get_current_task(), custom=request.custom, headers=request.headers)

    run(look, 1, request={"custom": "mine"})

    assert seen["id"] == "ID"
    assert seen["args"] == (1,)
    assert seen["direct"] is False
    assert seen["current"].name == look.name
    assert seen["custom"] == "mine"
    assert seen["headers"] == {"custom": "mine"}
    assert get_current_task() is None
    assert look.request.id is None


def test_threads_do_not_see_each_others_requests(app):
    both_run = threading.Barrier(2)

    @app.task(bind=True, ignore_result=True)
    def look(self):
        both_run.wait(PATIENCE_S)
        return self.request.id, self.request.args

    tracer = trace.build_tracer(look.name, look, app=app)
    seen = {}

    def work(uuid):
        seen[uuid] = tracer(uuid, (), {}, {"id": uuid}).retval

    threads = [threading.Thread(target=work, args=(uuid,)) for uuid in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert seen == {"one": ("one", ()), "two": ("two", ())}


def test_waiting_is_refused_during_a_run_only(app):
    @app.task
    def look():
        with allow_join_result():
            allowed = task_join_will_block()
        return task_join_will_block(), allowed

    assert run(look).retval == (True, False)
    assert task_join_will_block() is False
    assert run(look, eager=True).retval == (False, False)


def test_class_with_its_own_call_is_called(app):
    class Counting(app.Task):
        abstract = True
        calls = 0

        def __call__(self, *args, **kwargs):
            type(self).calls += 1
            return super().__call__(*args, **kwargs)

    @app.task(base=Counting, bind=True)
    def look(self):
        return self.request.id

    assert run(look).retval == "ID"
    assert look.calls == 1


# -- whether it is stored


@pytest.mark.parametrize(
    ("attribute", "request_says", "is_stored"),
    [
        (False, {}, True),
        (True, {}, False),
        (True, {"ignore_result": None}, False),
        (True, {"ignore_result": False}, True),
        (False, {"ignore_result": True}, False),
    ],
)
def test_call_then_task_say_whether_the_result_is_ignored(
    app, diary, attribute, request_says, is_stored
):
    @app.task(ignore_result=attribute)
    def one():
        return 1

    @app.task(ignore_result=attribute)
    def fail():
        raise ValueError

    run(one, request=request_says)
    assert ("store SUCCESS" in diary) is is_stored
    run(fail, request=request_says)
    assert ("store FAILURE" in diary) is is_stored


def test_started_is_not_stored_when_the_result_is_ignored(app, diary):
    @app.task(ignore_result=True, track_started=True)
    def one():
        return 1

    run(one)

    assert "store STARTED" not in diary


def test_result_that_cannot_be_encoded_fails_the_task(app, base, diary, listening):
    @app.task(base=base)
    def give_a_set():
        return {1}

    ended = run(give_a_set)

    assert ended.info.state == states.FAILURE
    assert isinstance(ended.info.retval, EncodeError)
    assert app.AsyncResult("ID").state == states.FAILURE
    assert "success" not in diary
    assert diary[-2].startswith("postrun FAILURE EncodeError")


# -- hooks that raise


class Boom(RuntimeError):
    pass


def raising(base, hook, error=None):
    def method(self, *args):
        raise error or Boom(hook)

    return type(f"Raising_{hook}", (base,), {hook: method, "abstract": True})


@pytest.mark.parametrize("hook", ["on_success", "after_return"])
def test_late_hook_that_raises_is_logged(app, base, hook, diary, listening, caplog):
    @app.task(base=raising(base, hook))
    def one():
        return 1

    ended = run(one)

    assert ended.info is None
    assert ended.retval == 1
    assert diary[-2:] == ["postrun SUCCESS 1", "cleanup None"]
    assert f"[ID] {hook} handler raised: Boom('{hook}')" in caplog.text


@pytest.mark.parametrize("hook", ["on_success", "after_return"])
def test_late_hook_that_raises_eagerly(app, base, hook, diary, listening):
    @app.task(base=raising(base, hook))
    def one():
        return 1

    with pytest.raises(Boom):
        run(one, eager=True)
    assert diary[-2:] == ["postrun SUCCESS 1", "internal_error"]


def test_before_start_that_raises_fails_the_task(app, base, diary):
    @app.task(base=raising(base, "before_start"))
    def one():
        diary.append("run")

    ended = run(one)

    assert ended.info.state == states.FAILURE
    assert isinstance(ended.info.retval, Boom)
    assert "run" not in diary
    assert "store FAILURE" in diary


def test_on_retry_that_raises_fails_the_task(app, base, diary, listening):
    app.conf.task_always_eager = False

    @app.task(base=raising(base, "on_retry"), bind=True)
    def again(self):
        raise self.retry(exc=ValueError("v"))

    with pytest.warns(RuntimeWarning, match="outside body"):
        ended = run(again)

    assert isinstance(ended.info.retval, Boom)
    assert diary[2:] == [
        "store RETRY",
        "postrun None None",
        "cleanup None",
        "internal_error",
        "store FAILURE",
        "on_failure Boom('on_retry')",
        "failure",
    ]


def test_on_failure_that_raises_leaves_the_failure_stored(app, base, diary, listening):
    @app.task(base=raising(base, "on_failure"))
    def fail():
        raise KeyError("k")

    with pytest.warns(RuntimeWarning, match="outside body"), pytest.raises(Boom):
        run(fail)
    assert app.AsyncResult("ID").state == states.FAILURE
    assert "cleanup None" in diary


@pytest.mark.parametrize("error", [MemoryError("m"), Reject("r"), SystemExit(3)])
@pytest.mark.parametrize("hook", ["on_success", "after_return"])
def test_what_a_hook_may_raise_through(app, base, hook, error, diary, listening):
    @app.task(base=raising(base, hook, error))
    def one():
        return 1

    with pytest.raises(type(error)):
        run(one)
    assert diary[-2:] == ["postrun SUCCESS 1", "cleanup None"]


# -- what a body may raise


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(3), WorkerShutdown(0), GeneratorExit()]
)
def test_shutdown_goes_through(app, base, error, diary, listening):
    @app.task(base=base)
    def stop():
        raise error

    with pytest.raises(type(error)):
        run(stop)
    assert diary == ["prerun", "before_start", "postrun None None", "cleanup None"]
    assert get_current_task() is None


@pytest.mark.parametrize("error", [MemoryError("m"), RecursionError(), StopIteration(3)])
def test_other_errors_are_failures(app, error):
    @app.task
    def fail():
        raise error

    assert run(fail).info.state == states.FAILURE
    assert app.AsyncResult("ID").state == states.FAILURE


def test_wrong_arguments_are_a_failure(app):
    @app.task
    def one(x):
        return x

    ended = run(one, 1, 2)

    assert isinstance(ended.info.retval, TypeError)
    assert app.AsyncResult("ID").state == states.FAILURE


# -- propagate


def test_propagate_raises_errors_of_the_body(app, base, diary, listening):
    @app.task(base=base)
    def fail():
        raise KeyError("k")

    with pytest.warns(RuntimeWarning), pytest.raises(KeyError):
        run(fail, propagate=True)
    assert diary == [
        "prerun",
        "before_start",
        "postrun None None",
        "cleanup None",
        "internal_error",
    ]


@pytest.mark.parametrize("error", [Ignore(), Reject("r")])
def test_propagate_lets_ignore_and_reject_be_endings(app, error):
    @app.task
    def end():
        raise error

    assert run(end, propagate=True, eager=True).info.retval is error


# -- broken parts around the body


def test_kwargs_that_are_no_mapping_fail_the_task_better(app, diary, listening):
    @app.task
    def one():
        return 1

    tracer = trace.build_tracer(one.name, one, app=app)
    with pytest.warns(RuntimeWarning, match="keyword arguments is not a mapping"):
        ended = tracer("ID", (), ["a"], {"id": "ID"})

    # Celery reports this as a success without a value.
    assert ended.info.state == states.FAILURE
    assert isinstance(ended.info.retval, InvalidTaskError)
    assert app.AsyncResult("ID").state == states.FAILURE
    assert diary[0] == "internal_error"


@pytest.mark.parametrize("error", [ValueError("v"), OperationalError("o"), BackendStoreError("b")])
def test_backend_that_cannot_store_success(app, base, diary, listening, error):
    class Broken(Noting):
        def mark_as_done(self, *args, **kwargs):
            raise error

    @app.task(base=base, backend=Broken(app=app))
    def one():
        return 1

    with pytest.warns(RuntimeWarning):
        ended = run(one)

    assert ended.info.retval is error
    assert diary == [
        "prerun",
        "before_start",
        "postrun SUCCESS 1",
        "cleanup None",
        "internal_error",
        "store FAILURE",
        f"on_failure {error!r}",
        "failure",
    ]


def test_process_cleanup_that_raises_is_logged(app, caplog):
    class Broken(Noting):
        def process_cleanup(self):
            raise Boom("cleanup")

    @app.task(backend=Broken(app=app))
    def one():
        return 1

    assert run(one).retval == 1
    assert "Process cleanup failed: Boom('cleanup')" in caplog.text


def test_loader_hooks(app, diary):
    app.loader.on_task_init = lambda task_id, task: diary.append(f"init {task_id} {task.name}")
    app.loader.on_process_cleanup = lambda: diary.append("loader cleanup")

    @app.task(name="one")
    def one():
        diary.append("run")

    run(one)
    assert diary[:2] == ["init ID one", "run"]
    assert diary[-1] == "loader cleanup"

    diary.clear()
    run(one, eager=True)
    assert "loader cleanup" not in diary


# -- logs and texts


def test_success_is_logged(app, caplog):
    @app.task(name="one")
    def one():
        return "x" * 50

    one.resultrepr_maxsize = 20
    with caplog.at_level(logging.INFO):
        ended = run(one, request={"shadow": "ONE", "argsrepr": "(hidden)"})

    record = caplog.records[-1]
    assert record.name == "celery.app.trace"
    assert record.getMessage().startswith("Task ONE[ID] succeeded in ")
    assert len(ended.retstr) < 30
    assert record.data["return_value"] == ended.retstr
    assert record.data["args"] == "(hidden)"
    assert record.data["kwargs"] == "{}"


@pytest.mark.parametrize("value", [None, True, 1.5, 3, "text", [1, [2]]])
def test_text_of_the_result(app, value):
    @app.task(ignore_result=True)
    def give():
        return value

    assert run(give).retstr == repr(value)


def test_text_of_a_result_without_end(app):
    @app.task(ignore_result=True)
    def give():
        return 10**5000

    ended = run(give)
    assert ended.info is None
    assert len(ended.retstr) < 1100


def test_texts_may_be_changed(app, caplog, monkeypatch):
    monkeypatch.setattr(trace, "LOG_SUCCESS", "%(name)s went well")
    monkeypatch.setattr(trace, "LOG_FAILURE", "%(name)s went badly: %(exc)s")

    @app.task(name="one")
    def one():
        return 1

    @app.task(name="fail")
    def fail():
        raise KeyError("k")

    with caplog.at_level(logging.INFO):
        run(one)
        run(fail)

    texts = [record.getMessage() for record in caplog.records]
    assert texts == ["one went well", "fail went badly: KeyError('k')"]


# -- redelivery


@pytest.fixture
def late(app):
    app.conf.worker_deduplicate_successful_tasks = True
    successful_requests.clear()

    @app.task(acks_late=True)
    def count():
        count.calls = getattr(count, "calls", 0) + 1
        return count.calls

    Noting.persistent = True
    yield count
    del Noting.persistent
    successful_requests.clear()


AGAIN = {"delivery_info": {"redelivered": True}}


def test_the_worker_and_the_tracer_share_what_succeeded():
    assert seen_by_the_worker is successful_requests


def test_redelivered_call_that_succeeded_is_not_run(app, late):
    run(late)
    ended = run(late, request=AGAIN)

    assert late.calls == 1
    assert ended == (None, None, None, None)
    assert "ID" in successful_requests


def test_redelivered_call_that_did_not_succeed_is_run(app, late):
    app.backend.store_result("ID", ValueError("v"), states.FAILURE)

    assert run(late, request=AGAIN).retval == 1


def test_redelivered_call_seen_by_this_process(app, late):
    successful_requests.add("ID")

    assert run(late, request=AGAIN).retval is None


def test_redelivered_call_is_run_when_the_backend_does_not_answer(app, late, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise BackendGetMetaError("down", task_id="ID")

    monkeypatch.setattr(Noting, "get_task_meta", refuse)

    assert run(late, request=AGAIN).retval == 1


def test_deduplication_wants_late_acks_and_a_redelivery(app, late):
    run(late)
    assert run(late).retval == 2
    late.acks_late = False
    assert run(late, request=AGAIN).retval == 3


# -- memory


def test_failed_run_leaves_no_cycles(app):
    class Big:
        pass

    alive = []

    @app.task
    def fail():
        big = Big()
        alive.append(weakref.ref(big))
        try:
            raise KeyError("inner")
        except KeyError as exc:
            raise ValueError("outer") from exc

    gc.collect()
    gc.disable()
    try:
        ended = run(fail)
        assert ended.info.retval.__cause__.args == ("inner",)
        assert alive[0]() is None
        assert ended.info.retval.__traceback__ is None
    finally:
        gc.enable()


# -- for pools


@pytest.fixture
def worker(app):
    trace.setup_worker_optimizations(app, "node@host")
    yield app
    trace.reset_worker_optimizations(app)


def fast(task, body, **headers):
    request = {"id": "ID", "task": task, **headers}
    return trace.fast_trace_task(task, "ID", request, body, "application/json", "utf-8")


def test_fast_trace_task(worker):
    @worker.task(name="double", bind=True)
    def double(self, x):
        assert self.request.hostname == "node@host"
        assert self.request.is_eager is False
        return x * 2

    status, text, runtime = fast("double", json.dumps([[2], {}, {"chain": None}]))
    assert (status, text) == (0, "4")
    assert runtime > 0

    status, einfo, runtime = fast("double", json.dumps([[{}], {}, None]))
    assert (status, runtime) == (1, None)
    assert "TypeError" in einfo.traceback


def test_fast_trace_task_takes_a_decoded_body(worker):
    @worker.task(name="double")
    def double(x):
        return x * 2

    ended = trace.fast_trace_task("double", "ID", {"id": "ID"}, ((2,), {}, {}), None, None)
    assert ended[:2] == (0, "4")


def test_trace_task_ret_needs_no_preparation(app):
    @app.task(name="double")
    def double(x):
        return x * 2

    body = json.dumps([[2], {}, {}])
    ended = trace.trace_task_ret(
        "double", "ID", {"id": "ID"}, body, "application/json", "utf-8", app=app
    )
    assert ended[:2] == (0, "4")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("{{{", DecodeError),
        (json.dumps([[2], {}]), InvalidTaskError),
        (json.dumps({"args": [2], "kwargs": {}}), InvalidTaskError),
        (json.dumps(7), InvalidTaskError),
    ],
)
def test_body_that_is_not_a_tasks(worker, body, error):
    @worker.task(name="double")
    def double(x):
        return x * 2

    with pytest.raises(error):
        fast("double", body)


def test_refused_content_type_and_unknown_task(worker):
    with pytest.raises(ContentDisallowed):
        trace.fast_trace_task("x", "ID", {}, b"", "application/x-python-serialize", "binary")
    with pytest.raises(NotRegistered):
        fast("nowhere.task", json.dumps([[], {}, {}]))


def test_fast_trace_task_in_a_process_nobody_prepared():
    with pytest.raises(RuntimeError, match="setup_worker_optimizations"):
        fast("double", "[]")


def test_reset_undoes_setup(app):
    trace.setup_worker_optimizations(app, "node@host")
    assert app.use_fast_trace_task is True
    trace.reset_worker_optimizations(app)
    assert app.use_fast_trace_task is False


def test_trace_task_reports_a_tracer_that_breaks(app, listening, diary):
    @app.task
    def one():
        return 1

    def broken(*args):
        raise Boom("tracer")

    one.__trace__ = broken
    with pytest.warns(RuntimeWarning, match="tracer"):
        ended = trace.trace_task(one, "ID", (), {})

    assert ended.info.state == states.FAILURE
    assert diary == ["internal_error"]


def test_task_has_custom(app, base, monkeypatch):
    @app.task
    def plain():
        pass

    @app.task(base=base)
    def hooked():
        pass

    assert trace.task_has_custom(plain, "on_success") is None
    assert trace.task_has_custom(plain, "__call__") is None
    assert trace.task_has_custom(hooked, "on_success") is base
    plain.on_success = print
    assert trace.task_has_custom(plain, "on_success") is not None


def test_success_without_anything_around_is_few_calls(app, worker):
    """Counted: what a run costs in Python calls, the body included."""
    bare = Celery("bare", broker="memory://", backend="disabled://", set_as_current=False)

    @bare.task
    def nothing():
        pass

    tracer = trace.build_tracer(nothing.name, nothing, app=bare)
    request = {"id": "ID", "timelimit": [None, None]}
    tracer("ID", (), {}, request)
    calls = []
    trace_logs, trace._logs_success = trace._logs_success, False
    sys.setprofile(lambda frame, event, arg: event == "call" and calls.append(frame.f_code.co_name))
    try:
        tracer("ID", (), {}, request)
    finally:
        sys.setprofile(None)
        trace._logs_success = trace_logs
    bare.close()
    assert len(calls) <= 16, calls
