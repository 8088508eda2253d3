"""Which app, task and run is current: asked by everything above, importing nothing of it.

"Current" is kept in context variables, so threads, greenlets and asyncio tasks do not see each
other's. The application step registers how the default app is made (`set_default_app_factory`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextvars import ContextVar
from threading import RLock
from typing import Any

from taskq.utils.imports import symbol_by_name
from taskq.utils.proxy import Proxy
from taskq.utils.threads import LocalStack

__all__ = (
    "app_or_default",
    "connect_on_app_finalize",
    "current_app",
    "current_task",
    "default_app",
    "get_current_app",
    "get_current_task",
    "get_current_worker_task",
    "pop_current_task",
    "push_current_task",
    "set_default_app",
    "set_default_app_factory",
    "task_join_will_block",
)

# Apps are what users hold; their class is known further up only.
App = Any
Task = Any

#: What everybody falls back to who has no current app of their own.
default_app: App = None

_current_app: ContextVar[App] = ContextVar("taskq_current_app", default=None)
#: The app that became current last, in any thread: a thread that never chose one means this one.
_latest_app: App = None
_make_default_app: Callable[[], App] | None = None
_default_app_mutex = RLock()

#: All apps that have not been garbage collected or closed.
_apps: weakref.WeakSet[Any] = weakref.WeakSet()
#: In the order of registration: of two tasks with one name, the first stays in every app.
_on_app_finalizers: dict[Callable[[App], Any], None] = {}

_task_stack: LocalStack[Task] = LocalStack()
_join_will_block: ContextVar[bool] = ContextVar("taskq_join_will_block", default=False)


def set_default_app(app: App) -> None:
    """Make `app` the one of all threads that have no current app."""
    global default_app
    default_app = app


def set_default_app_factory(make: Callable[[], App]) -> None:
    """Register how the default app is made when one is needed and there is none."""
    global _make_default_app
    _make_default_app = make


def get_current_app() -> App:
    """The current app; without one, the default app, the latest app, or a new default app."""
    app = _current_app.get()
    return _fallback_app() if app is None else app


def _fallback_app() -> App:
    global default_app
    if default_app is not None:
        return default_app
    if _latest_app is not None:
        return _latest_app
    # Threads that need one at the same moment must get the same one.
    with _default_app_mutex:
        if default_app is None:
            # By name: whoever asks first may not have imported the application step.
            make = _make_default_app or symbol_by_name("celery.app:_make_default_app")
            default_app = make()
        return default_app


#: Celery's private name of the same question; extensions replace the public one.
_get_current_app = get_current_app


def _set_current_app(app: App) -> None:
    """Make `app` current in this thread (and in threads that have none of their own)."""
    global _latest_app
    _latest_app = app
    _current_app.set(app)


def app_or_default(app: App | None = None) -> App:
    """`app`, or the current app if it is None."""
    return get_current_app() if app is None else app


def _register_app(app: App) -> None:
    _apps.add(app)


def _deregister_app(app: App) -> None:
    global _latest_app
    _apps.discard(app)
    if _latest_app is app:
        _latest_app = None


def _get_active_apps() -> set[App]:
    return set(_apps)


def connect_on_app_finalize(callback: Callable[[App], Any]) -> Callable[[App], Any]:
    """Call `callback(app)` whenever an app is finalised; usable as a decorator."""
    _on_app_finalizers[callback] = None
    return callback


def _announce_app_finalized(app: App) -> None:
    # A copy: a callback may connect another one.
    for callback in list(_on_app_finalizers):
        callback(app)


def push_current_task(obj: Task) -> None:
    """The task `obj` begins to run here."""
    _task_stack.push(obj)


def pop_current_task() -> Task | None:
    """The current task has ended; gives it."""
    return _task_stack.pop()


def get_current_task() -> Task | None:
    """The task that runs here, or None."""
    return _task_stack.top


def get_current_worker_task() -> Task | None:
    """The innermost task that a worker runs here: tasks called as plain functions are passed over.

    It is the parent of whatever is sent now.
    """
    # Read past the stack's methods: this is asked for every message sent.
    for task in reversed(_task_stack.items.get()):
        if not task.request.called_directly:
            return task
    return None


def task_join_will_block() -> bool:
    """Whether waiting for a result here would block the worker: true within a run."""
    return _join_will_block.get()


def _set_task_join_will_block(blocks: bool) -> None:
    _join_will_block.set(blocks)


#: Always the app of the caller.
current_app: Any = Proxy(get_current_app)
#: Always the task that runs in the caller's thread or greenlet; false outside a run.
current_task: Any = Proxy(get_current_task)
