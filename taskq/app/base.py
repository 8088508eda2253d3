"""This file is the application, and step 2 of a task's journey: `send_task` makes a call of it.

How it works: `App` is put together from parts, one role each: its settings (configuration.py), its
broker connections (connections.py), its tasks (registration.py), its periodic tasks (periodic.py)
and the objects it works with (collaborators.py). Here is what they have in common: how an
application is made and goes away, and how a call gets an id, a route and its place in a workflow.
"""

from __future__ import annotations

import os
import platform
import threading
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from kombu.clocks import LamportClock
from kombu.common import oid_from

from taskq._state import (
    _deregister_app,
    _get_active_apps,
    _register_app,
    _set_current_app,
    get_current_worker_task,
    set_default_app,
)
from taskq.app.checks import as_links, check_names
from taskq.app.collaborators import Collaborators
from taskq.app.configuration import Configuration, PendingConfiguration
from taskq.app.connections import Connections
from taskq.app.defaults import NAMES
from taskq.app.description import appstr, bugreport
from taskq.app.encoding import register_json, register_pickle, register_zstd
from taskq.app.periodic import PeriodicTasks
from taskq.app.pickling import AppPickler, _unpickle_app, _unpickle_app_v2
from taskq.app.pickling import _unpickle_appattr as _unpickle_appattr
from taskq.app.pipeline import Pipeline
from taskq.app.registration import Registration
from taskq.backends.abstract import Backend
from taskq.backends.lookup import by_url
from taskq.exceptions import AlwaysEagerIgnored
from taskq.protocol import TaskMessage, seconds_until
from taskq.utils.imports import symbol_by_name
from taskq.utils.log import get_logger
from taskq.utils.signalling import Signal
from taskq.utils.text import build_task_id

if TYPE_CHECKING:
    from taskq.app.settings import Settings
    from taskq.result import AsyncResult

__all__ = ["App", "Celery", "PendingConfiguration"]

logger = get_logger(__name__)

#: stands for an option the caller did not give; None is a value
_UNSET: Any = object()

EAGER_IGNORED = "task_always_eager has no effect on send_task"
PAST_EXPIRATION = (
    "%s has an expiration date in the past (%ss ago): it is sent with expiration 0. This is meant"
    " for tasks that must not run late; otherwise look at the clock and the time zone of `expires`."
)


# Before any application writes or reads a message or a result.
register_json()
register_pickle()
register_zstd()


