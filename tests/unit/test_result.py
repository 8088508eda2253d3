"""Reading outcomes: one result, eager results, the guard against waiting inside a task."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
import traceback
from datetime import timedelta
from typing import Any

import pytest
from patience import PATIENCE_S

from taskq import Celery
from taskq._state import _set_task_join_will_block
from taskq.backends.memory import MemoryBackend, MemoryStore
from taskq.context import Context
from taskq.exceptions import (
    ImproperlyConfigured,
    IncompleteStream,
    TaskRevokedError,
    TimeoutError,
)
from taskq.joining import allow_join_result, assert_will_not_block, denied_join_result
from taskq.result import AsyncResult, EagerResult, GroupResult, result_from_tuple


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(MemoryBackend, "store", MemoryStore())
    return Celery("results", backend="memory://", set_as_current=False)


@pytest.fixture
def store(app: Any) -> Any:
    app.backend.store_result("ok", {"a": 1}, "SUCCESS")
    app.backend.store_result("bad", ValueError("boo"), "FAILURE", traceback="text")
    app.backend.store_result("gone", TaskRevokedError("why"), "REVOKED")
    app.backend.store_result("progress", {"p": 1}, "PROGRESS")
    app.backend.store_result("retry", ValueError("again"), "RETRY", traceback="tb")
    return app.backend


@pytest.fixture
def result(app: Any, store: Any) -> Any:
    return lambda task_id, **kwargs: AsyncResult(task_id, app=app, **kwargs)


class TestLooking:
    @pytest.mark.parametrize(
        ("task_id", "state", "ready", "successful", "failed"),
        [
            ("ok", "SUCCESS", True, True, False),
            ("bad", "FAILURE", True, False, True),
            ("gone", "REVOKED", True, False, False),
            ("progress", "PROGRESS", False, False, False),
            ("retry", "RETRY", False, False, False),
            ("unknown", "PENDING", False, False, False),
        ],
    )
    def test_state(
        self, result: Any, task_id: str, state: str, ready: bool, successful: bool, failed: bool
    ) -> None:
        one = result(task_id)
        assert (one.state, one.status) == (state, state)
        assert (one.ready(), one.successful(), one.failed()) == (ready, successful, failed)
        assert one.exists() is (task_id != "unknown")

    def test_value(self, result: Any) -> None:
        assert result("ok").result == result("ok").info == {"a": 1}
        assert result("progress").info == {"p": 1}
        assert isinstance(result("bad").result, ValueError)
        assert result("bad").traceback == "text"
        assert result("unknown").result is None

    def test_when_it_ended(self, result: Any) -> None:
        assert result("ok").date_done.utcoffset() == timedelta(0)
        assert result("progress").date_done is None

    def test_a_ready_outcome_is_read_once(self, result: Any, store: Any) -> None:
        one = result("ok")
        assert one.get() == {"a": 1}
        store.forget("ok")
        assert one.get() == {"a": 1}
        one.forget()
        assert one.state == "PENDING"

    def test_an_unready_state_is_read_again(self, result: Any, store: Any) -> None:
        one = result("progress")
        assert one.state == "PROGRESS"
        store.store_result("progress", 2, "SUCCESS")
        assert one.state == "SUCCESS"

    def test_a_result_needs_an_id(self, app: Any) -> None:
        with pytest.raises(ValueError, match="requires valid id"):
            AsyncResult(None, app=app)  # type: ignore[arg-type]


class TestGet:
    def test_raises_what_the_task_raised(self, result: Any) -> None:
        with pytest.raises(ValueError, match="boo"):
            result("bad").get(timeout=PATIENCE_S)
        with pytest.raises(TaskRevokedError, match="why"):
            result("gone").get(timeout=PATIENCE_S)

    def test_propagate_false_gives_the_exception(self, result: Any) -> None:
        assert isinstance(result("bad").get(timeout=PATIENCE_S, propagate=False), ValueError)

    @pytest.mark.parametrize("task_id", ["progress", "retry", "unknown"])
    def test_times_out(self, result: Any, task_id: str) -> None:
        with pytest.raises(AsyncResult.TimeoutError):
            result(task_id).get(timeout=0.01)

    def test_callback(self, result: Any) -> None:
        seen: list[Any] = []
        result("ok").get(callback=lambda *args: seen.append(args))
        assert seen == [("ok", {"a": 1})]

    def test_on_message_needs_a_backend_that_pushes(self, result: Any) -> None:
        with pytest.raises(ImproperlyConfigured, match="on_message"):
            result("ok").get(on_message=print)

    def test_on_interval_is_called_while_waiting(self, result: Any) -> None:
        calls: list[int] = []
        with pytest.raises(TimeoutError):
            result("unknown").get(timeout=0.05, interval=0.01, on_interval=lambda: calls.append(1))
        assert len(calls) > 1

    def test_an_ignored_result_is_none_at_once(self, result: Any) -> None:
        one = result("unknown")
        one.ignored = True
        assert one.ignored
        assert one.get() is None

    def test_is_woken_by_the_thread_that_stores(self, result: Any, store: Any) -> None:
        waiting = threading.Event()

        def end() -> None:
            waiting.wait(PATIENCE_S)
            store.store_result("unknown", "done", "SUCCESS")

        thread = threading.Thread(target=end)
        thread.start()
        # An interval far longer than the test: only the change itself can have woken us.
        value = result("unknown").get(timeout=60, interval=30, on_interval=waiting.set)
        assert value == "done"
        thread.join()

    def test_a_failed_state_without_exception(self, result: Any, store: Any) -> None:
        store.store_result("odd", None, "FAILURE")
        with pytest.raises(Exception, match="odd ended in FAILURE without an exception"):
            result("odd").get()


class TestParents:
    def test_an_error_of_an_earlier_step_is_raised(self, result: Any) -> None:
        with pytest.raises(ValueError, match="boo"):
            result("ok", parent=result("bad")).get()
        with pytest.raises(ValueError, match="boo"):
            far = result("unknown", parent=result("unknown2", parent=result("bad")))
            far.get(timeout=PATIENCE_S)

    def test_unless_told_not_to_look(self, result: Any) -> None:
        child = result("ok", parent=result("bad"))
        assert child.get(follow_parents=False) == {"a": 1}
        assert result("ok", parent=result("bad")).get(propagate=False) == {"a": 1}
        assert result("ok", parent=result("unknown")).get() == {"a": 1}

    def test_is_noticed_while_waiting(self, result: Any, store: Any) -> None:
        child = result("unknown", parent=result("parent"))
        calls: list[int] = []

        def fail_parent() -> None:
            calls.append(1)
            store.mark_as_failure("parent", KeyError("late"))

        with pytest.raises(KeyError):
            child.get(timeout=PATIENCE_S, interval=0.01, on_interval=fail_parent)
        assert calls == [1]

    def test_are_forgotten_too(self, result: Any) -> None:
        result("ok", parent=result("retry")).forget()
        assert result("retry").state == "PENDING"


class TestRemoteTraceback:
    def make_failure(self, app: Any) -> None:
        try:
            raise ValueError("deep")
        except ValueError as exc:
            app.backend.mark_as_failure("tb", exc, traceback.format_exc())
        app.conf.task_remote_tracebacks = True

    def test_shows_the_workers_frames(self, app: Any) -> None:
        self.make_failure(app)
        with pytest.raises(ValueError, match="deep") as info:
            AsyncResult("tb", app=app).get()
        assert "make_failure" in [entry.name for entry in info.traceback]

    def test_names_the_extra_when_it_is_missing(
        self, app: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.make_failure(app)
        monkeypatch.setitem(sys.modules, "tblib", None)
        with pytest.raises(ImproperlyConfigured, match=r"taskq\[tblib\]") as info:
            AsyncResult("tb", app=app).get()
        assert isinstance(info.value.__cause__, ValueError)

    def test_a_text_that_is_no_traceback(self, result: Any, app: Any) -> None:
        app.conf.task_remote_tracebacks = True
        with pytest.raises(ValueError, match="boo"):
            result("bad").get()


class TestThen:
    def test_is_called_when_the_outcome_is_seen(self, result: Any, store: Any) -> None:
        seen: list[Any] = []
        one = result("unknown")
        one.then(seen.append)
        assert one.state == "PENDING"
        assert seen == []
        store.store_result("unknown", 1, "SUCCESS")
        one.get()
        assert seen == [one]

    def test_is_called_at_once_when_it_has_been_seen(self, result: Any) -> None:
        seen: list[Any] = []
        one = result("ok")
        one.get()
        one.then(seen.append)
        assert seen == [one]

    def test_throw_reaches_the_waiting(self, result: Any) -> None:
        seen: list[Any] = []
        one = result("unknown")
        one.then(print, on_error=seen.append)
        error = ValueError("x")
        with pytest.raises(ValueError, match="x"):
            one.throw(error)
        assert seen == [error]


class TestTree:
    @pytest.fixture
    def root(self, app: Any, result: Any, store: Any) -> Any:
        store.store_result("leaf", 7, "SUCCESS")
        request = Context(id="root")
        group = GroupResult("group", [result("ok"), result("leaf")], app=app)
        request.children.extend([result("ok"), group])
        store.store_result("root", 1, "SUCCESS", request=request)
        return result("root")

    def test_children(self, root: Any) -> None:
        assert [child.id for child in root.children] == ["ok", "group"]

    def test_children_of_a_task_that_still_runs(self, result: Any, store: Any) -> None:
        request = Context(id="retry")
        request.children.append(result("ok"))
        store.store_result("retry", ValueError(), "RETRY", request=request)
        assert result("retry").children == [result("ok")]

    def test_collect(self, root: Any) -> None:
        collected = [(node.id, value) for node, value in root.collect()]
        assert collected == [
            ("root", 1),
            ("ok", {"a": 1}),
            ("group", [{"a": 1}, 7]),
            ("ok", {"a": 1}),
            ("leaf", 7),
        ]

    def test_iterdeps(self, root: Any) -> None:
        pairs = [(parent and parent.id, node.id) for parent, node in root.iterdeps()]
        assert pairs == [
            (None, "root"),
            ("root", "ok"),
            ("root", "group"),
            ("group", "ok"),
            ("group", "leaf"),
        ]

    def test_incomplete(self, result: Any) -> None:
        with pytest.raises(IncompleteStream):
            list(result("progress").iterdeps())
        assert len(list(result("progress").iterdeps(intermediate=True))) == 1

    def test_leaf(self, root: Any) -> None:
        assert root.get_leaf() == 7

    def test_graph(self, root: Any, tmp_path: Any) -> None:
        drawing = tmp_path / "graph.dot"
        with drawing.open("w") as fh:
            root.graph.to_dot(fh)
        assert '"root" -> "group"' in drawing.read_text()
        assert root.graph is root.graph


class TestAsValue:
    def test_equality(self, result: Any) -> None:
        assert result("ok") == result("ok") == "ok"
        assert result("ok") != result("bad")
        assert result("ok") != 5
        assert {result("ok"): 1}[result("ok")] == 1
        assert (str(result("ok")), repr(result("ok"))) == ("ok", "<AsyncResult: ok>")

    def test_tuples(self, app: Any, result: Any) -> None:
        child = result("c", parent=result("p", parent=result("g")))
        assert child.as_tuple() == (("c", (("p", (("g", None), None)), None)), None)
        assert child.as_list() == ["c", "p", "g"]
        back = result_from_tuple(child.as_tuple(), app=app)
        assert (back, back.parent, back.parent.parent) == (child, "p", "g")

    def test_tuples_of_groups(self, app: Any, result: Any) -> None:
        group = GroupResult("g", [result("a"), result("b")], app=app, parent=result("p"))
        back = result_from_tuple(group.as_tuple(), app=app)
        assert back == group
        assert isinstance(back, GroupResult)
        empty = result_from_tuple([["x", None], []], app=app)
        assert isinstance(empty, GroupResult)
        assert result_from_tuple(group) is group

    @pytest.mark.parametrize("nonsense", ["x", ["x"], [[None, None], None]])
    def test_no_tuple(self, app: Any, nonsense: Any) -> None:
        with pytest.raises(ValueError):
            result_from_tuple(nonsense, app=app)

    def test_copies_and_pickles(self, app: Any, result: Any) -> None:
        app.set_current()
        one = result("ok", parent=result("p"))
        for other in (copy.copy(one), pickle.loads(pickle.dumps(one))):
            assert (other, other.parent) == (one, "p")
            assert other.get(follow_parents=False) == {"a": 1}

    def test_task_id_is_the_id(self, result: Any) -> None:
        one = result("ok")
        one.task_id = "bad"
        assert (one.id, one.task_id) == ("bad", "bad")


class RecordingControl:
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        self.calls.append((args, kwargs))

    revoke_by_stamped_headers = revoke


def test_revoke(app: Any, result: Any) -> None:
    app.control = control = RecordingControl()
    result("x").revoke(terminate=True, signal="KILL", wait=True, timeout=3)
    result("x").revoke_by_stamped_headers({"customer": "1"})
    assert control.calls == [
        (
            ("x",),
            {
                "connection": None,
                "terminate": True,
                "signal": "KILL",
                "reply": True,
                "timeout": 3,
            },
        ),
        (
            ({"customer": "1"},),
            {
                "connection": None,
                "terminate": False,
                "signal": None,
                "reply": False,
                "timeout": None,
            },
        ),
    ]


class TestInsideATask:
    @pytest.fixture(autouse=True)
    def inside(self) -> Any:
        _set_task_join_will_block(True)
        yield
        _set_task_join_will_block(False)

    def test_waiting_is_refused(self, app: Any, result: Any) -> None:
        for wait in (
            result("ok").get,
            EagerResult("e", 1, "SUCCESS").get,
            GroupResult("g", [result("ok")], app=app).get,
            GroupResult("g", [result("ok")], app=app).join,
            GroupResult("g", [result("ok")], app=app).join_native,
        ):
            with pytest.raises(RuntimeError, match=r"Never call result.get\(\) within a task"):
                wait()
        assert result("ok").state == "SUCCESS"

    def test_unless_asked_for(self, app: Any, result: Any) -> None:
        assert result("ok").get(disable_sync_subtasks=False) == {"a": 1}
        group = GroupResult("g", [result("ok")], app=app)
        assert group.get(disable_sync_subtasks=False) == [{"a": 1}]

    def test_or_allowed(self, result: Any) -> None:
        with allow_join_result():
            assert result("ok").get() == {"a": 1}
            with denied_join_result(), pytest.raises(RuntimeError):
                result("ok").get()
            assert_will_not_block()
        with pytest.raises(RuntimeError):
            assert_will_not_block()

    def test_the_guard_is_put_back_after_an_error(self) -> None:
        with pytest.raises(KeyError), allow_join_result():
            raise KeyError
        with pytest.raises(RuntimeError):
            assert_will_not_block()

    def test_other_threads_are_free(self, result: Any) -> None:
        seen: list[Any] = []
        thread = threading.Thread(target=lambda: seen.append(result("ok").get()))
        thread.start()
        thread.join()
        assert seen == [{"a": 1}]


class TestEagerResult:
    def test_success(self) -> None:
        one = EagerResult("i", 3, "SUCCESS", name="shop.buy")
        assert (one.get(), one.wait(), one.result, one.info) == (3, 3, 3, 3)
        assert (one.state, one.ready(), one.successful(), one.failed()) == (
            "SUCCESS",
            True,
            True,
            False,
        )
        assert (one.id, one.name, one.children, one.traceback) == ("i", "shop.buy", None, None)
        assert (one.exists(), one.supports_native_join, one.ignored) == (True, False, False)
        assert repr(one) == "<EagerResult: i>"
        one.forget()
        assert list(one.collect()) == [(one, 3)]

    def test_failure(self) -> None:
        one = EagerResult("i", ValueError("x"), "FAILURE", traceback="tb")
        with pytest.raises(ValueError, match="x"):
            one.get()
        with pytest.raises(ValueError, match="x"):
            one.maybe_throw()
        assert isinstance(one.get(propagate=False), ValueError)
        assert one.traceback == "tb"

    def test_something_that_is_no_exception(self) -> None:
        with pytest.raises(Exception, match="text"):
            EagerResult("i", "text", "FAILURE").get()

    def test_retry_has_no_value(self) -> None:
        assert EagerResult("i", ValueError(), "RETRY").get() is None

    def test_revoke(self) -> None:
        one = EagerResult("i", 3, "SUCCESS")
        one.revoke()
        assert one.state == "REVOKED"
        with pytest.raises(TaskRevokedError):
            one.get()

    def test_then(self) -> None:
        seen: list[Any] = []
        one = EagerResult("i", 3, "SUCCESS")
        one.then(seen.append)
        assert seen == [one]

    def test_copies_and_pickles(self) -> None:
        one = EagerResult("i", 3, "SUCCESS", None, "name")
        for other in (copy.copy(one), pickle.loads(pickle.dumps(one))):
            assert (other.id, other.get(), other.name) == ("i", 3, "name")


def test_the_calls_of_making_a_result_are_few(app: Any) -> None:
    """AsyncResult is on the way of every delay()."""
    app.backend  # made
    calls: list[str] = []

    def count(frame: Any, event: str, arg: Any) -> None:
        if event == "call" and "taskq" in frame.f_code.co_filename:
            calls.append(frame.f_code.co_qualname if hasattr(frame.f_code, "co_qualname") else "")

    backend = app.backend
    sys.setprofile(count)
    try:
        AsyncResult("x", backend=backend, app=app)
    finally:
        sys.setprofile(None)
    assert len(calls) <= 4, calls
