"""Every error and warning: the words in which any stop of the journey says what went wrong.

    Exception
      CeleryError                   anything the queue itself raises
        ImproperlyConfigured        a setting is wrong or missing
          UnknownBackend            a result backend nobody knows under that name
          UnknownPool               a worker pool nobody knows under that name
          UnknownTransport          a broker nobody knows under that scheme (also KeyError)
          InvalidQueueName          a name no queue can have (also ValueError)
          UnknownTransport          a broker nobody knows under that scheme (also KeyError)
          InvalidQueueName          a queue cannot have that name (also ValueError)
        SecurityError               a message or result could not be trusted
        TaskPredicate               a task tells the worker how its run ends
          Ignore                    keep no record
          Reject                    give the message back to the broker
          Retry                     run again later
        TaskError                   something is wrong with a task or its outcome
          QueueNotFound             (also KeyError)
          NotRegistered             (also KeyError)
          AlreadyRegistered
          IncompleteStream
          TimeoutError              the result did not arrive in time
          MaxRetriesExceededError
          TaskRevokedError
          InvalidTaskError          the message is not a task
          ChordError
      BackendError                  the result backend failed
        BackendGetMetaError
        BackendStoreError
      OperationalError              kombu's: the broker failed
        BatchPublishError           messages sent together, some of unknown fate (also kombu's)
        UnknownCompression          (also KeyError)
        UnknownCompression          a compression nobody knows under that name (also KeyError)
      SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError, Terminated      billiard's
      CeleryCommandException        click's: the command line ends with an exit code
    SystemExit
      WorkerShutdown                warm: finish what runs, then stop
      WorkerTerminate               cold: stop now
    Warning
      CeleryWarning (AlwaysEagerIgnored DuplicateNodenameWarning DuplicateTaskNameWarning
                     FixupWarning NotConfigured SecurityWarning)
      CDeprecationWarning, CPendingDeprecationWarning
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from datetime import datetime
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from billiard.exceptions import (
    SoftTimeLimitExceeded,
    Terminated,
    TimeLimitExceeded,
    WorkerLostError,
)
from kombu.exceptions import BatchPublishError as _BatchPublishError
from kombu.exceptions import OperationalError
from kombu.utils.encoding import safe_repr

from taskq.utils.text import closest

if TYPE_CHECKING:
    from taskq.utils.command_exception import CeleryCommandException as CeleryCommandException

__all__ = (
    "reraise",
    # warnings
    "CeleryWarning",
    "AlwaysEagerIgnored",
    "DuplicateNodenameWarning",
    "DuplicateTaskNameWarning",
    "FixupWarning",
    "NotConfigured",
    "SecurityWarning",
    "CDeprecationWarning",
    "CPendingDeprecationWarning",
    # core errors
    "CeleryError",
    "ImproperlyConfigured",
    "UnknownBackend",
    "UnknownPool",
    "UnknownTransport",
    "InvalidQueueName",
    "BatchPublishError",
    "SecurityError",
    # how a run ends
    "TaskPredicate",
    "Ignore",
    "Reject",
    "Retry",
    # task errors
    "TaskError",
    "QueueNotFound",
    "IncompleteStream",
    "NotRegistered",
    "AlreadyRegistered",
    "TimeoutError",
    "MaxRetriesExceededError",
    "TaskRevokedError",
    "InvalidTaskError",
    "ChordError",
    # result backends
    "BackendError",
    "BackendGetMetaError",
    "BackendStoreError",
    # of our libraries
    "OperationalError",
    "UnknownCompression",
    "SoftTimeLimitExceeded",
    "TimeLimitExceeded",
    "WorkerLostError",
    "Terminated",
    # programs
    "CeleryCommandException",
    "WorkerShutdown",
    "WorkerTerminate",
)

UNREGISTERED_FMT = "Task of kind {0} never registered, please make sure it's imported."


def reraise(
    tp: type[BaseException], value: BaseException, tb: TracebackType | None = None
) -> NoReturn:
    """Raise `value` as if it had been raised where `tb` points. `tp` is kept for callers' sake."""
    if value.__traceback__ is not tb:
        raise value.with_traceback(tb)
    raise value


