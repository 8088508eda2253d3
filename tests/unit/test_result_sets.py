"""Reading many outcomes at once."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from patience import PATIENCE_S

from taskq import Celery
from taskq.backends.memory import MemoryBackend, MemoryStore
from taskq.exceptions import ImproperlyConfigured, TimeoutError
from taskq.result import AsyncResult, EagerResult, GroupResult, ResultSet


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(MemoryBackend, "store", MemoryStore())
    app = Celery("sets", backend="memory://", set_as_current=False)
    app.backend.store_result("a", 1, "SUCCESS")
    app.backend.store_result("b", 2, "SUCCESS")
    app.backend.store_result("bad", ValueError("boo"), "FAILURE")
    app.backend.store_result("runs", None, "STARTED")
    return app


@pytest.fixture
def results(app: Any) -> Any:
    return lambda *ids: ResultSet([AsyncResult(i, app=app) for i in ids], app=app)


@pytest.fixture
def group(app: Any) -> Any:
    return lambda id, *ids, **kwargs: GroupResult(
        id, [AsyncResult(i, app=app) for i in ids], app=app, **kwargs
    )


class TestCollection:
    def test_is_a_list_without_doubles(self, app: Any, results: Any) -> None:
        some = results("a", "b")
        some.add(AsyncResult("a", app=app))
        some.update([AsyncResult("b", app=app), AsyncResult("c", app=app)])
        assert [r.id for r in some] == ["a", "b", "c"]
        assert (len(some), some[0]) == (3, "a")
        some.discard("b")
        some.discard("nobody")
        some.remove(AsyncResult("a", app=app))
        assert repr(some) == "<ResultSet: [c]>"
        with pytest.raises(KeyError):
            some.remove("nobody")
        some.clear()
        assert len(some) == 0

    def test_equality(self, results: Any) -> None:
        assert results("a", "b") == results("a", "b") != results("b", "a")
        assert results("a") != 3
        with pytest.raises(TypeError):
            hash(results("a"))

    def test_an_empty_one(self, results: Any) -> None:
        none = results()
        assert (none.get(), none.join(), none.join_native()) == ([], [], [])
        assert (none.ready(), none.successful(), none.failed()) == (True, True, False)
        assert none.supports_native_join is None
        assert ResultSet([]).app is not None


@pytest.mark.parametrize("how", ["get", "join", "join_native"])
class TestJoining:
    def test_values_in_order(self, results: Any, how: str) -> None:
        assert getattr(results("b", "a"), how)(timeout=PATIENCE_S) == [2, 1]

    def test_an_error_is_raised(self, results: Any, how: str) -> None:
        with pytest.raises(ValueError, match="boo"):
            getattr(results("a", "bad"), how)(timeout=PATIENCE_S)

    def test_or_given(self, results: Any, how: str) -> None:
        values = getattr(results("a", "bad"), how)(timeout=1, propagate=False)
        assert values[0] == 1
        assert isinstance(values[1], ValueError)

    def test_callback(self, results: Any, how: str) -> None:
        seen: dict[str, Any] = {}
        rest = getattr(results("a", "b"), how)(callback=seen.__setitem__)
        assert seen == {"a": 1, "b": 2}
        assert not rest

    def test_timeout(self, results: Any, how: str) -> None:
        with pytest.raises(TimeoutError):
            getattr(results("a", "runs"), how)(timeout=0.02, interval=0.01)
        assert getattr(results("a"), how)(timeout=0) == [1]

    def test_groups_in_groups(self, app: Any, group: Any, how: str) -> None:
        outer = GroupResult("o", [group("i", "a", "b"), AsyncResult("a", app=app)], app=app)
        assert getattr(outer, how)(timeout=PATIENCE_S) == [[1, 2], 1]
        stuck = GroupResult("o", [group("i", "runs")], app=app)
        with pytest.raises(TimeoutError):
            getattr(stuck, how)(timeout=0.02)

    def test_eager_members(self, app: Any, how: str) -> None:
        mixed = [EagerResult("e", 9, "SUCCESS"), AsyncResult("a", app=app)]
        assert getattr(GroupResult("g", mixed, app=app), how)(timeout=PATIENCE_S) == [9, 1]


def test_on_message_needs_a_native_join(results: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="on_message"):
        results("a").join(on_message=print)
    seen: list[Any] = []
    results("a").join_native(on_message=seen.append)
    assert [meta["task_id"] for meta in seen] == ["a"]


def test_looking(results: Any) -> None:
    some = results("a", "bad", "runs")
    assert (some.ready(), some.successful(), some.failed(), some.waiting()) == (
        False,
        False,
        True,
        True,
    )
    assert some.completed_count() == 1
    with pytest.raises(ValueError, match="boo"):
        some.maybe_throw()
    some.maybe_throw(propagate=False)


def test_then(app: Any, results: Any) -> None:
    seen: list[Any] = []
    some = results("a", "runs")
    some.then(seen.append)
    some[0].get()
    assert seen == []
    app.backend.store_result("runs", 3, "SUCCESS")
    some[1].get()
    assert seen == [some]
    nothing = results()
    nothing.then(seen.append)
    assert seen[-1] is nothing


def test_then_waits_for_what_is_added_later(app: Any, results: Any) -> None:
    seen: list[Any] = []
    some = results("runs")
    some.then(seen.append)
    some.add(AsyncResult("late", app=app))
    app.backend.store_result("runs", 3, "SUCCESS")
    some[0].get()
    assert seen == []
    app.backend.store_result("late", 4, "SUCCESS")
    some[1].get()
    assert seen == [some]


def test_forget(app: Any, results: Any) -> None:
    results("a", "b").forget()
    assert app.backend.get_state("a") == app.backend.get_state("b") == "PENDING"


def test_revoke_reaches_groups_in_groups(app: Any, group: Any) -> None:
    calls: list[Any] = []

    class Control:
        def revoke(self, ids: Any, **kwargs: Any) -> None:
            calls.append((ids, kwargs["terminate"]))

    app.control = Control()
    GroupResult("o", [group("i", "a", "b"), AsyncResult("c", app=app)], app=app).revoke(
        terminate=True
    )
    assert calls == [(["a", "b", "c"], True)]


class TestGroupResult:
    def test_as_a_value(self, app: Any, group: Any) -> None:
        one = group("g", "a", "b", parent=AsyncResult("p", app=app))
        assert (str(one), repr(one)) == ("g", "<GroupResult: g [a, b]>")
        assert one.as_tuple() == (
            ("g", (("p", None), None)),
            [(("a", None), None), (("b", None), None)],
        )
        assert one.as_list() == ["g", "p"]
        assert one == group("g", "a", "b", parent=AsyncResult("p", app=app)) == "g"
        assert one != group("g", "a", "b")
        assert one != group("h", "a", "b", parent=AsyncResult("p", app=app))
        assert hash(one) == hash("g")
        assert one.children == one.results

    def test_an_empty_group_is_true(self, group: Any) -> None:
        assert group("g")
        assert not GroupResult()

    def test_copies_and_pickles(self, app: Any, group: Any) -> None:
        app.set_current()
        one = group("g", "a", "b")
        for other in (copy.copy(one), pickle.loads(pickle.dumps(one))):
            assert other == one
            assert other.get(timeout=PATIENCE_S) == [1, 2]

    def test_of_the_app(self, app: Any) -> None:
        one = app.GroupResult("g", [app.AsyncResult("a")])
        one.save()
        assert app.GroupResult.restore("g") == one
        assert one.get(timeout=PATIENCE_S) == [1]
