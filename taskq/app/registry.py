"""This file holds the tasks of an application by name, where caller and worker look them up."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from taskq._state import get_current_app
from taskq.app.retry import add_autoretry_behaviour
from taskq.exceptions import InvalidTaskError, NotRegistered
from taskq.utils.imports import home_module
from taskq.utils.text import closest

if TYPE_CHECKING:
    from taskq.app.task import Task

__all__ = ["TaskRegistry"]


class TaskRegistry(dict[str, "Task[..., Any]"]):
    """Maps task names to task objects."""

    NotRegistered = NotRegistered

    def __missing__(self, key: str) -> NoReturn:
        # The name stays the only argument: workers and callers of Celery read `exc.args[0]`.
        raise _with_note(NotRegistered(key), self._hint(key))

    def register(self, task: Any) -> None:
        """Add a task, or an instance of a task class, under its `name`.

        Raises:
            InvalidTaskError: the task has no name.
        """
        if task.name is None:
            raise InvalidTaskError(
                f"Task class {type(task).__name__!r} must specify .name attribute;"
                " app.register_task() generates one"
            )
        instance: Any = task() if inspect.isclass(task) else task
        add_autoretry_behaviour(instance)
        self[task.name] = instance

    def unregister(self, name: Any) -> None:
        """Remove a task, given by name or as the task itself.

        Raises:
            NotRegistered: there is no such task.
        """
        name = getattr(name, "name", name)
        if name not in self:
            raise _with_note(NotRegistered(name), self._hint(name))
        del self[name]

    def regular(self) -> dict[str, Task[..., Any]]:
        """All tasks that are not of type "periodic"."""
        return self.filter_types("regular")

    def periodic(self) -> dict[str, Task[..., Any]]:
        """All tasks of type "periodic"."""
        return self.filter_types("periodic")

    def filter_types(self, type: str) -> dict[str, Task[..., Any]]:
        """All tasks whose `type` attribute, by default "regular", is the one given."""
        return {name: task for name, task in self.items() if _type_of(task) == type}

    def _hint(self, name: str) -> str | None:
        known = closest(str(name), dict.keys(self))
        return f"did you mean {known!r}?" if known else None


def _type_of(task: Any) -> str:
    kind: str = getattr(task, "type", "regular")
    return kind


def _with_note(error: NotRegistered, note: str | None) -> NotRegistered:
    if note:
        # What add_note() of Python 3.11 does; there the traceback shows it.
        setattr(error, "__notes__", [note])
    return error


def _unpickle_task(name: str) -> Task[..., Any]:
    task: Task[..., Any] = get_current_app().tasks[name]
    return task


def _unpickle_task_v2(name: str, module: str | None = None) -> Task[..., Any]:
    if module:
        import_module(home_module(module))
    return _unpickle_task(name)
