"""What each ending of a run means, and what follows from it: second half of step 8 of the journey.

    ending    raised by        stored        who hears of it            a late message is
    SUCCESS   -                the value     on_success, task_success   acked
    FAILURE   other Exception  the error     errbacks, on_failure, ...  acked (acks_on_failure)
    RETRY     Retry            its cause     on_retry, task_retry       acked
    IGNORED   Ignore           nothing       the log                    acked
    REJECTED  Reject           nothing (*)   the log                    rejected or requeued

(*) the worker stores a Reject without requeue as FAILURE. What was stored is stored before a hook
hears of it. The tracer (app/trace.py) runs the tasks and decides which ending it was.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from warnings import warn

from billiard.einfo import ExceptionInfo
from kombu.utils.encoding import safe_repr

from taskq import signals
from taskq.canvas import group, maybe_signature
from taskq.exceptions import Ignore, Reject, Retry
from taskq.states import FAILURE, IGNORED, REJECTED, RETRY
from taskq.utils.log import get_logger
from taskq.utils.serialization import get_pickleable_etype, get_pickleable_exception

if TYPE_CHECKING:
    from taskq.context import Context

__all__ = (
    "LOG_TEXTS",
    "TraceInfo",
    "forget_frames",
    "get_log_policy",
    "get_task_name",
    "info",
    "log_policy_t",
    "report",
    "report_internal_error",
    "send_internal_error",
    "send_next_steps",
    "success_fields",
    "trace_ok_t",
    "traceback_clear",
)

logger = get_logger("taskq.app.trace")

#: Texts of the log lines by name. app/trace.py puts its own globals here, because users change the
#: lines by assigning to `celery.app.trace.LOG_FAILURE` and its like.
LOG_TEXTS: MutableMapping[str, Any] = {}

LOG_RECEIVED = "Task %(name)s[%(id)s] received"
LOG_SUCCESS = "Task %(name)s[%(id)s] succeeded in %(runtime)ss: %(return_value)s"
LOG_FAILURE = "Task %(name)s[%(id)s] %(description)s: %(exc)s"
LOG_INTERNAL_ERROR = "Task %(name)s[%(id)s] %(description)s: %(exc)s"
LOG_IGNORED = "Task %(name)s[%(id)s] %(description)s"
LOG_REJECTED = "Task %(name)s[%(id)s] %(exc)s"
LOG_RETRY = "Task %(name)s[%(id)s] retry: %(exc)s"


class log_policy_t(NamedTuple):
    """How an ending that is not a success is logged."""

    format: str
    description: str
    severity: int
    traceback: int
    mail: int


log_policy_reject = log_policy_t(LOG_REJECTED, "rejected", logging.WARNING, 1, 1)
log_policy_ignore = log_policy_t(LOG_IGNORED, "ignored", logging.INFO, 0, 0)
log_policy_internal = log_policy_t(LOG_INTERNAL_ERROR, "INTERNAL ERROR", logging.CRITICAL, 1, 1)
log_policy_expected = log_policy_t(LOG_FAILURE, "raised expected", logging.INFO, 0, 0)
log_policy_unexpected = log_policy_t(LOG_FAILURE, "raised unexpected", logging.ERROR, 1, 1)

_TEXT_NAMES = {
    log_policy_reject: "LOG_REJECTED",
    log_policy_ignore: "LOG_IGNORED",
    log_policy_internal: "LOG_INTERNAL_ERROR",
    log_policy_expected: "LOG_FAILURE",
    log_policy_unexpected: "LOG_FAILURE",
}


class TraceInfo:
    """How a run ended that did not succeed: the state, and the exception that says so."""

    __slots__ = ("retval", "state")

    def __init__(self, state: str, retval: Any = None) -> None:
        self.state = state
        self.retval = retval

    def handle_error_state(
        self, task: Any, req: Context, eager: bool = False, call_errbacks: bool = True
    ) -> ExceptionInfo:
        """Do what this ending asks for; gives what the worker's main process is told."""
        if req.ignores_result(task.ignore_result):
            store_errors = bool(task.store_errors_even_if_ignored)
        else:
            store_errors = not eager or bool(task.store_eager_result)
        handle = getattr(self, _HANDLERS[self.state])
        einfo: ExceptionInfo = handle(
            task, req, store_errors=store_errors, call_errbacks=call_errbacks
        )
        return einfo

    def handle_failure(
        self, task: Any, req: Context, store_errors: bool = True, call_errbacks: bool = True
    ) -> ExceptionInfo:
        """The task failed: store the error and call the errbacks, then tell who listens."""
        error = self.retval
        einfo = _exception_info(error)
        # From here on the error may have to travel: to the backend, and out of this process.
        einfo.exception = sent = get_pickleable_exception(error)
        einfo.type = get_pickleable_etype(type(error))
        task.backend.mark_as_failure(
            req.id,
            sent,
            einfo.traceback,
            request=req,
            store_result=store_errors,
            call_errbacks=call_errbacks,
        )
        task.on_failure(sent, req.id, req.args, req.kwargs, einfo)
        if signals.task_failure.receivers:
            signals.task_failure.send(
                sender=task,
                task_id=req.id,
                exception=sent,
                args=req.args,
                kwargs=req.kwargs,
                traceback=error.__traceback__,
                einfo=einfo,
            )
        self._log_error(task, req, einfo)
        return einfo

    def handle_retry(
        self, task: Any, req: Context, store_errors: bool = True, **kwargs: Any
    ) -> ExceptionInfo:
        """The task will be run again; the message for that has been sent by `retry`."""
        reason = self.retval
        einfo = _exception_info(reason)
        if store_errors:
            task.backend.mark_as_retry(req.id, reason.exc, einfo.traceback, request=req)
        task.on_retry(reason.exc, req.id, req.args, req.kwargs, einfo)
        if signals.task_retry.receivers:
            signals.task_retry.send(sender=task, request=req, reason=reason, einfo=einfo)
        info(
            LOG_TEXTS.get("LOG_RETRY", LOG_RETRY),
            {"id": req.id, "name": get_task_name(req, task.name), "exc": str(reason)},
        )
        return einfo

    def handle_ignore(self, task: Any, req: Context, **kwargs: Any) -> ExceptionInfo:
        """Nobody is told but the log."""
        einfo = _exception_info(self.retval)
        self._log_error(task, req, einfo)
        return einfo

    #: As quietly: the worker gives the message back to the broker.
    handle_reject = handle_ignore

    def _log_error(self, task: Any, req: Context, einfo: ExceptionInfo) -> None:
        error = self.retval
        policy = get_log_policy(task, einfo, error)
        context = {
            "hostname": req.hostname,
            "id": req.id,
            "name": get_task_name(req, task.name),
            "exc": safe_repr(einfo.exception if self.state == FAILURE else error),
            "traceback": einfo.traceback,
            "args": req.get("argsrepr") or safe_repr(req.args),
            "kwargs": req.get("kwargsrepr") or safe_repr(req.kwargs),
            "description": policy.description,
            "internal": einfo.internal,
        }
        text = LOG_TEXTS.get(_TEXT_NAMES.get(policy, ""), policy.format)
        # billiard's copy of the traceback: records are kept by some handlers, frames must not be.
        exc_info = (type(error), error, einfo.tb) if policy.traceback else None
        logger.log(policy.severity, text, context, exc_info=exc_info, extra={"data": context})


