"""What a backend sets off when a run has ended."""

from __future__ import annotations

from typing import Any

import pytest
from patience import PATIENCE_S

from taskq import Celery
from taskq.backends.base import BaseBackend
from taskq.backends.memory import MemoryBackend, MemoryStore
from taskq.canvas import chain, group, signature
from taskq.context import Context


@pytest.fixture
def calls() -> list[Any]:
    return []


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, calls: list[Any]) -> Any:
    monkeypatch.setattr(MemoryBackend, "store", MemoryStore())
    app = Celery("marking", backend="memory://", broker="memory://", set_as_current=False)
    # What is sent as a task runs at once.
    app.conf.update(task_always_eager=True, task_store_eager_result=True)

    @app.task(shared=False, name="takes_error")
    def takes_error(request: Any, exc: Any, traceback: Any) -> None:
        calls.append(("takes_error", request.id, repr(exc), traceback))

    @app.task(shared=False, name="takes_id")
    def takes_id(uuid: str) -> None:
        calls.append(("takes_id", uuid))

    @app.task(shared=False, name="bound", bind=True)
    def bound(self: Any, uuid: str) -> None:
        calls.append(("bound", uuid))

    @app.task(shared=False, name="takes_any")
    def takes_any(*args: Any) -> None:
        calls.append(("takes_any", len(args)))

    @app.task(shared=False, name="takes_two")
    def takes_two(uuid: str, note: str = "") -> None:
        calls.append(("takes_two", uuid, note))

    @app.task(shared=False, name="takes_nothing")
    def takes_nothing() -> None:
        calls.append(("takes_nothing",))

    @app.task(shared=False, name="breaks")
    def breaks(request: Any, exc: Any, traceback: Any) -> None:
        raise RuntimeError("the hook is broken")

    @app.task(shared=False, name="keyword")
    def keyword(request: Any, exc: Any, traceback: Any, note: str = "") -> None:
        calls.append(("keyword", note))

    app.finalize()
    return app


@pytest.fixture
def fail(app: Any) -> Any:
    def fail(*errbacks: Any, **fields: Any) -> None:
        request = Context(
            id="failed",
            root_id="root",
            errbacks=[dict(app.signature(errback)) for errback in errbacks],
            delivery_info={},
            **fields,
        )
        app.backend.mark_as_failure("failed", ValueError("x"), "tb", request)

    return fail


class TestErrbacks:
    def test_a_plain_function_is_called_with_the_error(
        self, app: Any, fail: Any, calls: Any
    ) -> None:
        fail(app.tasks["takes_error"].s())
        assert calls == [("takes_error", "failed", "ValueError('x')", "tb")]

    def test_others_are_sent_with_the_id(self, app: Any, fail: Any, calls: Any) -> None:
        fail(app.tasks["takes_id"].s(), app.tasks["bound"].s())
        assert calls == [("takes_id", "failed"), ("bound", "failed")]

    @pytest.mark.parametrize(
        ("name", "args", "kwargs", "call"),
        [
            ("takes_any", (), {}, ("takes_any", 3)),
            ("takes_two", ("note",), {}, ("takes_two", "failed", "note")),
            ("takes_two", (), {"note": "n"}, ("takes_two", "failed", "n")),
            ("keyword", (), {"note": "n"}, ("keyword", "n")),
        ],
    )
    def test_room_for_arguments_decides(
        self, app: Any, fail: Any, calls: Any, name: str, args: Any, kwargs: Any, call: Any
    ) -> None:
        fail(app.tasks[name].s(*args, **kwargs))
        assert calls == [call]

    def test_an_immutable_one_gets_nothing(self, app: Any, fail: Any, calls: Any) -> None:
        fail(app.tasks["takes_nothing"].si())
        assert calls == [("takes_nothing",)]

    def test_workflows(self, app: Any, fail: Any, calls: Any) -> None:
        takes_id, last = app.tasks["takes_id"], app.tasks["takes_nothing"]
        fail(group([takes_id.s(), takes_id.s()], app=app), chain(takes_id.s(), last.si()))
        assert calls == [("takes_id", "failed")] * 3 + [("takes_nothing",)]

    def test_a_broken_one_is_logged_and_the_others_run(
        self, app: Any, fail: Any, calls: Any, caplog: Any
    ) -> None:
        tasks = app.tasks
        app.conf.task_always_eager = False  # so that arguments are checked before sending
        fail(tasks["breaks"].s(), tasks["takes_nothing"].s(), tasks["takes_error"].s())
        assert [call[0] for call in calls] == ["takes_error"]
        assert "Errback 'breaks' raised an exception" in caplog.text
        assert "the hook is broken" in caplog.text
        assert "Errback 'takes_nothing' of task failed could not be sent" in caplog.text
        assert {record.name for record in caplog.records} >= {"celery.backends.base"}

    def test_an_unregistered_one_is_sent(self, app: Any, fail: Any) -> None:
        app.conf.task_always_eager = False
        with app.connection_for_write() as connection:
            queue = connection.SimpleQueue("celery")
            fail(signature("elsewhere.errback", args=("more",), app=app))
            message = queue.get(timeout=PATIENCE_S)
            message.ack()
            queue.close()
        assert message.headers["task"] == "elsewhere.errback"
        assert message.payload[0] == ["failed", "more"]
        assert (message.headers["parent_id"], message.headers["root_id"]) == ("failed", "root")

    def test_only_when_wanted(self, app: Any, calls: Any) -> None:
        request = Context(id="failed", errbacks=[dict(app.tasks["takes_error"].s())])
        backend = app.backend
        backend.mark_as_failure("failed", ValueError(), request=request, call_errbacks=False)
        backend.mark_as_revoked("failed", "why", request)
        backend.mark_as_retry("failed", ValueError(), "tb", request)
        assert calls == []
        backend.mark_as_failure("other", ValueError(), request=request, store_result=False)
        assert len(calls) == 1
        assert backend.get_state("other") == "PENDING"


