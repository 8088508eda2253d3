"""This package is the application: what client code holds, and what a worker serves."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, overload

from taskq import _state
from taskq._state import app_or_default, pop_current_task, push_current_task
from taskq.app import builtins as builtins  # registers the celery.* tasks
from taskq.app.base import App, Celery
from taskq.app.pickling import AppPickler
from taskq.app.registration import _check_can_be_named
from taskq.app.task import Task
from taskq.utils.proxy import Proxy

if TYPE_CHECKING:
    from taskq.app.decorators import AsyncTask, BoundDecorator, Decorator

__all__ = [
    "App",
    "AppPickler",
    "Celery",
    "app_or_default",
    "bugreport",
    "default_app",
    "pop_current_task",
    "push_current_task",
    "shared_task",
]

P = ParamSpec("P")
R = TypeVar("R")


def _make_default_app() -> Celery:
    """The application of a process that uses tasks without making one."""
    loader = os.environ.get("TASKQ_LOADER") or os.environ.get("CELERY_LOADER") or "default"
    return Celery("default", fixups=(), set_as_current=False, loader=loader)


_state.set_default_app_factory(_make_default_app)

#: The application all threads fall back to; made on first use.
default_app: Any = Proxy(lambda: _state.default_app or _make_and_keep_default_app())


def _make_and_keep_default_app() -> Celery:
    app = _make_default_app()
    _state.set_default_app(app)
    return app


@overload
def shared_task(
    fun: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]],
    /,
    *,
    bind: Literal[True],
    **kwargs: Any,
) -> AsyncTask[P, R]: ...
@overload
def shared_task(
    fun: Callable[Concatenate[Any, P], R], /, *, bind: Literal[True], **kwargs: Any
) -> Task[P, R]: ...
@overload
def shared_task(
    fun: Callable[P, Coroutine[Any, Any, R]], /, *, bind: Literal[False] = ..., **kwargs: Any
) -> AsyncTask[P, R]: ...
@overload
def shared_task(
    fun: Callable[P, R], /, *, bind: Literal[False] = ..., **kwargs: Any
) -> Task[P, R]: ...
@overload
def shared_task(*, bind: Literal[True], **kwargs: Any) -> BoundDecorator: ...
@overload
def shared_task(*, bind: Literal[False] = ..., **kwargs: Any) -> Decorator: ...
def shared_task(*args: Any, **kwargs: Any) -> Any:
    """Make a task of a function for every application: `@shared_task`, with options or without.

    For reusable code that has no application to import. What it gives is the task of the
    application that is current when it is used.

    Raises:
        TypeError: the function is a shared task already.
    """
    if len(args) == 1 and callable(args[0]):
        return _share(args[0], {})
    if args:
        raise TypeError("@shared_task takes a function, or options by keyword")
    return lambda fun: _share(fun, kwargs)


def _share(fun: Any, options: dict[str, Any]) -> Any:
    if isinstance(fun, Proxy):
        raise TypeError(
            "@shared_task was applied more than once to the same function. Remove the extra"
            " @shared_task decorator."
        )
    name = options.get("name")
    if not name:
        _check_can_be_named(fun)
    _state.connect_on_app_finalize(lambda app: app._task_from_fun(fun, **options))
    for app in _state._get_active_apps():
        if app.finalized:
            with app._finalize_mutex:
                app._task_from_fun(fun, **options)

    def task_of_current_app() -> Any:
        app = _state.get_current_app()
        return app.tasks[name or app.gen_task_name(fun.__name__, fun.__module__)]

    return Proxy(task_of_current_app)


def bugreport(app: App | None = None) -> str:
    """Versions, platform and settings, for a report of a problem; secrets are masked."""
    return app_or_default(app).bugreport()  # type: ignore[no-any-return]  # an App