_HANDLERS = {
    RETRY: "handle_retry",
    FAILURE: "handle_failure",
    IGNORED: "handle_ignore",
    REJECTED: "handle_reject",
}


class trace_ok_t(NamedTuple):
    """What a run gives: result (or ExceptionInfo), TraceInfo unless it succeeded, seconds, text."""

    retval: Any
    info: TraceInfo | None
    runtime: float | None
    retstr: str | None


#: Makes a trace_ok_t of a tuple without calling a Python function.
report: Callable[[tuple[Any, ...]], trace_ok_t] = partial(tuple.__new__, trace_ok_t)


def get_log_policy(task: Any, einfo: ExceptionInfo, exc: BaseException) -> log_policy_t:
    """How the log tells of this error."""
    if isinstance(exc, Reject):
        return log_policy_reject
    if isinstance(exc, Ignore):
        return log_policy_ignore
    if einfo.internal:
        return log_policy_internal
    if task.throws and isinstance(exc, task.throws):
        return log_policy_expected
    return log_policy_unexpected


def get_task_name(request: Context, default: str) -> str:
    """The name for logs: what the caller asked to be shown (`shadow`), or `default`."""
    return request.shadow or default


def success_fields(
    uuid: str, name: str, request: Context, retstr: str, runtime: float
) -> dict[str, Any]:
    """What LOG_SUCCESS can show."""
    return {
        "id": uuid,
        "name": get_task_name(request, name),
        "return_value": retstr,
        "runtime": runtime,
        "args": request.get("argsrepr") or safe_repr(request.args),
        "kwargs": request.get("kwargsrepr") or safe_repr(request.kwargs),
    }


