"""Marking a run as ended: a backend stores that, and sets off what hangs on the ending.

Success of a chord's part is counted; failure ends the rest of the chain and calls the errbacks.
Called by the tracer's outcome (app/outcome.py) and by the worker for runs that were lost.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Mapping
from types import MethodType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from billiard.einfo import ExceptionInfo

from taskq import states
from taskq.canvas import Signature, group, maybe_signature
from taskq.context import Context
from taskq.exceptions import BackendStoreError, TaskRevokedError
from taskq.utils.log import get_logger
from taskq.utils.time import get_exponential_backoff_interval

__all__ = ("Marking", "logger")

# Logging configurations know the port under its public name.
logger = get_logger("taskq.backends.base")

T = TypeVar("T")

E_CHORD = (
    "Chords are not part of this version of taskq: a group can not be followed by a task. "
    "Send the group alone and call the next task with the list that GroupResult.get() gives."
)

NO_ERRBACK = (
    "Task %s: link_error holds %.80r, which cannot be called: expected a signature or the name of "
    "a task"
)


class Marking:
    """The endings of a run: done, failed, to be retried, revoked; and that it has begun."""

    if TYPE_CHECKING:
        app: Any
        always_retry: bool
        max_retries: float
        base_sleep_between_retries_ms: int
        max_sleep_between_retries_ms: int

        def encode_result(self, result: Any, state: str) -> Any: ...
        def _store_result(self, *args: Any, **kwargs: Any) -> Any: ...

    def store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Context | None = None,
        **kwargs: Any,
    ) -> Any:
        """Store what is known about a task; gives the value as it was stored.

        A stored SUCCESS is never overwritten. With result_backend_always_retry, errors that the
        store calls recoverable are tried again; BackendStoreError when that did not help.
        """
        result = self.encode_result(result, state)
        if not self.always_retry:
            self._store_result(task_id, result, state, traceback, request=request, **kwargs)
            return result
        failed = BackendStoreError(
            "failed to store result on the backend", task_id=task_id, state=state
        )
        self._retry(
            failed, self._store_result, task_id, result, state, traceback, request=request, **kwargs
        )
        return result

    def mark_as_started(self, task_id: str, **meta: Any) -> Any:
        """A worker has begun to run the task; `meta` says where."""
        return self.store_result(task_id, meta, states.STARTED)

    def mark_as_done(
        self,
        task_id: str,
        result: Any,
        request: Context | None = None,
        store_result: bool = True,
        state: str = states.SUCCESS,
    ) -> None:
        """The task has returned `result`."""
        if store_result:
            self.store_result(task_id, result, state, request=request)
        if request and request.chord:
            self.on_chord_part_return(request, state, result)

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Context | None = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
    ) -> None:
        """The task has raised `exc`: what would have come after it in a chain fails with it."""
        if store_result:
            self.store_result(task_id, exc, state, traceback=traceback, request=request)
        if not request:
            return
        if request.chord:
            self.on_chord_part_return(request, state, exc)
        if request.chain:
            self._fail_rest_of_chain(request.chain, exc, traceback, state, store_result)
        if call_errbacks and request.errbacks:
            self._call_task_errbacks(request, exc, traceback)

    def mark_as_revoked(
        self,
        task_id: str,
        reason: str = "",
        request: Context | None = None,
        store_result: bool = True,
        state: str = states.REVOKED,
    ) -> None:
        """The task will not be run."""
        exc = TaskRevokedError(reason)
        if store_result:
            self.store_result(task_id, exc, state, traceback=None, request=request)
        if request and request.chord:
            self.on_chord_part_return(request, state, exc)

    def mark_as_retry(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Context | None = None,
        store_result: bool = True,
        state: str = states.RETRY,
    ) -> Any:
        """The task has failed with `exc` and will be run again."""
        # Celery stores it whatever store_result says; the tracer does not call us when it is off.
        return self.store_result(task_id, exc, state, traceback=traceback, request=request)

    def fail_from_current_stack(
        self, task_id: str, exc: BaseException | None = None
    ) -> ExceptionInfo:
        """Mark a task as failed with the exception being handled (or `exc` in its place)."""
        type_, current, tb = sys.exc_info()
        if tb is None:
            raise RuntimeError("fail_from_current_stack() is for use inside an except block")
        try:
            failure = current if exc is None else exc
            info = ExceptionInfo((type_, failure, tb))
            self.mark_as_failure(task_id, failure, info.traceback)  # type: ignore[arg-type]  # not None: tb is set
            return info
        finally:
            del tb  # a frame that knows its own traceback is never freed

    # -- what comes after a failure

    def _fail_rest_of_chain(
        self,
        chain: list[Mapping[str, Any]],
        exc: BaseException,
        traceback: str | None,
        state: str,
        store_result: bool,
    ) -> None:
        for step in chain:
            options = step.get("options") or {}
            context = Context(step)
            context.update(options)
            context.id = options.get("task_id")
            context.group = options.get("group_id")
            if store_result and state in states.PROPAGATE_STATES and context.id is not None:
                self.store_result(context.id, exc, state, traceback=traceback, request=context)
            if context.chord:
                self.on_chord_part_return(context, state, exc)

    def _call_task_errbacks(
        self, request: Context, exc: BaseException, traceback: str | None
    ) -> None:
        """Call errbacks that take (request, exc, traceback) here, and send the others as tasks."""
        to_send = []
        for stored in request.errbacks or ():
            if not isinstance(stored, (str, Mapping)):
                logger.error(NO_ERRBACK, request.id, stored)
                continue
            named = Signature(stored) if isinstance(stored, str) else stored
            errback = maybe_signature(named, app=self.app)
            if not self._takes_error(errback):
                to_send.append(errback)
                continue
            try:
                errback(request, exc, traceback)
            except Exception:  # a user's hook must not keep the others from running
                logger.exception("Errback %r raised an exception", errback.task)
        for errback in to_send:
            try:
                self._send_errback(errback, request)
            except Exception:  # as above; its arguments or the broker may refuse it
                logger.exception(
                    "Errback %r of task %s could not be sent", errback.task, request.id
                )

    def _takes_error(self, errback: Any) -> bool:
        """Is this a registered plain function with room for more than the failed task's id?"""
        if errback.subtask_type:
            return False
        try:
            run = self.app.tasks[errback.task].run
        except KeyError:
            return False
        if isinstance(run, MethodType):
            return False  # bound tasks have always been sent
        return _free_positions(run, len(errback.args or ()), errback.kwargs or {}) > 1

    def _send_errback(self, errback: Any, request: Context) -> None:
        task_id = request.id
        options: dict[str, Any] = {"parent_id": task_id, "root_id": request.root_id or task_id}
        delivery = request.delivery_info or {}
        call = group([errback], app=self.app)
        if self.app.conf.task_always_eager or delivery.get("is_eager", False):
            call.apply((task_id,), **options)
        else:
            call.apply_async((task_id,), **options)

    # -- errors of the store

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """May the operation that raised `exc` be tried again?"""
        return False

    def on_backend_retryable_error(self, exc: BaseException) -> None:
        """The store has failed and will be tried again: a chance to drop a broken connection."""

    def _retry(
        self, failed: Exception, operation: Callable[..., T], *args: Any, **kwargs: Any
    ) -> T:
        left = self.max_retries
        attempt = 0
        while True:
            try:
                return operation(*args, **kwargs)
            except Exception as exc:  # the store says which of its errors are safe
                if not self.exception_safe_to_retry(exc):
                    raise
                if left <= 0:
                    raise failed from exc
                left -= 1
                self.on_backend_retryable_error(exc)
                logger.warning(
                    "Failed operation %s. Retrying %s more times.",
                    getattr(operation, "__name__", operation),
                    left,
                    exc_info=True,
                )
            self._pause_before_retry(attempt)
            attempt += 1

    def _pause_before_retry(self, attempt: int) -> None:
        milliseconds = get_exponential_backoff_interval(
            self.base_sleep_between_retries_ms,
            attempt,
            self.max_sleep_between_retries_ms,
            True,
        )
        time.sleep(milliseconds / 1000)

    # -- chords

    def ensure_chords_allowed(self) -> None:
        """Raise NotImplementedError when this backend can not take part in a chord."""

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> NoReturn:
        """Set up what calls `body` once all tasks of the header have ended."""
        self.ensure_chords_allowed()
        raise NotImplementedError(E_CHORD)

    def fallback_chord_unlock(
        self, header_result: Any, body: Any, countdown: float = 1, **kwargs: Any
    ) -> NoReturn:
        """Send the task that looks again and again whether the header has ended."""
        raise NotImplementedError(E_CHORD)

    def on_chord_part_return(
        self, request: Context, state: str, result: Any, **kwargs: Any
    ) -> None:
        """A task of a chord's header has ended.

        Nothing to do in backends that can not count: there a task of its own watches the header.
        """

    def add_to_chord(self, chord_id: str, result: Any) -> NoReturn:
        """Add a task to the header of a chord that is under way."""
        raise NotImplementedError("Backend does not support add_to_chord")

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """How many tasks the header has; nothing to do in backends that can not count."""

    def chord_error_from_stack(
        self, callback: Any, exc: BaseException | None = None
    ) -> ExceptionInfo:
        """The header has failed: fail the body `callback` and call its errbacks."""
        failure = exc or sys.exc_info()[1] or Exception("chord failed")
        options = callback.options
        request = Context(
            id=options.get("task_id"),
            task=callback.task,
            root_id=options.get("root_id"),
            errbacks=options.get("link_error") or [],
            delivery_info={},
        )
        self._call_task_errbacks(request, failure, None)
        return self.fail_from_current_stack(callback.id, exc=exc)


def _free_positions(run: Any, taken: int, kwargs: Mapping[str, Any]) -> float:
    """How many positional arguments `run` can take beside those already given."""
    free = -taken
    for parameter in inspect.signature(run).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            return float("inf")
        if parameter.kind is parameter.KEYWORD_ONLY or parameter.kind is parameter.VAR_KEYWORD:
            continue
        free += parameter.name not in kwargs
    return free
