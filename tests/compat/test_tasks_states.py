"""Behaviours 92 to 100: states, and what is stored with them."""

from __future__ import annotations

import sys

import pytest
from celery import Celery, states
from celery.exceptions import TimeoutError
from celery.result import AsyncResult, GroupResult
from kombu.utils.uuid import uuid
from patience import PATIENCE_S


class Own(Exception):
    pass


def test_092_unknown_is_pending(app):
    result = app.AsyncResult(uuid())
    assert (result.state, result.result, result.ready()) == ("PENDING", None, False)


def test_093_transitions_overwrite_but_not_a_success(app):
    backend, task_id = app.backend, uuid()
    for state in ("STARTED", "PROGRESS", "FAILURE", "RETRY", "SUCCESS"):
        backend.store_result(task_id, Own("x") if state in states.EXCEPTION_STATES else 1, state)
        assert app.AsyncResult(task_id).state == state
    backend.store_result(task_id, Own("late"), "FAILURE")
    assert (app.AsyncResult(task_id).state, app.AsyncResult(task_id).result) == ("SUCCESS", 1)


def test_094_ready_states_and_those_that_propagate(app):
    assert {"SUCCESS", "FAILURE", "REVOKED"} == states.READY_STATES
    assert {"FAILURE", "REVOKED"} == states.PROPAGATE_STATES
    for state, value in (("FAILURE", Own("no")), ("REVOKED", Own("gone"))):
        task_id = uuid()
        app.backend.store_result(task_id, value, state)
        result = AsyncResult(task_id, app=app)
        assert result.ready()
        with pytest.raises(Own):
            result.get(timeout=10)
        assert isinstance(result.get(propagate=False), Own)


def test_095_custom_states(app, worker):
    seen = []

    @app.task(bind=True)
    def task(self):
        for done in (1, 2):
            self.update_state(state="PROGRESS", meta={"done": done, "total": 2})
            result = app.AsyncResult(self.request.id)
            seen.append((result.state, result.info, result.ready()))
        return "end"

    assert worker.finish(task.delay()).result == "end"
    assert seen == [("PROGRESS", {"done": done, "total": 2}, False) for done in (1, 2)]


def test_095_of_another_call(app):
    @app.task
    def task():
        pass

    task.update_state(task_id="other", state="HALF", meta=[1])
    assert (app.AsyncResult("other").state, app.AsyncResult("other").info) == ("HALF", [1])


def test_096_failure_keeps_error_and_traceback(app, worker):
    @app.task
    def task():
        raise Own("no", 3)

    result = worker.finish(task.delay())
    assert result.state == "FAILURE"
    assert (type(result.result), result.result.args) == (Own, ("no", 3))
    assert "in task" in result.traceback and "raise Own" in result.traceback


def test_096_extended_results(app, worker):
    app.conf.result_extended = True

    @app.task(name="named")
    def task(x, y):
        raise Own

    result = worker.finish(task.apply_async((1,), {"y": 2}))
    assert (result.name, list(result.args), result.kwargs) == ("named", [1], {"y": 2})
    assert (result.retries, result.queue) == (0, "celery")


def test_097_own_class_when_imported(app, worker, monkeypatch):
    @app.task
    def task():
        raise Own("no")

    task_id = worker.finish(task.delay()).id
    worker.stop()
    assert type(app.AsyncResult(task_id).result) is Own
    monkeypatch.delitem(sys.modules, __name__)
    other = app.AsyncResult(task_id).result
    assert type(other) is not Own
    assert (type(other).__name__, other.args) == ("Own", ("no",))
    assert isinstance(other, Exception)


class Unpicklable(Own):
    def __init__(self, given):
        super().__init__("text", lambda: given)


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_098_what_cannot_be_pickled(app, worker, serializer):
    app.conf.update(result_serializer=serializer, result_accept_content=[serializer])

    @app.task
    def task():
        raise Unpicklable(1)

    result = worker.finish(task.delay())
    assert result.state == "FAILURE"
    assert isinstance(result.result, Exception)
    assert "text" in str(result.result)
    with pytest.raises(Exception, match="text"):
        result.get(timeout=10)


def test_099_rpc_results_are_known_to_the_sender_alone(app, worker):
    app.conf.result_backend = "rpc://"

    @app.task
    def add(x, y):
        return x + y

    @app.task
    def fail():
        raise Own("no")

    result, failed = add.delay(1, 2), fail.delay()
    worker.start()
    assert result.get(timeout=PATIENCE_S) == 3
    assert (result.state, result.get(timeout=PATIENCE_S)) == ("SUCCESS", 3)
    with pytest.raises(Own):
        failed.get(timeout=PATIENCE_S)
    # Somebody else on the same broker, as another process is.
    with Celery("other", broker="memory://", backend="rpc://", set_as_current=False) as other:
        stranger = other.AsyncResult(result.id)
        assert stranger.state == "PENDING"
        with pytest.raises(TimeoutError):
            stranger.get(timeout=0.01)


def test_099_rpc_states_while_waiting(app, worker):
    app.conf.update(result_backend="rpc://", task_track_started=True)
    seen = []

    @app.task(bind=True)
    def task(self):
        self.update_state(state="PROGRESS", meta={"done": 1})
        return "end"

    result = task.delay()
    worker.start()
    assert result.get(timeout=PATIENCE_S, on_message=seen.append) == "end"
    assert [each["status"] for each in seen] == ["STARTED", "PROGRESS", "SUCCESS"]
    assert [each["task_id"] for each in seen] == [result.id] * 3


def test_099_rpc_keeps_no_groups(app):
    app.conf.result_backend = "rpc://"
    result = GroupResult(uuid(), [], app=app)
    for wrong in (result.save, result.delete, lambda: GroupResult.restore(result.id, app=app)):
        with pytest.raises(NotImplementedError):
            wrong()
    for name in ("reload_task_result", "reload_group_result"):
        with pytest.raises(NotImplementedError):
            getattr(app.backend, name)(result.id)
    with pytest.raises(NotImplementedError):
        app.backend.ensure_chords_allowed()
    with pytest.raises(RuntimeError):
        app.backend.store_result("unasked", 1, "SUCCESS")


def test_100_forget(app, worker):
    @app.task
    def task():
        return 1

    result = worker.finish(task.delay())
    assert result.get() == 1
    result.forget()
    assert app.AsyncResult(result.id).state == "PENDING"