def info(fmt: str, context: dict[str, Any]) -> None:
    """Log at INFO; the record carries `context` as its data."""
    logger.info(fmt, context, extra={"data": context})


def send_next_steps(
    app: Any, uuid: str, context: Context, retval: Any, priority: int | None
) -> None:
    """Send what waits for this task's result: its callbacks, then the next step of its chain."""
    options: dict[str, Any] = {"parent_id": uuid, "root_id": context.root_id or uuid}
    if priority is not None:
        options["priority"] = priority
    callbacks = [maybe_signature(stored, app=app) for stored in context.callbacks or ()]
    if len(callbacks) > 1:
        groups = [callback for callback in callbacks if isinstance(callback, group)]
        singles = [callback for callback in callbacks if not isinstance(callback, group)]
        callbacks = [*groups, group(singles, app=app)] if singles else groups
    for callback in callbacks:
        callback.apply_async((retval,), **options)
    if context.chain:
        # The chain travels in reverse order.
        *rest, step = context.chain
        maybe_signature(step, app=app).apply_async((retval,), chain=rest, **options)


def report_internal_error(task: Any, exc: BaseException) -> ExceptionInfo:
    """Warn about an error around a body; gives its ExceptionInfo, fit to travel."""
    type_, _, tb = sys.exc_info()
    sent = task.backend.prepare_exception(exc, "pickle")
    einfo = ExceptionInfo((type_, sent, tb), internal=True)
    warn(
        RuntimeWarning(f"Exception raised outside body: {exc!r}:\n{einfo.traceback}"),
        stacklevel=2,
    )
    return einfo


def send_internal_error(
    task: Any, uuid: str, args: Any, kwargs: Any, request: Any, exc: Exception
) -> None:
    """Tell who listens that something around a body has failed."""
    if signals.task_internal_error.receivers:
        signals.task_internal_error.send(
            sender=task,
            task_id=uuid,
            args=args,
            kwargs=kwargs,
            request=request,
            exception=exc,
            traceback=exc.__traceback__,
            einfo=ExceptionInfo(),
        )


def _exception_info(error: BaseException) -> ExceptionInfo:
    if error.__traceback__ is None:
        # Made in the worker's main process and never raised; billiard needs a frame.
        try:
            raise error
        except type(error):
            pass
    return ExceptionInfo((type(error), error, error.__traceback__))


def traceback_clear(exc: BaseException | None = None) -> None:
    """Empty the local variables of the frames in the traceback of `exc`, and of its causes.

    Without `exc`, of the exception that is being handled.
    """
    for error in _with_causes(sys.exc_info()[1] if exc is None else exc):
        tb = error.__traceback__
        while tb is not None:
            try:
                tb.tb_frame.clear()
            except RuntimeError:
                pass  # still running: one of our callers
            tb = tb.tb_next


def forget_frames(exc: BaseException) -> None:
    """Let go of all frames that `exc` and its causes hold.

    An exception that somebody above us keeps in a variable is part of a cycle (exception,
    traceback, frame, variable), and with it all that the failed run had at hand: not freed before
    the garbage collector comes by. What there is to read is text in the ExceptionInfo.
    """
    traceback_clear(exc)
    for error in _with_causes(exc):
        error.__traceback__ = None


def _with_causes(exc: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting = [exc]
    while waiting:
        error = waiting.pop()
        if not isinstance(error, BaseException) or id(error) in seen:
            continue
        seen.add(id(error))
        waiting += [error.__cause__, error.__context__]
        if isinstance(error, Retry):
            waiting.append(error.exc)
        yield error