class App(Registration, Configuration, Connections, PeriodicTasks, Collaborators):
    """An application: its settings, its tasks, and its way to the broker and the results.

    Without configuration the broker and the results are in `./taskq.db`.

    Arguments:
        main: name of the main module, in which tasks are named after it.
        broker, backend: URLs.
        include: modules with tasks, imported by workers.
        tasks: a registry, or mapping, of tasks to begin with.
        changes: settings.
        config_source: module, name of a module, or object to read settings from.
        namespace: prefix of the settings there.
        set_as_current: make this the current application.
        autofinalize: make lazy tasks when they are first used; False makes that an error.
        strict_typing: check arguments when tasks are called.
        loader, amqp, events, log, control, task_cls, fixups: classes to use instead of the usual
            ones, or their names.
        kwargs: more settings.
    """

    SYSTEM: ClassVar[str] = platform.system()
    IS_macOS: ClassVar[bool] = SYSTEM == "Darwin"
    IS_WINDOWS: ClassVar[bool] = SYSTEM == "Windows"

    #: name of the main module
    main: str | None = None
    Pickler = AppPickler
    #: classes or names of integrations every application is given
    builtin_fixups: ClassVar[set[str]] = {NAMES["django"]}
    #: settings of this kind of application, between the defaults and the user's
    default_settings: ClassVar[Mapping[str, Any]] = {
        "broker_url": "sqlite:///taskq.db",
        "result_backend": "sqlite:///taskq.db",
    }

    #: more steps of the worker and of its consumer: {"worker": {...}, "consumer": {...}}
    steps: Any = None
    conf: Settings
    #: more command-line options, by command
    user_options: Any = None
    on_after_finalize: Any = None
    on_after_fork: Any = None

    def __init__(
        self,
        main: str | None = None,
        loader: Any = None,
        backend: Any = None,
        amqp: Any = None,
        events: Any = None,
        log: Any = None,
        control: Any = None,
        set_as_current: bool = True,
        tasks: Any = None,
        broker: str | None = None,
        include: Any = None,
        changes: Mapping[str, Any] | None = None,
        config_source: Any = None,
        fixups: Any = None,
        task_cls: Any = None,
        autofinalize: bool = True,
        namespace: str | None = None,
        strict_typing: bool = True,
        config_source_silent: bool = False,
        **kwargs: Any,
    ) -> None:
        self._local = threading.local()
        self._shared_backend: Backend | None = None
        self.clock = LamportClock()
        self.main = main
        self.set_as_current = set_as_current
        self.strict_typing = strict_typing
        self.use_fast_trace_task = False
        self.steps = defaultdict(set)
        self.user_options = defaultdict(set)
        self.on_configure = Signal(name="app.on_configure")
        self.on_after_configure = Signal(name="app.on_after_configure", providing_args={"source"})
        self.on_after_finalize = Signal(name="app.on_after_finalize")
        self.on_after_fork = Signal(name="app.on_after_fork")
        self._init_collaborators(
            amqp_cls=amqp, events_cls=events, log_cls=log, control_cls=control, task_cls=task_cls
        )
        self._init_registration(tasks, autofinalize)
        given = {"broker_url": broker, "result_backend": backend, "include": include}
        self._init_configuration(
            loader=loader,
            settings={name: value for name, value in given.items() if value} | kwargs,
            changes=changes,
            config_source=config_source,
            config_source_silent=config_source_silent,
            namespace=namespace,
        )
        self._pending_periodic_tasks = []
        self.on_after_configure.connect(self._add_pending_periodic_tasks)
        self.fixups = set(self.builtin_fixups) if fixups is None else set(fixups)
        self._fixups = [symbol_by_name(fixup)(self) for fixup in self._wanted_fixups()]
        if set_as_current:
            self.set_current()
        _register_app(self)
        self.on_init()

    def _wanted_fixups(self) -> list[Any]:
        # Where there is no Django project, not even a module of its fixup is looked for.
        is_django = bool(os.environ.get("DJANGO_SETTINGS_MODULE"))
        return [fixup for fixup in self.fixups if is_django or fixup != NAMES["django"]]

    def on_init(self) -> None:
        """Called at the end of construction; for subclasses."""

    def set_current(self) -> None:
        """Make this the current application."""
        _set_current_app(self)

    def set_default(self) -> None:
        """Make this the application of all threads that have no current one."""
        set_default_app(self)

    # -- sending

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        countdown: float | None = None,
        eta: Any = None,
        task_id: str | None = None,
        producer: Any = None,
        connection: Any = None,
        router: Any = None,
        result_cls: Any = None,
        expires: Any = _UNSET,
        publisher: Any = None,
        link: Any = None,
        link_error: Any = None,
        add_to_parent: bool = True,
        group_id: str | None = None,
        group_index: int | None = None,
        retries: int = 0,
        chord: Any = None,
        reply_to: str | None = None,
        time_limit: Any = _UNSET,
        soft_time_limit: Any = _UNSET,
        root_id: str | None = None,
        parent_id: str | None = None,
        route_name: str | None = None,
        shadow: str | None = None,
        chain: Any = None,
        task_type: Any = None,
        replaced_task_nesting: int = 0,
        ignore_result: Any = _UNSET,
        serializer: Any = _UNSET,
        **options: Any,
    ) -> AsyncResult[Any]:
        """Send a call of a task by name; it takes what `Task.apply_async` takes.

        The task need not be known here. If it is, it gives the options that are not given.
        Raises:
            TypeError: args is no list or tuple, kwargs no mapping, a link no signature, ...
            OperationalError: the broker cannot be reached.
        """
        # Every call of a task names these two; Python is slow with names it must look for in vain.
        if ignore_result is not _UNSET:
            options["ignore_result"] = ignore_result
        if serializer is not _UNSET:
            options["serializer"] = serializer
        if task_type is None:
            task_type = self._tasks.get(name)
            limits = [expires, time_limit, soft_time_limit]
            options = _complete(task_type, limits, options)
            expires, time_limit, soft_time_limit = limits
        conf, amqp = self.conf, self.amqp
        if conf.task_always_eager:
            warnings.warn(AlwaysEagerIgnored(EAGER_IGNORED), stacklevel=2)
        parent = get_current_worker_task()
        if parent is not None:
            request = parent.request
            root_id = root_id or request.root_id or request.id
            parent_id = parent_id or request.id
            if conf.task_inherit_parent_priority and options.get("priority") is None:
                options["priority"] = (request.delivery_info or {}).get("priority")
        expires = None if expires is _UNSET else expires
        time_limit = None if time_limit is _UNSET else time_limit
        soft_time_limit = None if soft_time_limit is _UNSET else soft_time_limit
        task_id = task_id or build_task_id()
        if type(task_id) is not str or type(name) is not str:
            check_names(name, task_id)
        route = (router or amqp.router).route
        options = route(options, route_name or name, args, kwargs, task_type)
        if expires is not None:
            options["expiration"] = self._seconds_to_live(task_id, expires)
        ignore_result = options.pop("ignore_result", None)
        message = amqp.create_task_message(
            task_id, name, args, kwargs, countdown, eta, group_id, group_index, expires, retries,
            chord, link and as_links(link), link_error and as_links(link_error, "link_error"),
            reply_to or self.thread_oid,
            time_limit, soft_time_limit, False, root_id, parent_id, shadow, chain,
            ignore_result=ignore_result, replaced_task_nesting=replaced_task_nesting, **options,
        )  # fmt: skip
        for said_in_headers in ("argsrepr", "kwargsrepr", "stamped_headers"):
            options.pop(said_in_headers, None)
        result: AsyncResult[Any] = (result_cls or self.AsyncResult)(task_id)
        if ignore_result:
            result.ignored = True
        producer = producer or publisher
        if connection is not None and producer is None:
            producer = amqp.Producer(connection, auto_declare=False)
        backend = None if ignore_result else self.backend
        self._hand_over(producer, backend, task_id, name, message, options)
        if parent is not None and add_to_parent:
            parent.add_trail(result)
        return result

    def _hand_over(
        self,
        producer: Any,
        backend: Backend | None,
        task_id: str,
        name: str,
        message: TaskMessage,
        options: dict[str, Any],
    ) -> None:
        """To the producer, to the pipeline of this thread, or to a producer of the pool."""
        if producer is None:
            producer = getattr(self._local, "pipeline", None)
        # Most backends have nothing to prepare.
        if backend is not None and type(backend).on_task_call is Backend.on_task_call:
            backend = None
        if backend is None and type(producer) is Pipeline:
            self.amqp.send_task_message(producer, name, message, **options)
            return
        with self._lend_producer(producer, options.get("retry_policy")) as acquired:
            if backend is not None:
                backend.on_task_call(acquired, task_id)
            self.amqp.send_task_message(acquired, name, message, **options)

    def _seconds_to_live(self, task_id: str, expires: Any) -> float:
        seconds = seconds_until(expires, self.now())
        if seconds >= 0:
            return seconds
        logger.warning(PAST_EXPIRATION, task_id, -seconds)
        return 0

    # -- what belongs to this process or thread

    @property
    def backend(self) -> Backend:
        """The result backend: one for each thread, or one for all that is thread-safe."""
        if self._shared_backend is not None:
            return self._shared_backend
        try:
            backend: Backend = self._local.backend
        except AttributeError:
            return self._keep_backend(self._get_backend())
        return backend

    @backend.setter
    def backend(self, backend: Backend) -> None:
        self._local.backend = backend

    def _keep_backend(self, backend: Backend) -> Backend:
        if self.conf.result_backend_thread_safe:
            self._shared_backend = backend
        self._local.backend = backend
        return backend

    def _get_backend(self) -> Backend:
        cls, url = by_url(self.backend_cls or self.conf.result_backend, self.loader)
        return cast(Backend, cls(app=self, url=url))

    @property
    def oid(self) -> str:
        """An id of this application in this process, the same in all its threads."""
        oid: str | None = self.__dict__.get("_oid")
        if oid is None:
            oid = self.__dict__["_oid"] = oid_from(self, threads=False)
        return oid

    @property
    def thread_oid(self) -> str:
        """An id of this application in this thread; where rpc results are sent."""
        try:
            oid: str = self._local.oid
        except AttributeError:
            self._local.oid = oid = oid_from(self, threads=True)
        return oid

    def _forget_process(self) -> None:
        """After a fork: what belonged to the parent process is not ours."""
        self._local = threading.local()
        self._shared_backend = None
        self.__dict__.pop("_oid", None)

    # -- going away, and going elsewhere

    def close(self) -> None:
        """Close the connections to the broker; the application can be used again."""
        self._close_pools()
        _deregister_app(self)

    def __enter__(self) -> App:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if type(self).__reduce_args__ is not App.__reduce_args__:
            # An application class with an older way of pickling of its own.
            return _unpickle_app, (type(self), self.Pickler, *self.__reduce_args__())
        return _unpickle_app_v2, (type(self), self.__reduce_keys__())

    def __reduce_keys__(self) -> dict[str, Any]:
        """The keyword arguments that make the same application in another process."""
        source = self._config_source if isinstance(self._config_source, str) else None
        return {
            "main": self.main,
            "changes": self._changes_since(source),
            "loader": self.loader_cls,
            "amqp": self.amqp_cls,
            "events": self.events_cls,
            "log": self.log_cls,
            "control": self.control_cls,
            "fixups": self.fixups,
            "config_source": source,
            "config_source_silent": self._config_source_silent,
            "task_cls": self.task_cls,
            "namespace": self.namespace,
        }

    def _changes_since(self, source: str | None) -> dict[str, Any]:
        """The settings the other process cannot find in the source by itself."""
        if source is not None or not self.configured:
            return dict(self.conf.changes) if self.configured else dict(self._preconf)
        return dict(self.conf.without_defaults().items())

    def __reduce_args__(self) -> tuple[Any, ...]:
        """What `AppPickler` takes, for classes that add to it."""
        keys = self.__reduce_keys__()
        names = ("main", "changes", "loader", "backend", "amqp", "events", "log", "control")
        values = tuple(keys.get(name) for name in names)
        return (*values, False, keys["config_source"], keys["config_source_silent"])

    def bugreport(self) -> str:
        """Versions, platform and settings, for a report of a problem; secrets are masked."""
        return bugreport(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {appstr(self)}>"


class Celery(App):
    """An application with Celery's own default broker: `amqp://`, and no result backend."""

    default_settings: ClassVar[Mapping[str, Any]] = {}


def _complete(task: Any, limits: list[Any], options: dict[str, Any]) -> dict[str, Any]:
    """Fill in, from a registered task that has been made, what the caller of send_task left open.

    What the caller said counts also when it is None. Gives the options without the limits.
    """
    if task is None:
        return options
    defaults = task._exec_options
    defaults = dict(task._settle_options() if defaults is None else defaults)
    for number, name in enumerate(("expires", "time_limit", "soft_time_limit")):
        default = defaults.pop(name, None)
        if limits[number] is _UNSET:
            limits[number] = default
    return {**defaults, **options}


def _forget_parent_process() -> None:
    for app in _get_active_apps():
        app._forget_process()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent_process)
