"""This file turns functions and classes into the tasks of an application; a part of `App`.

How it works: `@app.task` gives a lazy task, so that a module can define tasks before the app is
configured. Lazy tasks are made when first used, or all together by `finalize`, which also copies
the process's shared tasks and binds every task to the app's settings.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from threading import RLock
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Literal,
    ParamSpec,
    TypeVar,
    cast,
    overload,
)

from kombu.utils.functional import maybe_list
from vine import starpromise

from taskq._state import _announce_app_finalized, connect_on_app_finalize
from taskq.app.defaults import NAMES
from taskq.app.retry import add_autoretry_behaviour
from taskq.exceptions import DuplicateTaskNameWarning
from taskq.signals import import_modules
from taskq.utils.functional import head_from_fun
from taskq.utils.imports import gen_task_name, instantiate, symbol_by_name
from taskq.utils.proxy import PromiseProxy, maybe_evaluate
from taskq.utils.signalling import Signal

if TYPE_CHECKING:
    from taskq.app.decorators import AsyncTask, BoundDecorator, Decorator
    from taskq.app.registry import TaskRegistry
    from taskq.app.task import Task as TaskOf

P = ParamSpec("P")
R = TypeVar("R")

DUPLICATE_NAME = """\
Task name {name!r} is already registered to a different callable.

Existing: {existing}
New:      {new}

{outcome}

