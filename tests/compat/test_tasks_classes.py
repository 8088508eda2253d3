"""Behaviours 106 to 117: hooks of task classes, their requests, and waiting inside of tasks."""

from __future__ import annotations

import logging

import pytest
import sides
from celery.exceptions import Ignore, Reject


class Boom(Exception):
    pass


@pytest.fixture
def told(app, monkeypatch):
    """What happens around a run, in order."""
    lines: list = []
    cls = type(app.backend)
    original = cls.store_result

    def store(self, task_id, result, state, *rest, **more):
        lines.append(f"stored {state}")
        return original(self, task_id, result, state, *rest, **more)

    monkeypatch.setattr(cls, "store_result", store)
    return lines


@pytest.fixture
def hooked(app, told):
    """A base class whose hooks tell, and raise where they are asked to."""

    class Hooked(app.Task):
        raising = ()

        def tell(self, name):
            told.append(name)
            if name in self.raising:
                raise Boom(name)
            return "ignored"

        def before_start(self, task_id, args, kwargs):
            return self.tell("before_start")

        def on_success(self, retval, task_id, args, kwargs):
            return self.tell("on_success")

        def on_retry(self, exc, task_id, args, kwargs, einfo):
            self.retried = exc, einfo
            return self.tell("on_retry")

        def on_failure(self, exc, task_id, args, kwargs, einfo):
            return self.tell("on_failure")

        def after_return(self, status, retval, task_id, args, kwargs, einfo):
            return self.tell(f"after_return {status}")

    return Hooked


@pytest.fixture
def run(app, worker, told, hooked):
    """Run a task of the base class that ends by `error`; its result."""

    def start(error=None, **options):
        @app.task(base=hooked, bind=True, **options)
        def task(self):
            told.append("run")
            if error == "retry" and not self.request.retries:
                raise self.retry(countdown=0, exc=Boom("why"))
            if isinstance(error, Exception):
                raise error
            return "value"

        @app.task
        def last():
            pass

        result = task.delay()
        if isinstance(error, (Ignore, Reject)):
            worker.finish(last.delay())
            told.pop()
        else:
            worker.finish(result)
        worker.stop()
        result.task = task
        return result

    return start


def test_106_the_order(run, told):
    assert run().result == "value"
    assert told == ["before_start", "run", "stored SUCCESS", "on_success", "after_return SUCCESS"]


def test_107_stored_before_on_failure(run, told):
    assert run(Boom("no")).state == "FAILURE"
    assert told == [
        "before_start", "run", "stored FAILURE", "on_failure", "after_return FAILURE",
    ]  # fmt: skip


def test_107_and_before_on_retry(run, told):
    run("retry")
    assert told[:4] == ["before_start", "run", "stored RETRY", "on_retry"]


def test_108_no_after_return_for_a_retry(run, told):
    run("retry")
    assert told[4:] == [
        "before_start", "run", "stored SUCCESS", "on_success", "after_return SUCCESS",
    ]  # fmt: skip


@pytest.mark.parametrize("error", [Ignore("x"), Reject("x", requeue=True)])
def test_108_nor_when_ignored_or_rejected(run, told, error):
    run(error)
    assert told == ["before_start", "run"]


@pytest.mark.parametrize("hook", ["on_success", "after_return SUCCESS"])
def test_109_errors_of_hooks_are_logged(run, caplog, hook):
    with caplog.at_level(logging.ERROR):
        result = run(raising=(hook,))
    assert (result.state, result.result) == ("SUCCESS", "value")
    assert [record for record in caplog.records if "Boom" in record.getMessage()]


@pytest.mark.parametrize("hook", ["on_success", "after_return SUCCESS"])
def test_109_and_raised_when_eager(app, hooked, hook):
    @app.task(base=hooked, raising=(hook,))
    def task():
        pass

    with pytest.raises(Boom):
        task.apply()


