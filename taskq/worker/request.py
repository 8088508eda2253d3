"""This file is a delivery the worker has taken on: hand it to the pool, then acknowledge it.

Step 7 of the journey (docs/journey.md). `worker/strategy.py` makes a `Request` and decides when it
runs; `execute_using_pool` hands the tracer (step 8) to the pool, and the pool reports back through
`on_accepted`, `on_success`, `on_failure` and `on_timeout`. Only this file settles a message with
the broker.

How a message is settled. Early (the default): acknowledged when the pool has started the task, so
that a crash does not repeat a task that did not ask for it. Late (`acks_late`): after the outcome
is stored, by the rules of `_settle_failure`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import ref as weak_reference

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from kombu.exceptions import OperationalError

from taskq.app import trace as tracing
from taskq.app.outcome import TraceInfo
from taskq.exceptions import Ignore, Reject, Retry, TaskRevokedError
from taskq.signals import task_failure
from taskq.states import RETRY
from taskq.utils.log import get_logger
from taskq.worker import state
from taskq.worker.revocation import Revocable

if TYPE_CHECKING:
    from taskq.app.task import Task

__all__ = ("Request", "build_task_runner", "create_request_cls")

logger = get_logger(__name__)


class Request(Revocable):
    """One delivery: what is to be run, and how it ends for the broker."""

    __slots__ = ()

    #: What the pool runs; settled per task type by `create_request_cls`.
    _trace: ClassVar[Callable[..., Any] | None] = None
    #: True: ids of successful tasks are kept, so that a redelivered one is not run again.
    _remembers_success: ClassVar[bool] = False
    #: True: the pool runs the task in this thread, and nothing else happens meanwhile.
    _blocks_loop: ClassVar[bool] = False

    # --- on the way -------------------------------------------------------------------------

    def execute_using_pool(self, pool: Any, **kwargs: Any) -> Any:
        """Run in the pool; TaskRevokedError when the task was revoked or has expired."""
        if self._is_unwanted():
            raise TaskRevokedError(self.id)
        task = self.task
        if self._blocks_loop and not self._settle_before_start():
            return None
        hard, soft = self.time_limits
        result = pool.apply_async(
            self._trace or tracing.fast_trace_task,
            args=(
                self.type,
                self.id,
                self.request_dict,
                # Decoded once, here, where a message that is wrong is refused.
                (self.args, self.kwargs, self._embed),
                None,
                None,
            ),
            accept_callback=self.on_accepted,
            timeout_callback=self.on_timeout,
            callback=self.on_success,
            error_callback=self.on_failure,
            soft_timeout=soft or task.soft_time_limit,
            timeout=hard or task.time_limit,
            correlation_id=self.id,
            discard_if=self._is_unwanted,
        )
        if result is not None:
            self._apply_result = weak_reference(result)
        return result

    def _is_unwanted(self) -> bool:
        """Look again, when the pool has a slot for it: revoked or expired while it waited there."""
        return bool(
            (self.expires or self.id in state.revoked or state.revoked_stamps) and self.revoked()
        )

    def execute(self, loglevel: int | None = None, logfile: str | None = None) -> Any:
        """Run here and now, without a pool; gives the return value or the exception info."""
        if self.revoked():
            return None
        if not self.task.acks_late:
            self.acknowledge()
        request = {**self.request_dict, **self._embed, "loglevel": loglevel, "logfile": logfile}
        outcome = tracing.trace_task(
            self.task, self.id, self.args, self.kwargs, request,
            hostname=self.hostname, loader=self.app.loader, app=self.app,
        )  # fmt: skip
        if outcome.info:
            self.reject(requeue=False)
        else:
            self.acknowledge()
        return outcome.retval

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """The pool has started the task (at `time_accepted` on the monotonic clock)."""
        self.worker_pid = pid
        # Wall-clock time of the start: what is monotonic means nothing to who asks.
        self.time_start = time.time() - (time.monotonic() - time_accepted)
        state.task_accepted(self)
        if not self.task.acks_late:
            # Ack first: a crash must not repeat a task that did not ask for it.
            self.acknowledge()
        if self.eventer is not None:
            self.send_event("task-started")
        if self._terminate_on_ack is not None:
            self.terminate(*self._terminate_on_ack)

    def on_success(self, failed__retval__runtime: tuple[Any, Any, float], **kwargs: Any) -> Any:
        """The tracer has come back: (failed, result text or exception info, seconds)."""
        failed, retval, runtime = failed__retval__runtime
        if failed:
            if isinstance(retval.exception, (SystemExit, KeyboardInterrupt)):
                raise retval.exception
            return self.on_failure(retval, return_ok=True)
        state.task_ready(self, successful=self._remembers_success)
        if self.task.acks_late:
            self.acknowledge()
        if self.eventer is not None:
            self.send_event("task-succeeded", result=retval, runtime=runtime)
        return None

    # --- endings ----------------------------------------------------------------------------

    def on_failure(
        self, exc_info: ExceptionInfo, send_failed_event: bool = True, return_ok: bool = False
    ) -> Any:
        """The task ended by an exception; with return_ok the tracer has stored and logged it."""
        state.task_ready(self)
        exc = exc_info.exception
        if isinstance(exc, ExceptionWithTraceback):
            exc = exc.exc
        if isinstance(exc, Reject):
            if not exc.requeue:
                self._store_failure(exc, exc_info, calls_hook=False)
                self._announce_failed(exc, exc_info)
            return self.reject(requeue=exc.requeue)
        if isinstance(exc, Ignore):
            return self.acknowledge()
        if isinstance(exc, Retry):
            return self.on_retry(exc_info)
        if self._already_cancelled:
            # Its message is neither acknowledged nor rejected: it comes again.
            return None
        if isinstance(exc, Terminated):
            self._announce_revoked("terminated", True, str(exc), False)
            return None
        if isinstance(exc, WorkerLostError) and self._retry_lost(exc):
            return self.on_retry(exc_info)
        requeued = self.task.acks_late and self._settle_failure(exc)
        if not return_ok and not requeued:
            # Nobody has stored it: the child is gone.
            self._store_failure(exc, exc_info)
        if send_failed_event and not requeued:
            self._announce_failed(exc, exc_info)
        if not return_ok:
            logger.error("Task handler raised error: %r", exc, exc_info=exc_info.exc_info)
        return None

    def _announce_failed(self, exc: BaseException, exc_info: ExceptionInfo) -> None:
        if self.eventer is not None:
            self.send_event("task-failed", exception=repr(exc), traceback=exc_info.traceback)

    def _retry_lost(self, exc: WorkerLostError) -> bool:
        """Send a task again whose child was lost, if it is to be and has retries left."""
        task, context = self.task, self._context
        again = context.retries + 1
        if not task.retry_on_worker_lost:
            return False
        if task.max_retries is not None and again > task.max_retries:
            return False
        delay = task.default_retry_delay
        signature = task.signature_from_request(context, countdown=delay, retries=again)
        try:
            signature.apply_async()
        except OperationalError as error:
            logger.error("Cannot send %s again after its child was lost: %s", self, error)
            return False
        reason = Retry(exc=exc, when=delay, sig=signature)
        # As the child would have done.
        TraceInfo(RETRY, reason).handle_retry(task, context)
        return True

    def _settle_failure(self, exc: BaseException) -> bool:
        """Settle the message of a failed late-ack task; True when it will be run again."""
        task = self.task
        if isinstance(exc, WorkerLostError) and task.reject_on_worker_lost:
            # A message that comes back a second time is likely what kills the children.
            self.reject(requeue=True)
            return True
        if isinstance(exc, TimeLimitExceeded):
            self._settle_timeout()
        elif _acks(task, task.acks_on_failure):
            self.acknowledge()
        else:
            self.reject(requeue=False)
        return False

    def _settle_timeout(self) -> None:
        if _acks(self.task, self.task.acks_on_timeout):
            self.acknowledge()
        else:
            self.reject(requeue=True)

    def _store_failure(
        self, exc: BaseException, einfo: ExceptionInfo | None = None, calls_hook: bool = True
    ) -> None:
        """Do, in the child's place, what belongs to a failure; once."""
        if self._failure_stored:
            return
        self._failure_stored = True
        task = self.task
        task.backend.mark_as_failure(
            self.id, exc, request=self._context, store_result=self.store_errors
        )
        try:
            if calls_hook:
                task.on_failure(exc, self.id, self.args, self.kwargs, einfo)
        except Exception as error:  # a hook of the user's must not stop the worker
            logger.error("Task %s on_failure handler raised: %r", self, error, exc_info=True)
        if task_failure.receivers:
            task_failure.send(
                sender=task,
                task_id=self.id,
                exception=exc,
                args=self.args,
                kwargs=self.kwargs,
                traceback=einfo and einfo.traceback,
                einfo=einfo,
            )

    def on_retry(self, exc_info: ExceptionInfo) -> None:
        """The task has sent itself again; this message has done its duty."""
        if self.task.acks_late:
            self.acknowledge()
        if self.eventer is not None:
            exc = getattr(exc_info.exception, "exc", exc_info.exception)
            self.send_event("task-retried", exception=repr(exc), traceback=exc_info.traceback)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """A time limit (seconds) has run out; after the hard one the child is gone."""
        if soft:
            logger.warning("Soft time limit (%ss) exceeded for %s[%s]", timeout, self.name, self.id)
            return
        state.task_ready(self)
        logger.error("Hard time limit (%ss) exceeded for %s[%s]", timeout, self.name, self.id)
        self._store_failure(TimeLimitExceeded(timeout))
        if self.task.acks_late:
            self._settle_timeout()

    def _settle_before_start(self) -> bool:
        """Acknowledge before a task that holds up the loop; False when it must not start.

        Channels that collect the acks of a turn of the loop would hold them while the task runs.
        """
        if not self.task.acks_late:
            # Ack first: a crash must not repeat a task that did not ask for it.
            self.acknowledge()
        flush = getattr(self.message.channel, "flush_acks", None)
        if flush is None or flush(self.message.delivery_tag):
            return True
        # This worker stalled past its lease: the message, and so the task, is somebody else's.
        logger.warning("Not running %s: its message was given to another worker", self)
        state.task_ready(self)
        return False