Every task must have a unique name: pass name= to the task decorator, or rename one of the two.\
"""
FIRST_STAYS = (
    "The new callable was not registered; calls under this name reach the callable"
    " registered first."
)
NEW_REPLACES = (
    "The new callable replaced the existing one; calls under this name now reach the new callable."
)


class Registration:
    """The part of an application that makes and keeps its tasks."""

    main: str | None
    autofinalize: bool
    finalized: bool
    registry_cls: Any
    #: sent when all tasks are there; sender is the application
    on_after_finalize: Signal
    #: the base class of new tasks, made of `task_cls`
    Task: Any
    loader: Any
    _fixups: list[Any]

    def _init_registration(self, tasks: Any, autofinalize: bool) -> None:
        self.autofinalize = autofinalize
        self.finalized = False
        self._finalize_mutex = RLock()
        self._pending: deque[Any] = deque()
        self._duplicate_task_names_warned: set[tuple[str, str, str]] = set()
        registry_type = symbol_by_name(self.registry_cls)
        self._tasks: TaskRegistry = (
            tasks if isinstance(tasks, registry_type) else registry_type(tasks or {})
        )

    # -- the decorator

    @overload
    def task(
        self,
        fun: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]],
        /,
        *,
        bind: Literal[True],
        **opts: Any,
    ) -> AsyncTask[P, R]: ...
    @overload
    def task(
        self, fun: Callable[Concatenate[Any, P], R], /, *, bind: Literal[True], **opts: Any
    ) -> TaskOf[P, R]: ...
    @overload
    def task(
        self,
        fun: Callable[P, Coroutine[Any, Any, R]],
        /,
        *,
        bind: Literal[False] = ...,
        **opts: Any,
    ) -> AsyncTask[P, R]: ...
    @overload
    def task(
        self, fun: Callable[P, R], /, *, bind: Literal[False] = ..., **opts: Any
    ) -> TaskOf[P, R]: ...
    @overload
    def task(self, /, *, bind: Literal[True], **opts: Any) -> BoundDecorator: ...
    @overload
    def task(self, /, *, bind: Literal[False] = ..., **opts: Any) -> Decorator: ...
    def task(self, /, *args: Any, **opts: Any) -> Any:
        """Make a task of a function: `@app.task`, or `@app.task(name=..., bind=True, ...)`.

        The task is lazy: made when it is first used, or when the app is finalised.

        Arguments:
            name: instead of `module.function`.
            bind: the function takes the task as its first argument.
            base: class of the task.
            shared: also a task of every other application of the process, by default.
            lazy: False makes the task at once.
            pydantic: arguments annotated with a pydantic model are validated, a returned one is
                dumped; with pydantic_strict, pydantic_context and pydantic_dump_kwargs.
            opts: become attributes of the task.

        Raises:
            TypeError: what is decorated is not a callable.
            ImproperlyConfigured: pydantic is not installed; when the task is made.
        """
        if len(args) == 1:
            if not callable(args[0]):
                raise TypeError("argument 1 to @task() must be a callable")
            return self._make_task(args[0], **opts)
        if args:
            raise TypeError(f"@task() takes exactly 1 argument ({len(args)} given)")

        def decorate(fun: Any) -> Any:
            if not callable(fun):
                raise TypeError("argument 1 to @task() must be a callable")
            return self._make_task(fun, **opts)

        return decorate

    def _make_task(
        self, fun: Any, lazy: bool = True, shared: bool = True, filter: Any = None, **opts: Any
    ) -> Any:
        if not opts.get("name"):
            _check_can_be_named(fun)
        if filter is not None:
            return filter(self._make_task(fun, lazy=lazy, shared=shared, **opts))
        if shared:
            # Other applications get a task of their own of the same function.
            connect_on_app_finalize(lambda app: app._task_from_fun(fun, **opts))
        if not lazy or self.finalized:
            return self._task_from_fun(fun, **opts)
        task = PromiseProxy(
            self._task_from_fun_once, (fun,), opts, __doc__=getattr(fun, "__doc__", None)
        )
        self._pending.append(task)
        return task

    def _task_from_fun_once(self, fun: Any, **options: Any) -> Any:
        """The same task for all threads that use a lazy one at the same moment."""
        with self._finalize_mutex:
            return self._task_from_fun(fun, **options)

    def _task_from_fun(
        self,
        fun: Any,
        name: str | None = None,
        base: Any = None,
        bind: bool = False,
        pydantic: bool = False,
        pydantic_strict: bool = False,
        pydantic_context: dict[str, Any] | None = None,
        pydantic_dump_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """The task of a function, made now; the one registered under its name, if there is one."""
        if not self.finalized and not self.autofinalize:
            raise RuntimeError(
                "Contract breach: app not finalized; call app.finalize() before using a task"
                " of an app with autofinalize=False"
            )
        name = name or self.gen_task_name(fun.__name__, fun.__module__)
        if name in self._tasks:
            existing = self._tasks[name]
            self._warn_of_duplicate(name, existing, fun, FIRST_STAYS)
            return existing
        base = base or self.Task
        if not isinstance(base, type):
            raise TypeError(f"the base of the task {name} must be a class, not {base!r}")
        models, body = None, fun
        if pydantic:
            context = {**(pydantic_context or {}), "celery_app": self, "celery_task_name": name}
            models = instantiate(
                NAMES["models"], fun, bind, name, pydantic_strict, context, pydantic_dump_kwargs
            )
            body = models.wrap()
        run = body if bind else staticmethod(body)
        attributes = {
            "app": self,
            "_app": self,
            "name": name,
            "run": run,
            "_decorated": True,
            "_decorated_fun": staticmethod(fun),
            "__doc__": getattr(fun, "__doc__", None),
            "__module__": getattr(fun, "__module__", None),
            "__annotations__": getattr(fun, "__annotations__", {}),
            # With models the worker checks, as in Celery.
            "__header__": None if models else self.type_checker(fun, bound=bind),
            "_models": models,
            "__wrapped__": run,
            **options,
        }
        short_name = getattr(fun, "__name__", None) or name.rpartition(".")[2]
        task = type(short_name, (base,), attributes)()
        task.__dict__["__qualname__"] = getattr(fun, "__qualname__", short_name)
        self._tasks[task.name] = task
        task.bind(self)
        add_autoretry_behaviour(task, **options)
        return task

    def gen_task_name(self, name: str, module: str) -> str:
        """The automatic name of a task, by default `module.name`; override to change it."""
        return gen_task_name(self, name, module)

    def type_checker(self, fun: Any, bound: bool = False) -> Any:
        """A function with the signature of `fun`: it fails as `fun` would when called wrongly."""
        return staticmethod(head_from_fun(fun, bound=bound))

    def register_task(self, task: Any, **options: Any) -> Any:
        """Register an instance of a task class (or the class); gives the task.

        One without a name gets `module.Class`. `options` are those of autoretry.
        """
        if isinstance(task, type):
            task = task()
        if not task.name:
            cls = type(task)
            task.name = self.gen_task_name(cls.__name__, cls.__module__)
        existing = self._tasks.get(task.name)
        if existing is not None and existing is not task:
            self._warn_of_duplicate(task.name, existing, task, NEW_REPLACES)
        add_autoretry_behaviour(task, **options)
        self._tasks[task.name] = task
        task._app = self
        task.bind(self)
        return task

    def _warn_of_duplicate(self, name: str, existing: Any, new: Any, outcome: str) -> None:
        old_place, new_place = _place_of(existing), _place_of(new)
        if _callable_of(existing) is _callable_of(new):
            return
        if outcome is FIRST_STAYS and old_place == new_place:
            # The same source line run again: a module loaded twice, a task shared by two apps.
            return
        warned = (name, old_place, new_place)
        if warned in self._duplicate_task_names_warned:
            return
        self._duplicate_task_names_warned.add(warned)
        warnings.warn(
            DUPLICATE_NAME.format(name=name, existing=old_place, new=new_place, outcome=outcome),
            DuplicateTaskNameWarning,
            stacklevel=4,
        )

    # -- all tasks

    def finalize(self, auto: bool = False) -> None:
        """Make all lazy tasks, copy shared ones, bind them; then send `on_after_finalize`.

        Called when `app.tasks` is first used.

        Raises:
            RuntimeError: the call is automatic and the app was made with autofinalize=False.
        """
        with self._finalize_mutex:
            if self.finalized:
                return
            if auto and not self.autofinalize:
                raise RuntimeError(
                    "Contract breach: app not finalized; call app.finalize() before using a task"
                    " of an app with autofinalize=False"
                )
            self.finalized = True
            _announce_app_finalized(self)
            while self._pending:
                maybe_evaluate(self._pending.popleft())
            for task in list(self._tasks.values()):
                task.bind(cast(Any, self))
            self.on_after_finalize.send(sender=self)

    def autodiscover_tasks(
        self,
        packages: Iterable[str] | Callable[[], Iterable[str]] | None = None,
        related_name: str | None = "tasks",
        force: bool = False,
    ) -> None:
        """Import the modules called `related_name` of these packages when modules are imported.

        Arguments:
            packages: names, or a function that gives them later; None asks the integrations
                (fixups), such as Django's.
            force: import them now.
        """
        if force:
            self._autodiscover_tasks(packages, related_name)
        else:
            import_modules.connect(
                starpromise(self._autodiscover_tasks, packages, related_name),
                weak=False,
                sender=self,
            )

    def _autodiscover_tasks(self, packages: Any, related_name: str | None, **_: Any) -> None:
        if packages:
            names = packages() if callable(packages) else maybe_list(packages)
        else:
            names = [
                name
                for fixup in self._fixups
                if hasattr(fixup, "autodiscover_tasks")
                for name in fixup.autodiscover_tasks()
            ]
        self.loader.autodiscover_tasks(names, related_name)


def _check_can_be_named(fun: Any) -> None:
    # Here, not when the lazy task is made: then it would be far from the line that is wrong.
    if not getattr(fun, "__name__", "").isidentifier() or not hasattr(fun, "__module__"):
        raise TypeError(
            f"{fun!r} has no name to call the task by: pass name= to the task decorator"
        )


def _callable_of(task: Any) -> Any:
    return getattr(task, "_decorated_fun", task)


def _place_of(task: Any) -> str:
    fun = _callable_of(task)
    if not hasattr(fun, "__qualname__"):
        fun = type(fun)
    return f"{fun.__module__}.{fun.__qualname__}"
