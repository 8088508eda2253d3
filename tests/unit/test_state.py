"""What is current belongs to one thread, with a fallback for threads that chose nothing."""

from __future__ import annotations

import contextvars
import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from taskq import _state


class App:
    """Stands for an app: this module only hands them on."""


class Task:
    def __init__(self, called_directly: bool) -> None:
        self.request = type("Request", (), {"called_directly": called_directly})


@pytest.fixture(autouse=True)
def nothing_current() -> Iterator[None]:
    before = (_state.default_app, _state._latest_app, _state._make_default_app)
    token = _state._current_app.set(None)
    _state.default_app = _state._latest_app = _state._make_default_app = None
    yield
    _state.default_app, _state._latest_app, _state._make_default_app = before
    _state._current_app.reset(token)


def in_thread(ask: Any) -> Any:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(ask()))
    thread.start()
    thread.join()
    return answers[0]


def test_without_any_app_the_registered_factory_makes_one_once() -> None:
    made: list[App] = []
    _state.set_default_app_factory(lambda: made.append(App()) or made[-1])
    assert _state.get_current_app() is _state.get_current_app() is made[0]
    assert _state.default_app is made[0]


def test_without_a_factory_the_default_app_is_found_by_name() -> None:
    assert _state.get_current_app().main == "default"
    assert _state.get_current_app() is _state.default_app


def test_threads_that_need_a_default_app_at_once_get_one() -> None:
    together = threading.Barrier(8)
    got: list[object] = []

    def ask() -> None:
        together.wait()
        got.append(_state.get_current_app())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8
    assert len(set(map(id, got))) == 1


def test_current_app_is_that_of_the_thread() -> None:
    mine, theirs, default = App(), App(), App()
    _state._set_current_app(mine)
    _state.set_default_app(default)
    assert _state.get_current_app() is mine
    assert in_thread(_state.get_current_app) is default
    assert (
        in_thread(lambda: (_state._set_current_app(theirs), _state.get_current_app())[1]) is theirs
    )
    assert _state.get_current_app() is mine
    assert _state.current_app._get_current_object() is mine


def test_a_thread_that_chose_nothing_means_the_latest_app() -> None:
    project = App()
    _state._set_current_app(project)
    assert in_thread(_state.get_current_app) is project
    _state._deregister_app(project)
    assert in_thread(_state.get_current_app).main == "default"


def test_app_or_default() -> None:
    current, other = App(), App()
    _state._set_current_app(current)
    assert _state.app_or_default() is current
    assert _state.app_or_default(other) is other


def test_active_apps_do_not_keep_apps_alive() -> None:
    app, closed = App(), App()
    _state._register_app(app)
    _state._register_app(closed)
    _state._deregister_app(closed)
    assert app in _state._get_active_apps()
    assert closed not in _state._get_active_apps()
    known = id(app)
    del app
    gc.collect()
    assert known not in {id(left) for left in _state._get_active_apps()}


def test_finalizers_hear_of_every_app_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_state, "_on_app_finalizers", {})
    heard: list[tuple[str, Any]] = []

    @_state.connect_on_app_finalize
    def first(app: Any) -> None:
        heard.append(("first", app))
        _state.connect_on_app_finalize(lambda app: heard.append(("late", app)))

    _state.connect_on_app_finalize(lambda app: heard.append(("second", app)))
    app = App()
    _state._announce_app_finalized(app)
    assert heard == [("first", app), ("second", app)]


def test_current_task_is_the_innermost_one() -> None:
    run, called = Task(called_directly=False), Task(called_directly=True)
    assert _state.get_current_task() is None
    assert not _state.current_task
    assert _state.get_current_worker_task() is None
    _state.push_current_task(run)
    _state.push_current_task(called)
    assert _state.get_current_task() is called
    assert _state.get_current_worker_task() is run
    assert in_thread(_state.get_current_task) is None
    assert _state.pop_current_task() is called
    assert _state.pop_current_task() is run
    assert _state.pop_current_task() is None


def test_join_will_block_holds_for_one_run_only() -> None:
    def run() -> bool:
        _state._set_task_join_will_block(True)
        return _state.task_join_will_block()

    assert contextvars.copy_context().run(run) is True
    assert _state.task_join_will_block() is False