def _acks(task: Task[Any, Any], own: bool | None) -> bool:
    """Read acks_on_failure or acks_on_timeout: unset, the older option for both decides."""
    if own is None:
        own = task.acks_on_failure_or_timeout
    return True if own is None else own


def create_request_cls(
    base: type[Request],
    task: Task[Any, Any],
    pool: Any,
    hostname: str | None,
    eventer: Any,
    ref: Any = weak_reference,
    revoked_tasks: Any = state.revoked,
    task_ready: Callable[..., Any] = state.task_ready,
    trace: Callable[..., Any] | None = None,
    app: Any = None,
) -> type[Request]:
    """Give a Request class for one task type, with what that type settles settled."""
    fast = getattr(app, "use_fast_trace_task", True)
    target = trace or (tracing.fast_trace_task if fast else tracing.trace_task_ret)

    class TaskRequest(base):  # type: ignore[misc,valid-type] # the base is chosen by the task
        __slots__ = ()
        _trace = staticmethod(target)
        _remembers_success = bool(app and app.conf.worker_deduplicate_successful_tasks)
        _blocks_loop = bool(getattr(pool, "runs_in_caller", False))

    TaskRequest.__name__ = TaskRequest.__qualname__ = base.__name__
    return TaskRequest


def build_task_runner(pool: Any) -> Callable[[Request], None]:
    """Give what the worker does with a request whose time has come: hand it to `pool`."""

    def process_task(request: Request) -> None:
        try:
            request.execute_using_pool(pool)
        except TaskRevokedError:
            # Announced and acknowledged when it was found out.
            pass

    return process_task