def test_the_rest_of_a_chain_fails_too(app: Any) -> None:
    steps = [app.tasks["takes_id"].s().set(task_id=f"step{n}") for n in (2, 1)]
    request = Context(id="failed", chain=[dict(step) for step in steps])
    app.backend.mark_as_failure("failed", KeyError("x"), "tb", request)
    for task_id in ("failed", "step1", "step2"):
        meta = app.backend.get_task_meta(task_id)
        assert (meta["status"], repr(meta["result"])) == ("FAILURE", "KeyError('x')")
        assert meta["traceback"] == "tb"


def test_a_revoked_step_leaves_the_chain_alone(app: Any) -> None:
    step = app.tasks["takes_id"].s().set(task_id="next")
    app.backend.mark_as_revoked("gone", "why", Context(id="gone", chain=[dict(step)]))
    assert app.backend.get_state("next") == "PENDING"


class TestFailFromCurrentStack:
    def test_takes_the_exception_being_handled(self, app: Any) -> None:
        try:
            raise KeyError("in")
        except KeyError:
            info = app.backend.fail_from_current_stack("a")
        assert isinstance(app.backend.get_result("a"), KeyError)
        assert "raise KeyError" in app.backend.get_traceback("a")
        assert info.type is KeyError

    def test_or_another_in_its_place(self, app: Any) -> None:
        try:
            raise KeyError("in")
        except KeyError:
            app.backend.fail_from_current_stack("a", ValueError("out"))
        assert isinstance(app.backend.get_result("a"), ValueError)

    def test_needs_one(self, app: Any) -> None:
        with pytest.raises(RuntimeError, match="inside an except block"):
            app.backend.fail_from_current_stack("a")


class TestChords:
    def test_without_a_chord_nothing_happens(self, app: Any) -> None:
        backend = app.backend
        backend.ensure_chords_allowed()
        backend.set_chord_size("g", 3)
        backend.on_chord_part_return(Context(id="a", group="g"), "SUCCESS", 1)
        backend.mark_as_done("a", 1, Context(id="a", group="g"))
        assert backend.get_state("a") == "SUCCESS"

    def test_a_chord_says_that_it_is_not_possible(self, app: Any) -> None:
        backend = app.backend
        body = app.tasks["takes_id"].s()
        with pytest.raises(NotImplementedError, match="Chords are not part"):
            backend.apply_chord(("g", []), body)
        with pytest.raises(NotImplementedError, match="Chords are not part"):
            backend.fallback_chord_unlock(None, body)
        with pytest.raises(NotImplementedError, match="Chords are not part"):
            backend.mark_as_done("a", 1, Context(id="a", group="g", chord=dict(body)))
        # What the task has done is stored all the same.
        assert backend.get_state("a") == "SUCCESS"

    def test_a_backend_that_cannot_count_leaves_it_to_others(self, app: Any) -> None:
        BaseBackend(app).on_chord_part_return(Context(chord={"task": "x"}), "SUCCESS", 1)

    def test_a_failed_header_fails_the_body(self, app: Any, calls: Any) -> None:
        body = app.tasks["takes_id"].s().set(task_id="body")
        body.link_error(app.tasks["takes_error"].s())
        try:
            raise KeyError("part")
        except KeyError as exc:
            app.backend.chord_error_from_stack(body, exc)
        assert isinstance(app.backend.get_result("body"), KeyError)
        assert calls == [("takes_error", "body", "KeyError('part')", None)]