class CeleryWarning(UserWarning):
    """Base of all warnings that speak to users."""


class AlwaysEagerIgnored(CeleryWarning):
    """send_task() does not look at task_always_eager."""


class DuplicateNodenameWarning(CeleryWarning):
    """Two workers answered under the same node name."""


class DuplicateTaskNameWarning(CeleryWarning):
    """Two different functions were registered under the same task name."""


class FixupWarning(CeleryWarning):
    """An integration with another framework could not be set up."""


class NotConfigured(CeleryWarning):
    """The configuration module could not be found; defaults are used."""


class SecurityWarning(CeleryWarning):
    """Something works but is not safe."""


class CPendingDeprecationWarning(PendingDeprecationWarning):
    """A name that will be deprecated."""


class CDeprecationWarning(DeprecationWarning):
    """A name that will be removed."""


class CeleryError(Exception):
    """Base of all errors of the queue itself."""


class TaskPredicate(CeleryError):
    """Base of what a task raises to say how its run ends."""


class Retry(TaskPredicate):
    """The task is to be run again later.

    Arguments:
        message: text for logs; without it, it is made from `exc` and `when`.
        exc: the error that caused the retry: an exception, or its text.
        when: seconds from now, or the moment as a datetime.
        is_eager: the retried run is in this process, at once.
        sig: the signature of the next run.
    """

    #: Text of the error, also where the error itself could not be rebuilt.
    excs: str | None = None
    message: str | None = None
    exc: BaseException | None = None
    when: float | datetime | None = None
    is_eager: bool
    sig: Any

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | str | None = None,
        when: float | datetime | None = None,
        is_eager: bool = False,
        sig: Any = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(exc, str):
            self.exc, self.excs = None, exc
        else:
            self.exc, self.excs = exc, None if exc is None else safe_repr(exc)
        self.message = message
        self.when = when
        self.is_eager = is_eager
        self.sig = sig
        super().__init__(message, exc, when, **kwargs)

    def humanize(self) -> str:
        """`in 3s` or `at 2026-01-01 00:00:00`."""
        if isinstance(self.when, numbers.Number):
            return f"in {self.when}s"
        return f"at {self.when}"

    def __str__(self) -> str:
        if self.message:
            return self.message
        if self.excs:
            return f"Retry {self.humanize()}: {self.excs}"
        return f"Retry {self.humanize()}"

    def __reduce__(self) -> tuple[type[Retry], tuple[Any, ...]]:
        return self.__class__, (self.message, self.exc, self.when)


#: Old name of `Retry`.
RetryTaskError = Retry


class Ignore(TaskPredicate):
    """The worker keeps no record of this run: no state, no result, no event."""


class Reject(TaskPredicate):
    """The message goes back to the broker: to the queue again, or to its dead-letter exchange."""

    def __init__(self, reason: Any = None, requeue: bool = False) -> None:
        self.reason = reason
        self.requeue = requeue
        super().__init__(reason, requeue)

    def __repr__(self) -> str:
        return f"reject requeue={self.requeue}: {self.reason}"


class ImproperlyConfigured(CeleryError):
    """A setting is missing, wrong, or does not fit another one."""


class _UnknownName(ImproperlyConfigured):
    kind = "name"

    def __init__(self, name: object = "", known: Iterable[str] = ()) -> None:
        self.name = name
        self.known = tuple(known)
        super().__init__(name, self.known)

    def __str__(self) -> str:
        near = closest(str(self.name), self.known)
        if near is not None:
            return f"unknown {self.kind} {self.name!r}; did you mean {near!r}?"
        if self.known:
            return f"unknown {self.kind} {self.name!r}; known are: {', '.join(sorted(self.known))}"
        return f"unknown {self.kind} {self.name!r}"


