"""The task decorator in all its forms, and finalisation."""

from __future__ import annotations

import functools
import sys
import threading
import types
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from taskq import _state
from taskq.app import shared_task
from taskq.app.base import Celery
from taskq.app.task import Task
from taskq.exceptions import DuplicateTaskNameWarning
from taskq.utils.proxy import PromiseProxy, maybe_evaluate


@pytest.fixture(autouse=True)
def no_shared_tasks_left_behind() -> Iterator[None]:
    before, current = dict(_state._on_app_finalizers), _state._current_app.get()
    yield
    _state._current_app.set(current)
    _state._on_app_finalizers.clear()
    _state._on_app_finalizers.update(before)


def make_app(main: str | None = "proj", **kwargs: Any) -> Celery:
    kwargs.setdefault("set_as_current", False)
    return Celery(main, broker="memory://", backend="memory://", **kwargs)


def plain(x: int, y: int = 2) -> int:
    """Adds."""
    return x + y


def test_decorator_without_parentheses() -> None:
    app = make_app()
    task = app.task(plain)
    assert task(1) == 3
    assert task.name == f"{__name__}.plain"
    assert app.tasks[task.name].__doc__ == "Adds."
    assert task.__wrapped__ is plain


def test_decorator_with_options_sets_attributes() -> None:
    task = make_app().task(name="other", max_retries=9, custom="yes")(plain)
    assert (task.name, task.max_retries, task.custom) == ("other", 9, "yes")


@pytest.mark.parametrize("bad", [1, "text", None])
def test_what_is_not_callable_is_a_type_error(bad: Any) -> None:
    app = make_app()
    with pytest.raises(TypeError, match="must be a callable"):
        app.task(bad)
    with pytest.raises(TypeError, match="must be a callable"):
        app.task(name="x")(bad)
    with pytest.raises(TypeError, match=r"takes exactly 1 argument \(2 given\)"):
        app.task(plain, plain)


def test_a_callable_without_a_name_needs_one() -> None:
    app = make_app()
    with pytest.raises(TypeError, match="pass name="):
        app.task(lambda: None)
    with pytest.raises(TypeError, match="pass name="):
        app.task(functools.partial(plain, 1))
    assert app.task(functools.partial(plain, 1), name="partial")() == 3
    app.finalize()


def test_tasks_are_lazy_until_used() -> None:
    app = make_app()
    task = app.task(plain)
    assert isinstance(task, PromiseProxy)
    assert not task.__evaluated__()
    assert not app.configured
    assert repr(task).startswith(f"<@task: {__name__}.plain of proj at 0x")
    assert task.__evaluated__()


def test_finalize_makes_all_lazy_tasks_and_signals() -> None:
    app = make_app()
    seen: list[Any] = []
    app.on_after_finalize.connect(lambda sender, **_: seen.append(sender), weak=False)
    task = app.task(plain)
    app.finalize()
    app.finalize()
    assert task.__evaluated__()
    assert seen == [app]
    assert type(app.task(name="late")(plain)) is not PromiseProxy


def test_lazy_false_makes_the_task_at_once() -> None:
    task = make_app().task(lazy=False)(plain)
    assert isinstance(task, Task)


def test_without_autofinalize_use_before_finalize_is_an_error() -> None:
    app = make_app(autofinalize=False)
    task = app.task(plain)
    with pytest.raises(RuntimeError, match="not finalized"):
        _ = task.name
    with pytest.raises(RuntimeError, match="not finalized"):
        _ = app.tasks
    app.finalize()
    assert task.name == f"{__name__}.plain"


def test_bind_and_base() -> None:
    class Counting(Task):
        calls = 0

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            type(self).calls += 1
            return super().__call__(*args, **kwargs)

    app = make_app()

    @app.task(bind=True, base=Counting)
    def me(self: Any, x: int) -> Any:
        return self, x

    task = app.tasks[me.name]
    assert isinstance(task, Counting)
    assert me(3) == (task, 3)
    assert type(task).calls == 1


def test_a_base_that_is_no_class() -> None:
    app = Celery(set_as_current=False)
    app.task(name="named", base="proj:Base")(lambda: None)
    with pytest.raises(TypeError, match=r"base of the task named must be a class, not 'proj:Base'"):
        app.finalize()


