"""This file is what `@app.task` makes of a function: step 1 of a task's journey, `apply_async`.

How it works: every decorated function gets a subclass of `Task` of its own, with one instance per
process. `bind` gives the class its application and fills in, once, what the function's options
leave to the settings; `apply_async` then only merges the call's options over these and hands them
to `App.send_task`. In a worker the tracer pushes a `Context` on `request_stack`, which is what
`self.request` shows while the body runs.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from types import CoroutineType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, ParamSpec, TypeVar, cast

from kombu.exceptions import OperationalError
from kombu.serialization import dumps, loads, prepare_accept_content
from kombu.utils.uuid import uuid

from taskq._state import get_current_app, pop_current_task, push_current_task
from taskq.app.annotations import resolve_all
from taskq.app.coroutines import Awaitable
from taskq.app.eager import Eager
from taskq.app.pipeline import BATCH
from taskq.app.registry import _unpickle_task_v2
from taskq.app.retry import Retrying
from taskq.canvas import Signature
from taskq.context import Context
from taskq.exceptions import CDeprecationWarning, MaxRetriesExceededError
from taskq.protocol import checked_arguments
from taskq.utils.functional import mattrgetter
from taskq.utils.imports import instantiate
from taskq.utils.threads import LocalStack

if TYPE_CHECKING:
    from taskq.app.base import App
    from taskq.app.models import Models
    from taskq.result import AsyncResult

__all__ = ["Context", "Task"]

#: what repr() shows
R_BOUND_TASK = "<class {0.__name__} of {app}{flags}>"
R_UNBOUND_TASK = "<unbound {0.__name__}{flags}>"
R_INSTANCE = "<@task: {0.name} of {app}{flags}>"

#: Tasks have no metaclass; the name is Celery's.
TaskType = type

P = ParamSpec("P")
R = TypeVar("R")

#: the options of a task that are defaults for each of its calls
extract_exec_options: Callable[[Any], dict[str, Any]] = mattrgetter(
    "queue",
    "routing_key",
    "exchange",
    "priority",
    "expires",
    "serializer",
    "delivery_mode",
    "compression",
    "time_limit",
    "soft_time_limit",
    "immediate",
    "mandatory",
)


class _BindOnFirstUse:
    """`Task.app` of a class that no application has bound yet: binds it to the current one."""

    def __get__(self, task: Any, owner: type[Task[..., Any]]) -> App:
        app: App = owner._app or get_current_app()
        owner.bind(app)
        return app


class Task(Retrying, Eager, Awaitable[P, R], Generic[P, R]):
    """A function that can be called here, or by message in a worker.

    Made by `@app.task`; subclass it for shared behaviour (`@app.task(base=...)`) or define `run`
    and pass an instance to `app.register_task`. There is one instance per process, so what a task
    sets on `self` is kept between runs.
    """

    __trace__: Any = None
    __bound__: ClassVar[bool] = False
    #: checks arguments against the function's signature: `__header__(*args, **kwargs)`
    __header__: Any = None
    #: what `pydantic=True` found in the function's annotations
    _models: ClassVar[Models | None] = None

    MaxRetriesExceededError = MaxRetriesExceededError
    OperationalError = OperationalError

    #: the handler that a worker's consumer asks what to do with a message, by name
    Strategy: Any = "celery.worker.strategy:default"
    #: class of the requests a worker makes of this task's messages, by name or itself
    Request: Any = "celery.worker.request:Request"

    #: the application; plain attribute once bound
    app: Any = _BindOnFirstUse()
    _app: ClassVar[Any] = None
    _backend: Any = None
    _exec_options: ClassVar[dict[str, Any] | None] = None
    _names_shadow: ClassVar[bool] = False

    abstract: Any = True
    name: str = None  # type: ignore[assignment]  # set by registration; no task in use lacks it
    typing: bool | None = None
    max_retries: int | None = 3
    #: max_retries of one `retry()` call, seen by the errors it raises
    override_max_retries: int | None = None
    #: seconds
    default_retry_delay: float = 180
    #: per second, or text with /s, /m, /h
    rate_limit: str | float | None = None
    ignore_result: bool | None = None
    #: whether calls made by a run are kept as `request.children`
    trail: bool = True
    send_events: bool = True
    store_errors_even_if_ignored: bool | None = None
    store_eager_result: bool | None = None
    serializer: str | None = None
    #: seconds
    time_limit: float | None = None
    #: seconds
    soft_time_limit: float | None = None
    track_started: bool | None = None
    acks_late: bool | None = None
    acks_on_failure_or_timeout: bool | None = None
    acks_on_failure: bool | None = None
    acks_on_timeout: bool | None = None
    reject_on_worker_lost: bool | None = None
    retry_on_worker_lost: bool | None = None
    #: errors that are expected: logged at INFO without a traceback
    throws: tuple[type[BaseException], ...] = ()
    #: seconds, or a datetime
    expires: Any = None
    priority: int | None = None
    #: characters of the result shown in logs and events
    resultrepr_maxsize: int = 1024
    request_stack: Any = None

    #: attribute -> setting that fills it in when the task says nothing
    from_config: tuple[tuple[str, str], ...] = (
        ("serializer", "task_serializer"),
        ("rate_limit", "task_default_rate_limit"),
        ("priority", "task_default_priority"),
        ("time_limit", "task_time_limit"),
        ("soft_time_limit", "task_soft_time_limit"),
        ("track_started", "task_track_started"),
        ("acks_late", "task_acks_late"),
        ("acks_on_failure_or_timeout", "task_acks_on_failure_or_timeout"),
        ("acks_on_failure", "task_acks_on_failure"),
        ("acks_on_timeout", "task_acks_on_timeout"),
        ("reject_on_worker_lost", "task_reject_on_worker_lost"),
        ("retry_on_worker_lost", "task_retry_on_worker_lost"),
        ("ignore_result", "task_ignore_result"),
        ("store_eager_result", "task_store_eager_result"),
        ("store_errors_even_if_ignored", "task_store_errors_even_if_ignored"),
    )

    # -- calling

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send a call of this task to the workers: `apply_async(args, kwargs)` without options."""
        return self.apply_async(args, kwargs)

    def delay_many(self, calls: Iterable[Sequence[Any]], **options: Any) -> list[AsyncResult[R]]:
        """Send many calls of this task together: `delay_many([(1, 2), (3, 4)])`.

        Options are those of `apply_async`; 10,000 calls are sent at a time. Raises TypeError for an
        item that is no tuple of arguments, and what `app.pipeline()` raises.
        """
        results: list[AsyncResult[R]] = []
        rest = iter(calls)
        while batch := list(islice(rest, BATCH)):
            with self.app.pipeline():
                for args in batch:
                    if not isinstance(args, tuple | list):
                        raise TypeError(f"delay_many takes tuples of arguments, not {args!r}")
                    results.append(self.apply_async(args, **options))
        return results

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> AsyncResult[R]:
        """Send a call of this task to the workers.

        Arguments:
            task_id: text to use as id instead of a new UUID.
            producer: an open kombu Producer to send with.
            link, link_error: signature(s) to call with the result, or when the task fails.
            shadow: name to show in logs and events instead of the task's.
            options: countdown (seconds), eta (datetime), expires (seconds or datetime), queue,
                exchange, routing_key, priority, serializer, compression, headers, retry,
                retry_policy, time_limit and soft_time_limit (seconds), ignore_result, ...

        Raises:
            TypeError: the arguments do not fit the function (see `typing`).
            ValueError: soft_time_limit is greater than time_limit.
            OperationalError: the broker cannot be reached.
        """
        if self.typing and self.__header__ is not None:
            try:
                self.__header__(*(args or ()), **(kwargs or {}))
            except TypeError:
                checked_arguments(args, kwargs)
                raise
        if self.soft_time_limit and self.time_limit and self.soft_time_limit > self.time_limit:
            raise ValueError("soft_time_limit must be less than or equal to time_limit")
        if self._models is not None and (options.get("serializer") or self.serializer) != "pickle":
            args, kwargs = self._models.as_arguments(args, kwargs)
        app = self.app
        if app.conf.task_always_eager:
            return self._apply_eagerly(args, kwargs, task_id, link, link_error, options)
        defaults = self._exec_options
        if defaults is None:
            defaults = self._settle_options()
        merged = {
            "ignore_result": self.ignore_result, "result_cls": self.AsyncResult,
            **defaults, **options,
        }  # fmt: skip
        if self._names_shadow and not shadow:
            shadow = self.shadow_name(args or (), kwargs or {}, merged)
        result: AsyncResult[R] = app.send_task(
            self.name, args, kwargs, task_id=task_id, producer=producer, link=link,
            link_error=link_error, shadow=shadow, task_type=self, **merged,
        )  # fmt: skip
        return result

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the body here and now; nothing is sent. An `async def` task gives its coroutine."""
        push_current_task(self)
        self.push_request(args=args, kwargs=kwargs)
        try:
            result: R = self.run(*args, **kwargs)
        finally:
            self.pop_request()
            pop_current_task()
        return self._run_on(result, args, kwargs) if type(result) is CoroutineType else result

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The body, run by workers; defined by subclasses and by the decorator."""
        raise NotImplementedError("Tasks must define the run method.")

    def _apply_eagerly(
        self,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        task_id: str | None,
        link: Any,
        link_error: Any,
        options: dict[str, Any],
    ) -> AsyncResult[R]:
        """Run the call here (task_always_eager), with arguments as a worker would see them."""
        serializer = options.get("serializer") or self.serializer
        content_type, encoding, body = dumps((args or (), kwargs or {}), serializer)
        # Our own bytes: accepted whatever accept_content says.
        accept = prepare_accept_content([content_type])
        args, kwargs = loads(body, content_type, encoding, accept=accept)
        eager = self.apply(
            args, kwargs, link=link, link_error=link_error, task_id=task_id or uuid(), **options
        )
        return cast("AsyncResult[R]", eager)

    @classmethod
    def _settle_options(cls) -> dict[str, Any]:
        """The task's defaults for each call; settled by the first call."""
        options = extract_exec_options(cls)
        cls._exec_options = {name: value for name, value in options.items() if value is not None}
        return cls._exec_options

    def shadow_name(self, args: Any, kwargs: Any, options: dict[str, Any]) -> str | None:
        """Override to give a name for logs and events that depends on the call's arguments."""
        return None

    # -- signatures

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """A signature of this task with these arguments: `.s(*args, **kwargs)`."""
        return self.signature(args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Signature:
        """As `s`, but immutable: takes no results of other tasks."""
        return self.signature(args, kwargs, immutable=True)

    def signature(self, args: Any = None, *starargs: Any, **starkwargs: Any) -> Signature:
        """A signature of this task: `signature(args, kwargs, options, **more_options)`."""
        starkwargs.setdefault("app", self.app)
        return Signature(self, args, *starargs, **starkwargs)

    subtask = signature

    def subtask_from_request(self, *args: Any, **kwargs: Any) -> Signature:
        """Old name of `signature_from_request`."""
        return self.signature_from_request(*args, **kwargs)

    # -- results and state

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AsyncResult[R]:
        """The result of a call of this task, by its id."""
        kwargs.setdefault("backend", self._backend)
        result: AsyncResult[R] = self.app.AsyncResult(task_id, task_name=self.name, **kwargs)
        return result

    @property
    def backend(self) -> Any:
        """Where this task's results are stored: its own backend, or the application's."""
        return self._backend or self.app.backend

    @backend.setter
    def backend(self, backend: Any) -> None:
        self._backend = backend

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None, **kwargs: Any
    ) -> None:
        """Store a state of this run, or of `task_id`, with `meta` as its info."""
        request = self.request
        self.backend.store_result(task_id or request.id, meta, state, request=request, **kwargs)

    def send_event(
        self,
        type_: str,
        retry: bool = True,
        retry_policy: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Any:
        """Send an event of your own about this run, with its id as `uuid`."""
        request = self.request
        policy = self.app.conf.task_publish_retry_policy if retry_policy is None else retry_policy
        with self.app.events.default_dispatcher(hostname=request.hostname) as dispatcher:
            return dispatcher.send(
                type_, uuid=request.id, retry=retry, retry_policy=policy, **fields
            )

    def add_trail(self, result: Any) -> Any:
        """Remember a call made by this run; shown as `children` of its result."""
        if self.trail:
            self.request.children.append(result)
        return result

    # -- hooks for subclasses; what they return is ignored

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> Any:
        """Called by the worker before the body; an error here fails the task."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> Any:
        """Called by the worker once the result is stored."""

    def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> Any:
        """Called by the worker when the task is to be retried."""

    def on_failure(
        self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> Any:
        """Called by the worker once the failure is stored; `einfo` has the traceback."""

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> Any:
        """Called by the worker after on_success or on_failure."""

    # -- request

    @property
    def request(self) -> Context:
        """What the running body knows about its call; an empty one outside of a run."""
        if self.request_stack is None:
            self.bind(self.app)
        request: Context | None = self.request_stack.top
        if request is None:
            request = self.__dict__.get("_default_request")
            if request is None:
                request = self.__dict__["_default_request"] = Context()
        return request

    def push_request(self, *args: Any, **kwargs: Any) -> None:
        """Make a request current; what is not given is taken over from the one before."""
        context = Context(*args, **{**self.request.__dict__, **kwargs})
        self.request_stack.push(context)

    def pop_request(self) -> None:
        """End the current request."""
        self.request_stack.pop()

    def start_strategy(self, app: App, consumer: Any, **kwargs: Any) -> Any:
        """The handler a worker's consumer calls with each message of this task."""
        return instantiate(self.Strategy, self, app, consumer, **kwargs)

    # -- binding

    @classmethod
    def bind(cls, app: App) -> App:
        """Make this the task class of `app`: settle from its settings what was left open."""
        was_bound = cls.__dict__.get("__bound__", False)
        cls.__bound__ = True
        cls.app = cls._app = app
        cls._exec_options = None
        cls._names_shadow = cls.shadow_name is not Task.shadow_name
        conf = app.conf
        if cls.typing is None:
            cls.typing = app.strict_typing
        for attribute, setting in cls.from_config:
            if getattr(cls, attribute, None) is None:
                setattr(cls, attribute, conf[setting])
        if not was_bound:
            _warn_of_routing_attributes(cls)
            cls.annotate()
            cls.request_stack = LocalStack()
        cls.on_bound(app)
        return app

    @classmethod
    def on_bound(cls, app: App) -> None:
        """Called when the class has been bound to an application; for subclasses."""

    @classmethod
    def annotate(cls) -> None:
        """Apply task_annotations; a key `@name` wraps the method of that name."""
        for annotation in resolve_all(cls.app.annotations, cls):
            for key, value in annotation.items():
                if key.startswith("@"):
                    cls.add_around(key[1:], value)
                else:
                    setattr(cls, key, value)

    @classmethod
    def add_around(cls, attr: str, around: Callable[[Any], Any]) -> None:
        """Replace a method by what `around(method)` returns."""
        current = getattr(cls, attr)
        original = getattr(current, "__wrapped__", current)
        wrapped = around(original)
        wrapped.__wrapped__ = original
        # A decorated function does not take `self`; neither must what stands in for it.
        is_static = isinstance(_find_in_mro(cls, attr), staticmethod)
        setattr(cls, attr, staticmethod(wrapped) if is_static else wrapped)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], None]:
        # By name and module: the reader imports the module, which registers the task.
        module = type(self).__module__
        return (_unpickle_task_v2, (self.name, module if module in sys.modules else None), None)

    def __repr__(self) -> str:
        app = self.app
        return R_INSTANCE.format(self, app=f"{app.main or '__main__'} at {id(app):#x}", flags="")

    @property
    def __name__(self) -> str:
        return cast(str, type(self).__name__)


def get_actual_ignore_result(task: Any, req: Any) -> bool:
    """Whether the result of this request is not wanted: as the call said, else as the task says."""
    # A context's own default says nothing about this call.
    own = vars(req) if isinstance(req, Context) else None
    wish = getattr(req, "ignore_result", None) if own is None else own.get("ignore_result")
    return bool(task.ignore_result if wish is None else wish)


def _warn_of_routing_attributes(cls: type) -> None:
    for attribute in ("queue", "exchange", "routing_key"):
        if getattr(cls, attribute, None) is not None:
            warnings.warn(
                CDeprecationWarning(
                    f"the task attribute {attribute!r} stops working in version 6.0:"
                    " use the setting task_routes"
                ),
                stacklevel=4,
            )


def _find_in_mro(cls: type, name: str) -> Any:
    for owner in cls.__mro__:
        if name in owner.__dict__:
            return owner.__dict__[name]
    return None


BaseTask = Task