def test_110_an_error_in_before_start_fails_the_task(run, told):
    result = run(raising=("before_start",))
    assert result.state == "FAILURE"
    assert isinstance(result.result, Boom)
    assert "run" not in told
    assert told == ["before_start", "stored FAILURE", "on_failure", "after_return FAILURE"]


def test_111_what_on_retry_is_told(run):
    exc, einfo = run("retry").task.retried
    assert isinstance(exc, Boom) and exc.args == ("why",)
    assert f"{type(einfo).__module__}.{type(einfo).__name__}" == "billiard.einfo.ExceptionInfo"
    assert "Boom" in einfo.traceback


def test_112_what_hooks_return_is_ignored(run):
    assert run().result == "value"  # every hook returns something else


def test_112_a_trail_of_calls(app, worker):
    @app.task
    def child():
        pass

    @app.task(bind=True)
    def parent(self):
        self.add_trail(child.delay())

    @app.task(bind=True, trail=False)
    def silent(self):
        self.add_trail("not kept")

    result = worker.finish(parent.delay())
    assert len({each.id for each in result.children}) == 1
    assert worker.finish(silent.delay()).children in (None, [])


def test_112_the_call_again(app, worker):
    @app.task(bind=True)
    def task(self, x, y=0):
        again = self.subtask_from_request(args=(5,))
        return [again.task, list(again.args), again.kwargs, again.options["task_id"]]

    result = worker.finish(task.delay(1, y=2))
    assert result.result == [task.name, [5], {"y": 2}, result.id]


SOURCE = """
import os, time
from celery.result import allow_join_result
from celery.worker.request import Request

MAIN = os.getpid()

def say(*words):
    where = "main" if os.getpid() == MAIN else "child"
    os.write(1, (" ".join(["TOLD", where, *words]) + "\\n").encode())

class Telling(Request):
    def on_timeout(self, soft, timeout):
        super().on_timeout(soft, timeout)
        say("timeout", self.task.name, str(soft))

    def on_failure(self, exc_info, send_failed_event=True, return_ok=False):
        super().on_failure(exc_info, send_failed_event, return_ok)
        say("failure", self.task.name, type(exc_info.exception).__name__)

class ByClass(app.Task):
    Request = Telling

class ByName(app.Task):
    Request = "proj:Telling"

@app.task(base=ByClass, time_limit=0.2)
def slow():
    time.sleep(60)

@app.task(base=ByName)
def failing():
    raise KeyError("no")

def stored():
    app.backend.store_result("stored", "value", "SUCCESS")
    return app.AsyncResult("stored")

@app.task
def waiting(**options):
    return stored().get(timeout=10, **options)

@app.task
def allowed():
    with allow_join_result():
        value = stored().get(timeout=10)
    try:
        stored().get(timeout=10)
    except RuntimeError:
        return [value, "refused again"]
"""


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A worker with children: in this process the test itself may wait."""
    program = sides.Program(tmp_path_factory.mktemp("real"), SOURCE, (), "prefork")
    program.wait_for_log(" ready.")
    yield program
    program.stop()


def test_113_requests_of_a_class_of_ones_own(real):
    real.finish(real.call("slow"))
    real.finish(real.call("failing"))
    real.wait_for_log("TOLD main timeout proj.slow False")
    real.wait_for_log("TOLD main failure proj.failing")


def test_115_waiting_in_a_task_is_refused(real):
    result = real.finish(real.call("waiting"))
    assert isinstance(result.result, RuntimeError)
    assert "Never call result.get() within a task" in str(result.result)


def test_115_unless_it_says_so(real):
    result = real.call("waiting", kwargs={"disable_sync_subtasks": False})
    assert real.finish(result).result == "value"


def test_116_allow_join_result(real):
    assert real.finish(real.call("allowed")).result == ["value", "refused again"]


def test_117_nothing_is_left_behind_for_the_next_task(real):
    for _ in range(2):
        assert real.finish(real.call("allowed")).state == "SUCCESS"
        assert isinstance(real.finish(real.call("waiting")).result, RuntimeError)
