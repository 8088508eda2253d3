"""This file is how an application finds the objects it works with; a part of `App`.

Each is made when first asked for. Classes above or beside `app` are known by name only, so that a
client never imports the worker.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime
from datetime import timezone as utc_offset
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from taskq._state import get_current_task, get_current_worker_task
from taskq.app.annotations import prepare as prepare_annotations
from taskq.app.defaults import NAMES
from taskq.app.pickling import _unpickle_appattr
from taskq.canvas import signature
from taskq.utils.imports import instantiate, symbol_by_name
from taskq.utils.time import timezone

if TYPE_CHECKING:
    from taskq.app.amqp import AMQP
    from taskq.app.registry import TaskRegistry


class Collaborators:
    """The part of an application that gives its queues, backend, result classes, programs..."""

    conf: Any
    finalized: bool
    _tasks: TaskRegistry
    finalize: Callable[..., None]

    amqp_cls: Any = NAMES["amqp"]
    backend_cls: Any = None
    control_cls: Any = NAMES["control"]
    events_cls: Any = NAMES["events"]
    log_cls: Any = NAMES["log"]
    registry_cls: Any = NAMES["registry"]
    task_cls: Any = NAMES["task"]

    def _init_collaborators(self, **classes: Any) -> None:
        """Classes given to the constructor stand in for those named by the application class."""
        for name, given in classes.items():
            if given:
                setattr(self, name, given)

    # -- tasks

    @cached_property
    def Task(self) -> Any:
        """The base class of this application's tasks."""
        return self.create_task_cls()

    def create_task_cls(self) -> Any:
        """A subclass, bound to this application, of the class `task_cls` names."""
        return self.subclass_with_self(
            self.task_cls, name="Task", attribute="_app", keep_reduce=True, abstract=True
        )

    @cached_property
    def tasks(self) -> TaskRegistry:
        """The tasks by name. Asking for them finalises the application."""
        self.finalize(auto=True)
        return self._tasks

    @property
    def current_task(self) -> Any:
        """The task that runs here, or None."""
        return get_current_task()

    @property
    def current_worker_task(self) -> Any:
        """The task that a worker runs here; functions it calls directly do not count."""
        return get_current_worker_task()

    @cached_property
    def annotations(self) -> Any:
        """The setting task_annotations, ready to use."""
        return prepare_annotations(self.conf.task_annotations)

    def signature(self, *args: Any, **kwargs: Any) -> Any:
        """A signature bound to this application; arguments as for `taskq.signature`."""
        kwargs["app"] = self
        return signature(*args, **kwargs)

    # -- results

    @cached_property
    def AsyncResult(self) -> Any:
        """`AsyncResult` of this application: `app.AsyncResult(task_id)`."""
        return self.subclass_with_self("celery.result:AsyncResult")

    @cached_property
    def ResultSet(self) -> Any:
        """`ResultSet` of this application."""
        return self.subclass_with_self("celery.result:ResultSet")

    @cached_property
    def GroupResult(self) -> Any:
        """`GroupResult` of this application."""
        return self.subclass_with_self("celery.result:GroupResult")

    # -- messages

    @cached_property
    def amqp(self) -> AMQP:
        """Queues, routes, and the sending of task messages."""
        return cast("AMQP", instantiate(self.amqp_cls, app=self))

    def select_queues(self, queues: Any = None) -> None:
        """Consume from these queues only: names, or text with commas."""
        self.amqp.queues.select(queues)

    @cached_property
    def control(self) -> Any:
        """Commands for running workers: `app.control.ping()`."""
        return instantiate(self.control_cls, app=self)

    @cached_property
    def events(self) -> Any:
        """Sending and receiving of events."""
        return instantiate(self.events_cls, app=self)

    @cached_property
    def log(self) -> Any:
        """Set-up of logging."""
        return instantiate(self.log_cls, app=self)

    # -- time

    def now(self) -> datetime:
        """The time now, in the application's timezone."""
        return datetime.now(utc_offset.utc).astimezone(self.timezone)

    @property
    def timezone(self) -> Any:
        """The zone of the setting `timezone`; unset it is UTC, or local time without enable_utc."""
        name = self.conf.timezone
        if not name:
            return timezone.utc if self.conf.enable_utc else timezone.local
        return timezone.get_timezone(name)

    def uses_utc_timezone(self) -> bool:
        """Whether the application's timezone is UTC."""
        return bool(self.timezone == timezone.utc)

    # -- programs

    @cached_property
    def Worker(self) -> Any:
        """The worker program: `app.Worker(hostname=..., pool=...)`."""
        return self.subclass_with_self(NAMES["worker"])

    @cached_property
    def WorkController(self) -> Any:
        """The worker inside another program, without signals and banner."""
        return self.subclass_with_self(NAMES["work_controller"])

    @cached_property
    def Beat(self) -> Any:
        """The program that sends periodic tasks."""
        return self.subclass_with_self(NAMES["beat"])

    def start(self, argv: list[str] | None = None) -> None:
        """Run the command line, by default with this process's arguments."""
        self._run_command_line(sys.argv[1:] if argv is None else argv)

    def worker_main(self, argv: list[str] | None = None) -> None:
        """Run the worker command: `app.worker_main(["worker", "-l", "INFO"])`.

        Raises:
            ValueError: the arguments name no worker command.
        """
        argv = sys.argv if argv is None else argv
        if "worker" not in argv:
            raise ValueError(
                "The worker sub-command must be specified in argv.\n"
                "Use app.start() to programmatically start other commands."
            )
        self._run_command_line(argv)

    def _run_command_line(self, argv: list[str]) -> None:
        command = symbol_by_name("celery.bin.celery:celery")
        cast(Any, self).set_current()
        command.params[0].default = self
        command.main(args=argv, standalone_mode=False)

    def setup_security(
        self,
        allowed_serializers: Any = None,
        key: str | None = None,
        key_password: Any = None,
        cert: str | None = None,
        store: str | None = None,
        digest: str = "sha256",
        serializer: str = "json",
    ) -> Any:
        """Sign messages (serializer "auth") and refuse all that are not signed.

        Call it in every process, after the settings task_serializer = "auth" and
        accept_content = ["auth"].

        Arguments:
            allowed_serializers: more serializers this process may read where no setting says which.
            key, cert, store: files, instead of security_key, security_certificate and
                security_cert_store.
            key_password: instead of security_key_password.
            digest: what is signed; peers must use the same.
            serializer: what the body of a signed message is written with.

        Raises:
            ImproperlyConfigured: a setting, or the package cryptography, is missing.
            SecurityError: a file holds no key or certificate, or one that has expired.
        """
        setup = symbol_by_name("celery.security:setup_security")
        return setup(
            allowed_serializers, key, key_password, cert, store, digest, serializer, app=self
        )

    # -- classes bound to this application

    def subclass_with_self(
        self,
        Class: Any,
        name: str | None = None,
        attribute: str = "app",
        reverse: str | None = None,
        keep_reduce: bool = False,
        **kw: Any,
    ) -> Any:
        """A subclass of `Class` whose attribute `attribute` is this application.

        Arguments:
            Class: class, or its name.
            reverse: where to find the subclass on the application when unpickling an instance;
                by default the class's name.
            keep_reduce: the class has a way of pickling that needs no application.
            kw: more attributes.
        """
        Class = symbol_by_name(Class)
        path = reverse or Class.__name__

        def reduce_by_app(self: Any) -> tuple[Any, ...]:
            return _unpickle_appattr, (path, self.__reduce_args__())

        attributes: dict[str, Any] = {
            attribute: self,
            "__module__": Class.__module__,
            "__doc__": Class.__doc__,
            **kw,
        }
        if not keep_reduce:
            attributes["__reduce__"] = reduce_by_app
        return type(name or Class.__name__, (Class,), attributes)