class UnknownBackend(_UnknownName):
    """No result backend is known under this name: `UnknownBackend(name, known_names)`."""

    kind = "result backend"


class UnknownPool(_UnknownName):
    """No worker pool is known under this name: `UnknownPool(name, known_names)`."""

    kind = "worker pool"


class UnknownTransport(_UnknownName, KeyError):
    """No broker is known under this scheme of a URL: `UnknownTransport(name, known_names)`."""

    kind = "broker transport"


class InvalidQueueName(ImproperlyConfigured, ValueError):
    """A queue cannot have this name, on any broker."""


class UnknownCompression(OperationalError, KeyError):
    """No compression is known under this name; brokers differ in what they raise, so it is both."""

    # KeyError shows the repr of its argument, quotes and all.
    __str__ = OperationalError.__str__


class BatchPublishError(OperationalError, _BatchPublishError):
    """Sending messages together broke off; they are not sent again, since some may have arrived.

    Attributes:
        unknown_ids: ids of the calls of which nobody knows whether the broker has them.
        sent_ids: ids of the calls the broker certainly has; the rest was not sent.
    """

    def __init__(
        self, reason: str, unknown_ids: Iterable[str] = (), sent_ids: Iterable[str] = ()
    ) -> None:
        self.unknown_ids = list(unknown_ids)
        self.sent_ids = list(sent_ids)
        super().__init__(reason, self.unknown_ids, self.sent_ids)

    def __str__(self) -> str:
        return str(self.args[0])


class SecurityError(CeleryError):
    """A message or a result cannot be trusted."""


class TaskError(CeleryError):
    """Base of errors about a task or its outcome."""


class QueueNotFound(KeyError, TaskError):
    """A call was routed to a queue that is not in task_queues."""


class IncompleteStream(TaskError):
    """The end of a stream was found, but not all of its data."""


class NotRegistered(KeyError, TaskError):
    """No task is registered under this name."""

    def __repr__(self) -> str:
        return UNREGISTERED_FMT.format(self)


class AlreadyRegistered(TaskError):
    """A task is already registered under this name."""


class TimeoutError(TaskError):
    """The result did not arrive within the time given."""


class MaxRetriesExceededError(TaskError):
    """The task has been tried as often as it may be."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.task_args = kwargs.pop("task_args", [])
        self.task_kwargs = kwargs.pop("task_kwargs", {})
        super().__init__(*args, **kwargs)


class TaskRevokedError(TaskError):
    """The task was revoked, so it has no result."""


class InvalidTaskError(TaskError):
    """The message's data is not that of a task."""


class ChordError(TaskError):
    """A task of the chord's header failed, so its body cannot run."""


class BackendError(Exception):
    """The result backend failed."""


class BackendGetMetaError(BackendError):
    """A result could not be read, all attempts included."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.task_id = kwargs.get("task_id", "")
        super().__init__(*args)

    def __repr__(self) -> str:
        return f"{super().__repr__()} task_id:{self.task_id}"


class BackendStoreError(BackendError):
    """A result could not be written, all attempts included."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.state = kwargs.get("state", "")
        self.task_id = kwargs.get("task_id", "")
        super().__init__(*args)

    def __repr__(self) -> str:
        return f"{super().__repr__()} state:{self.state} task_id:{self.task_id}"


class WorkerTerminate(SystemExit):
    """Stop the worker now; tasks that run are cancelled."""


#: Old name of `WorkerTerminate`.
SystemTerminate = WorkerTerminate


class WorkerShutdown(SystemExit):
    """Stop the worker when the tasks that run have ended."""


def __getattr__(name: str) -> Any:
    if name == "CeleryCommandException":
        # With it comes click, which clients that send tasks do without.
        module = import_module("taskq.utils.command_exception")
        value = globals()[name] = module.CeleryCommandException
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

