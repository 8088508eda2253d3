"""The registry of tasks."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from taskq.app.base import Celery
from taskq.app.registry import TaskRegistry
from taskq.exceptions import InvalidTaskError, NotRegistered


@pytest.fixture
def app() -> Iterator[Celery]:
    with Celery("reg", broker="memory://", backend="memory://", set_as_current=False) as app:
        yield app


def test_maps_names_to_tasks_and_has_the_builtin_ones(app: Celery) -> None:
    task = app.task(lambda x: x, name="echo", shared=False)
    assert app.tasks["echo"] is app.tasks[task.name]
    assert "celery.backend_cleanup" in app.tasks


def test_unknown_name_raises_not_registered_which_is_a_key_error(app: Celery) -> None:
    with pytest.raises(NotRegistered) as caught:
        app.tasks["nobody.knows"]
    assert caught.value.args == ("nobody.knows",)
    assert isinstance(caught.value, KeyError)
    assert TaskRegistry.NotRegistered is NotRegistered


def test_unknown_name_names_the_closest_one(app: Celery) -> None:
    app.task(lambda: None, name="proj.tasks.send_mail", shared=False)
    with pytest.raises(NotRegistered) as caught:
        app.tasks["proj.tasks.send_mial"]
    assert caught.value.__notes__ == ["did you mean 'proj.tasks.send_mail'?"]


def test_get_of_an_unknown_name_is_none(app: Celery) -> None:
    assert app.tasks.get("nobody.knows") is None


def test_register_takes_instances_and_classes_and_wants_a_name(app: Celery) -> None:
    class Named(app.Task):
        name = "named"

    class Nameless(app.Task):
        pass

    registry = TaskRegistry()
    registry.register(Named)
    assert isinstance(registry["named"], Named)
    with pytest.raises(InvalidTaskError, match="Nameless"):
        registry.register(Nameless())


def test_unregister_by_name_or_task(app: Celery) -> None:
    app.task(lambda: None, name="one", shared=False)
    two = app.task(lambda: None, name="two", shared=False)
    app.tasks.unregister("one")
    app.tasks.unregister(two)
    assert "one" not in app.tasks
    assert "two" not in app.tasks
    with pytest.raises(NotRegistered):
        app.tasks.unregister("one")


def test_filter_types(app: Celery) -> None:
    app.task(lambda: None, name="every", type="periodic", shared=False)
    assert list(app.tasks.periodic()) == ["every"]
    assert "every" not in app.tasks.regular()


def test_a_task_pickles_as_its_name(app: Celery) -> None:
    app.task(lambda: None, name="pickled", shared=False)
    app.set_current()
    task = app.tasks["pickled"]
    assert pickle.loads(pickle.dumps(task)) is task
