"""Running one call of a task: step 8 of a task's journey, enter at `Tracer.run`.

How it works: `build_tracer` looks at a task type once and settles what its runs need (which hooks
are overridden, what is stored and where, what is called). `run` then is four steps:

    begin    the task and its request become current; task_prerun; STARTED is stored if wished
    call     before_start and the body
    settle   callbacks and the chain's next step are sent, the result is stored, and only then
             on_success, task_success and the log hear of it; or, after an exception, what
             app/outcome.py says about this ending
    end      task_postrun; the request is current no longer; connections are tidied up

A pool runs `fast_trace_task`, which decodes the message's body and finds the tracer.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from contextvars import Token
from threading import get_ident
from types import CoroutineType
from typing import Any

from kombu.exceptions import EncodeError, OperationalError
from kombu.serialization import loads as loads_message
from kombu.serialization import prepare_accept_content

from taskq import signals
from taskq._state import _join_will_block, _task_stack, current_app
from taskq.app import outcome
from taskq.app.coroutines import run_coroutine
from taskq.app.loader import BaseLoader
from taskq.app.outcome import (
    LOG_FAILURE,
    LOG_IGNORED,
    LOG_INTERNAL_ERROR,
    LOG_RECEIVED,
    LOG_REJECTED,
    LOG_RETRY,
    LOG_SUCCESS,
    TraceInfo,
    forget_frames,
    get_log_policy,
    get_task_name,
    info,
    log_policy_expected,
    log_policy_ignore,
    log_policy_internal,
    log_policy_reject,
    log_policy_t,
    log_policy_unexpected,
    report,
    report_internal_error,
    send_internal_error,
    send_next_steps,
    success_fields,
    trace_ok_t,
    traceback_clear,
)
from taskq.app.overrides import own_hook, own_method, task_has_custom
from taskq.app.redelivery import has_succeeded
from taskq.backends.base import Backend, DisabledBackend
from taskq.backends.marking import Marking
from taskq.context import Context
from taskq.exceptions import Ignore, InvalidTaskError, Reject, Retry
from taskq.states import EXCEPTION_STATES, FAILURE, IGNORED, REJECTED, RETRY, STARTED, SUCCESS
from taskq.utils.log import get_logger
from taskq.utils.nodenames import gethostname
from taskq.utils.proxy import maybe_evaluate
from taskq.utils.text import saferepr

__all__ = [
    "TraceInfo", "build_tracer", "reset_worker_optimizations", "setup_worker_optimizations",
    "trace_task",
    # the rest of Celery's names of this module
    "EXCEPTION_STATES", "FAILURE", "IGNORED", "IGNORE_STATES", "LOG_FAILURE", "LOG_IGNORED",
    "LOG_INTERNAL_ERROR", "LOG_RECEIVED", "LOG_REJECTED", "LOG_RETRY", "LOG_SUCCESS", "REJECTED",
    "RETRY", "STARTED", "SUCCESS", "fast_trace_task", "get_log_policy", "get_task_name", "info",
    "log_policy_expected", "log_policy_ignore", "log_policy_internal", "log_policy_reject",
    "log_policy_t", "log_policy_unexpected", "report_internal_error", "task_has_custom",
    "trace_ok_t", "trace_task_ret", "traceback_clear",
]  # fmt: skip

logger = get_logger(__name__)

# Users assign to the LOG_ names of this module.
outcome.LOG_TEXTS = globals()

#: endings after which the task is not over, or nobody is to hear of it
IGNORE_STATES = frozenset({IGNORED, RETRY, REJECTED})

send_prerun = signals.task_prerun.send
send_postrun = signals.task_postrun.send
send_success = signals.task_success.send

#: the stack of running tasks, as the context variable it is
current_tasks = _task_stack.items

#: types whose values have a short repr
_SHORT = frozenset({type(None), bool, float})

#: Off when the worker's log would throw the line away; settled in setup_worker_optimizations.
_logs_success = True


#: What is reported of a call that need not be run.
NOTHING_DONE = trace_ok_t(None, None, None, None)


class Tracer:
    """Runs calls of one task type; what is the same for all of them is settled here, once."""

    def __init__(
        self,
        name: str,
        task: Any,
        app: Any,
        loader: Any,
        hostname: str | None,
        eager: bool,
        propagate: bool,
        Info: type[TraceInfo],
        monotonic: Callable[[], float],
    ) -> None:
        self.name = name
        self.task = task
        self.app = app
        self.eager = eager
        self.propagate = propagate
        self.Info = Info
        self.monotonic = monotonic
        self.hostname = hostname or gethostname()
        conf = app.conf
        # A class with a __call__ of its own expects to be called; others need no call in between.
        self.body: Callable[..., Any] = task if task_has_custom(task, "__call__") else task.run
        self.before_start = own_hook(task, "before_start")
        self.on_success = own_hook(task, "on_success")
        self.after_return = own_hook(task, "after_return")
        self.requests = task.request_stack.items
        self.repr_size = task.resultrepr_maxsize
        self.inherits_priority = conf.task_inherit_parent_priority
        self.backend = backend = task.backend
        self.thread = get_ident()
        is_disabled = isinstance(backend, DisabledBackend)
        self.stores = not is_disabled and (not eager or bool(task.store_eager_result))
        self.tracks_started = not is_disabled and not eager and bool(task.track_started)
        self.always_marks = own_method(backend, "mark_as_done", Marking) is not None
        self.deduplicates = bool(
            conf.worker_deduplicate_successful_tasks and task.acks_late and backend.persistent
        )
        self.on_task_init = own_method(loader, "on_task_init", BaseLoader)
        cleanups = (
            own_method(backend, "process_cleanup", Backend),
            own_method(loader, "on_process_cleanup", BaseLoader),
        )
        self.cleanups = [] if eager else [cleanup for cleanup in cleanups if cleanup]

    def run(self, uuid: str, args: Any, kwargs: Any, request: Any = None) -> trace_ok_t:
        """Run one call; gives how it ended, errors included.

        Raises:
            MemoryError, Reject: by a hook or a backend (in the body they are endings).
            Exception: any error, when the tracer was built with `propagate`.
        """
        context = state = retval = None
        try:
            context = Context(request or {}, args=args, called_directly=False, kwargs=kwargs)
            if not isinstance(kwargs, (dict, Mapping)):
                raise InvalidTaskError(f"Task keyword arguments is not a mapping: {kwargs!r:.99}")
            if self.deduplicates and self.is_done_already(uuid, context):
                return NOTHING_DONE
            token = self.begin(uuid, context)
            try:
                started = self.prepare(uuid, context)
                try:
                    if self.before_start is not None:
                        self.before_start(uuid, args, kwargs)
                    retval = self.body(*args, **kwargs)
                    if type(retval) is CoroutineType:
                        retval = run_coroutine(retval)
                except Exception as exc:  # the tracer's edge: the body's own errors are endings
                    state, retval, ended = self.settle_error(context, exc)
                else:
                    state = SUCCESS
                    state, retval, ended = self.settle(uuid, context, retval, started)
                if self.after_return is not None and state not in IGNORE_STATES:
                    einfo = None if ended.info is None else ended.retval
                    self.call_hook("after_return", uuid, state, retval, uuid, args, kwargs, einfo)
                return ended
            finally:
                self.end(uuid, context, state, retval, token)
        except (MemoryError, Reject):
            raise
        except Exception as exc:  # the tracer's edge: a hook, the backend, or we ourselves
            return self.settle_internal_error(uuid, args, kwargs, request, context, exc)

    def begin(self, uuid: str, context: Context) -> Token[bool] | None:
        """The task and its request become current."""
        current_tasks.set((*current_tasks.get(), self.task))
        self.requests.set((*self.requests.get(), context))
        if signals.task_prerun.receivers:
            task = self.task
            send_prerun(
                sender=task, task_id=uuid, task=task, args=context.args, kwargs=context.kwargs
            )
        # An eager run holds no slot of a pool: whether it may wait is for its caller to know.
        return None if self.eager else _join_will_block.set(True)

    def prepare(self, uuid: str, context: Context) -> float:
        """What goes before the body; gives the time on the clock."""
        started = self.monotonic()
        if self.on_task_init is not None:
            self.on_task_init(uuid, self.task)
        if self.tracks_started and not context.ignores_result(self.task.ignore_result):
            self._backend().store_result(
                uuid, {"pid": os.getpid(), "hostname": self.hostname}, STARTED, request=context
            )
        return started

    def settle(self, uuid: str, context: Context, retval: Any, started: float) -> Ending:
        """The body has returned: store it, then tell who listens."""
        stores = self.stores and not context.ignores_result(self.task.ignore_result)
        try:
            # First of all, so that the stored result knows its children, and nothing is reported
            # done that has lost what was to follow.
            if context.callbacks or context.chain:
                try:
                    send_next_steps(self.app, uuid, context, retval, self._priority(context))
                except OperationalError as exc:
                    return self.settle_error(context, exc)
            if stores or context.chord or self.always_marks:
                self._backend().mark_as_done(uuid, retval, context, stores)
        except EncodeError as exc:
            return self.settle_error(context, exc)
        runtime = self.monotonic() - started
        if self.on_success is not None:
            self.call_hook("on_success", uuid, retval, uuid, context.args, context.kwargs)
        if signals.task_success.receivers:
            send_success(sender=self.task, result=retval, runtime=runtime)
        text = repr(retval) if type(retval) in _SHORT else saferepr(retval, self.repr_size)
        if _logs_success:
            info(LOG_SUCCESS, success_fields(uuid, self.name, context, text, runtime))
        return SUCCESS, retval, report((retval, None, runtime, text))

    def settle_error(self, context: Context, exc: Exception) -> Ending:
        """The body has raised: find out which ending that is, and do what it asks for."""
        if isinstance(exc, Reject):
            state = REJECTED
        elif isinstance(exc, Ignore):
            state = IGNORED
        elif self.propagate:
            raise exc
        else:
            state = RETRY if isinstance(exc, Retry) else FAILURE
        ending = self.Info(state, exc)
        einfo = ending.handle_error_state(
            self.task, context, eager=self.eager, call_errbacks=state == FAILURE
        )
        return state, exc, trace_ok_t(einfo, ending, None, None)

    def end(
        self, uuid: str, context: Context, state: str | None, retval: Any, token: Token[bool] | None
    ) -> None:
        """The task is current no longer; the process is made ready for the next one."""
        try:
            if signals.task_postrun.receivers:
                send_postrun(
                    sender=self.task,
                    task_id=uuid,
                    task=self.task,
                    args=context.args,
                    kwargs=context.kwargs,
                    retval=retval,
                    state=state,
                )
        finally:
            if token is not None:
                _join_will_block.reset(token)
            self.requests.set(self.requests.get()[:-1])
            current_tasks.set(current_tasks.get()[:-1])
        for cleanup in self.cleanups:
            try:
                cleanup()
            except MemoryError:
                raise
            except Exception as exc:  # the tracer's edge: the outcome is settled already
                logger.error("Process cleanup failed: %r", exc, exc_info=True)
        if state != SUCCESS and not self.eager and isinstance(retval, BaseException):
            forget_frames(retval)

    def settle_internal_error(
        self,
        uuid: str,
        args: Any,
        kwargs: Any,
        request: Any,
        context: Context | None,
        exc: Exception,
    ) -> trace_ok_t:
        """Something around the body has failed: the task fails with it, whatever the body did."""
        send_internal_error(self.task, uuid, args, kwargs, request, exc)
        if self.eager:
            raise exc
        einfo = report_internal_error(self.task, exc)
        if self.propagate:
            raise exc
        ending = self.Info(FAILURE, exc)
        if context is not None:
            ending.handle_error_state(self.task, context)
        forget_frames(exc)
        return trace_ok_t(einfo, ending, None, None)

    def call_hook(self, name: str, uuid: str, *arguments: Any) -> None:
        """Call a hook of the task that can no longer change how the run ended."""
        try:
            getattr(self, name)(*arguments)
        except (MemoryError, Reject):
            raise
        except Exception as exc:  # hook dispatch is an edge
            if self.eager:
                raise
            logger.error(
                "Task %s[%s] %s handler raised: %r", self.name, uuid, name, exc, exc_info=True
            )

    def is_done_already(self, uuid: str, context: Context) -> bool:
        """Whether this is a second delivery of a call that has succeeded."""
        delivery: Mapping[str, Any] = context.delivery_info or {}
        return bool(delivery.get("redelivered")) and has_succeeded(uuid, self.name, self._backend())

    def _backend(self) -> Any:
        # Backends belong to threads; a pool of threads runs us in many.
        return self.backend if get_ident() == self.thread else self.task.backend

    def _priority(self, context: Context) -> int | None:
        if not self.inherits_priority:
            return None
        priority: int | None = (context.delivery_info or {}).get("priority")
        return priority


#: state, retval, what `run` gives
Ending = tuple[str, Any, trace_ok_t]


def build_tracer(
    name: str,
    task: Any,
    loader: Any = None,
    hostname: str | None = None,
    store_errors: bool = True,
    Info: type[TraceInfo] = TraceInfo,
    eager: bool = False,
    propagate: bool = False,
    app: Any = None,
    monotonic: Callable[[], float] = time.monotonic,
    trace_ok_t: Any = trace_ok_t,
    IGNORE_STATES: Any = IGNORE_STATES,
) -> Callable[..., trace_ok_t]:
    """A function (uuid, args, kwargs, request=None) that runs calls of this task.

    Arguments:
        hostname: node name, stored with STARTED.
        Info: class that handles the endings that are no success.
        eager: run in the caller: nothing is stored (but see task_store_eager_result), and errors
            of hooks are raised.
        propagate: raise the errors of the body instead of handling them.
        store_errors, trace_ok_t, IGNORE_STATES: kept for Celery's signature.
    """
    task = maybe_evaluate(task)
    app = app or task.app
    return Tracer(
        name, task, app, loader or app.loader, hostname, eager, propagate, Info, monotonic
    ).run


# -- for pools


def trace_task(
    task: Any,
    uuid: str,
    args: Any,
    kwargs: Any,
    request: Any = None,
    **opts: Any,
) -> trace_ok_t:
    """Run one call of a task with its tracer, which is built with `opts` at the first call."""
    try:
        if task.__trace__ is None:
            task.__trace__ = build_tracer(task.name, task, **opts)
        ended: trace_ok_t = task.__trace__(uuid, args, kwargs, request or {})
        return ended
    except Exception as exc:  # the tracer's edge: a broken store or hook must not stop the worker
        logger.critical("Task %s[%s]: outcome not stored or told: %s", task.name, uuid, exc)
        send_internal_error(task, uuid, args, kwargs, request, exc)
        return trace_ok_t(report_internal_error(task, exc), TraceInfo(FAILURE, exc), 0.0, None)


def trace_task_ret(
    name: str,
    uuid: str,
    request: dict[str, Any],
    body: Any,
    content_type: str | None,
    content_encoding: str | None,
    loads: Callable[..., Any] = loads_message,
    app: Any = None,
    **extra_request: Any,
) -> tuple[int, Any, float | None]:
    """As `fast_trace_task`, where no worker has prepared the process."""
    app = app or current_app._get_current_object()
    if content_type:
        accept = prepare_accept_content(app.conf.accept_content)
        body = loads(body, content_type, content_encoding, accept=accept)
    args, kwargs = _read_call(request, body, gethostname())
    return _for_main_process(trace_task(app.tasks[name], uuid, args, kwargs, request, app=app))


def fast_trace_task(
    task: str,
    uuid: str,
    request: dict[str, Any],
    body: Any,
    content_type: str | None,
    content_encoding: str | None,
    loads: Callable[..., Any] = loads_message,
    _loc: Any = None,
    hostname: str | None = None,
    **_: Any,
) -> tuple[int, Any, float | None]:
    """Decode and run one call; what a pool's process runs.

    Gives (0, text of the result, seconds) or (1, ExceptionInfo, None).

    Raises:
        DecodeError, ContentDisallowed, InvalidTaskError: the body is not that of a task.
        NotRegistered: the process does not know the task.
    """
    known = _loc or _localized
    if known is None:
        raise RuntimeError(
            "fast_trace_task: this process was not prepared to run tasks. "
            "Call setup_worker_optimizations(app) in it first (pools do so when a process starts)."
        )
    tasks, accept, node = known
    if content_type:
        body = loads(body, content_type, content_encoding, accept=accept)
    args, kwargs = _read_call(request, body, hostname or node)
    found = tasks[task]
    return _for_main_process(trace_task(found, uuid, args, kwargs, request, hostname=node))


def _read_call(request: dict[str, Any], body: Any, hostname: str | None) -> tuple[Any, Any]:
    """Arguments of the call; the rest of the body goes into `request`."""
    try:
        args, kwargs, embed = body
    except (TypeError, ValueError):
        raise InvalidTaskError(
            f"the body of a task is [args, kwargs, embed], not {type(body).__name__} {body!r:.99}"
        ) from None
    request.update(embed or {}, args=args, kwargs=kwargs, hostname=hostname, is_eager=False)
    return args, kwargs


def _for_main_process(ended: trace_ok_t) -> tuple[int, Any, float | None]:
    retval, ending, runtime, text = ended
    return (0, text, runtime) if ending is None else (1, retval, runtime)


# -- settled once per worker process

#: (tasks, content types accepted, node name) of this process's worker
_localized: tuple[Mapping[str, Any], Any, str | None] | None = None


def setup_worker_optimizations(app: Any, hostname: str | None = None) -> None:
    """Prepare this process to run the tasks of `app` with `fast_trace_task`."""
    global _localized, _logs_success
    hostname = hostname or gethostname()
    # Tasks may ask for the current app from any thread.
    app.set_current()
    app.set_default()
    app.finalize()
    _localized = (app.tasks, prepare_accept_content(app.conf.accept_content), hostname)
    _logs_success = logger.isEnabledFor(logging.INFO)
    app.use_fast_trace_task = True


def reset_worker_optimizations(app: Any = current_app) -> None:
    """Undo `setup_worker_optimizations`."""
    global _localized, _logs_success
    _localized = None
    _logs_success = True
    app.use_fast_trace_task = False
