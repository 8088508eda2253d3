"""Which methods somebody has put in place of the stock ones: the tracer calls only those.

The stock ones do nothing, and a run makes no call to find that out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ("own_hook", "own_method", "task_has_custom")

#: Home of the class Task: above us, so known by name.
TASK_MODULE = "taskq.app.task"


def task_has_custom(task: Any, attr: str) -> Any:
    """The class that defines `attr` for this task in place of `Task`'s own, or None.

    A method of `Task` itself that somebody has replaced counts too, and so does one that was set
    on the task object.
    """
    if attr in getattr(task, "__dict__", ()):
        return task.__class__
    for owner in task.__class__.__mro__:
        defined = owner.__dict__.get(attr)
        if defined is not None and owner is not object:
            is_stock = getattr(defined, "__module__", None) == owner.__module__ == TASK_MODULE
            return None if is_stock else owner
    return None


def own_hook(task: Any, name: str) -> Callable[..., Any] | None:
    """The hook of the task, or None if it is the stock one."""
    return getattr(task, name) if task_has_custom(task, name) else None


def own_method(obj: Any, name: str, stock: type) -> Callable[..., Any] | None:
    """The method `name` of `obj`, or None if it is the one that `stock` defines."""
    method: Any = getattr(obj, name, None)
    function = getattr(method, "__func__", method)
    return None if function is getattr(stock, name) else method