def test_main_module_is_named_after_the_app() -> None:
    app = make_app("proj")
    assert app.gen_task_name("add", "__main__") == "proj.add"
    assert app.gen_task_name("add", "mod") == "mod.add"


def test_overridden_gen_task_name_changes_names() -> None:
    class Shouting(Celery):
        def gen_task_name(self, name: str, module: str) -> str:
            return name.upper()

    app = Shouting("s", broker="memory://", set_as_current=False)
    assert app.task(plain).name == "PLAIN"


def test_the_first_of_two_callables_stays_and_a_warning_says_so() -> None:
    app = make_app()

    @app.task(name="same")
    def first() -> int:
        return 1

    @app.task(name="same")
    def second() -> int:
        return 2

    with pytest.warns(DuplicateTaskNameWarning, match=r"(?s)Existing: .*first.*New: .*second"):
        app.finalize()
    assert app.tasks["same"]() == 1
    assert second() == 1


def test_the_same_function_twice_is_no_duplicate() -> None:
    app = make_app()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert app.task(plain).name == app.task(plain).name


def test_register_task_names_class_based_tasks() -> None:
    class Job(Task):
        def run(self, x: int) -> int:
            return x * 2

    app = make_app()
    job = app.register_task(Job())
    assert job.name == f"{__name__}.Job"
    assert app.tasks[job.name] is job
    assert job.app is app
    assert job(2) == 4
    with pytest.warns(DuplicateTaskNameWarning, match="replaced the existing one"):
        app.register_task(Job)
    assert app.tasks[job.name] is not job


def test_a_task_of_one_app_is_shared_with_apps_finalised_later() -> None:
    app, other = make_app(), make_app()
    task = app.task(name="shared.one")(plain)
    app.task(name="private.one", shared=False)(lambda: None)
    assert task.app is app
    assert other.tasks["shared.one"].app is other
    assert "private.one" not in other.tasks


def test_shared_task_is_the_current_apps_also_on_finalised_apps() -> None:
    first, second = make_app("first"), make_app("second")
    first.finalize()

    @shared_task(name="everyones")
    def everyones(x: int) -> int:
        return x

    assert first.tasks["everyones"].app is first
    first.set_current()
    assert everyones.app is first
    second.set_current()
    assert everyones.app is second
    assert everyones(4) == 4
    assert repr(everyones).startswith("<@task: everyones of second")


def test_shared_task_twice_is_a_type_error() -> None:
    once = shared_task(plain)
    with pytest.raises(TypeError, match="more than once"):
        shared_task(once)
    with pytest.raises(TypeError, match="pass name="):
        shared_task(lambda: None)
    with pytest.raises(TypeError):
        shared_task(plain, plain)


def test_task_cls_and_app_task_change_the_base_class() -> None:
    class Special(Task):
        special = True

    app = make_app(task_cls=Special)
    assert app.task(plain).special
    other = make_app()
    other.Task = Special
    assert other.task(plain).special


def test_autodiscover_waits_for_the_import_of_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    package = types.ModuleType("discovered")
    package.__path__ = []
    tasks = types.ModuleType("discovered.tasks")
    monkeypatch.setitem(sys.modules, "discovered", package)
    monkeypatch.setitem(sys.modules, "discovered.tasks", tasks)
    app = make_app()
    app.autodiscover_tasks(lambda: ["no_such_package_here"])
    app.autodiscover_tasks(["discovered"], force=True)
    with pytest.raises(ModuleNotFoundError, match="no_such_package_here"):
        app.loader.import_default_modules()


def test_threads_that_use_a_lazy_task_at_once_get_the_same_one() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(30):
            app = make_app("threads")
            lazy = app.task(name="lazy", shared=False)(len)
            together = threading.Barrier(4)
            found: list[Any] = []

            def use(number: int, app=app, lazy=lazy, together=together, found=found) -> None:
                together.wait()
                found.append(lazy.app.tasks["lazy"] if number % 2 else maybe_evaluate(lazy))

            threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(found) == 4
            assert len(set(map(id, found))) == 1
    finally:
        sys.setswitchinterval(interval)
