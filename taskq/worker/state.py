"""This file holds what a worker process knows about its requests, and whether it is to stop.

Deliberately module-level: signal handlers, remote control commands and the loops all meet here.
A request moves: reserved or scheduled -> active -> gone.
"""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from taskq.app.redelivery import successful_requests
from taskq.exceptions import ImproperlyConfigured, WorkerShutdown, WorkerTerminate
from taskq.utils.collections import LimitedSet
from taskq.version import __version__

if TYPE_CHECKING:
    from taskq.worker.request import Request

__all__ = (
    "SOFTWARE_INFO",
    "active_requests",
    "ended_unsettled",
    "is_cold",
    "maybe_shutdown",
    "merge_revoked",
    "requests",
    "reserved_requests",
    "reset_state",
    "revoked",
    "revoked_stamps",
    "scheduled_requests",
    "successful_requests",
    "task_accepted",
    "task_ready",
    "task_reserved",
    "task_scheduled",
    "total_count",
)

#: What heartbeats and `inspect` say about the software; Celery's monitors know it by this name.
SOFTWARE_INFO = {
    "sw_ident": "py-celery",
    "sw_ver": __version__,
    "sw_sys": platform.system(),
}


def _number_from_environment(name: str, default: float) -> Any:
    """Read a limit from TASKQ_<name> or CELERY_<name>."""
    for prefix in ("TASKQ", "CELERY"):
        variable = f"{prefix}_{name}"
        text = os.environ.get(variable)
        if text:
            try:
                return type(default)(text)
            except ValueError as exc:
                raise ImproperlyConfigured(
                    f"the environment variable {variable} must be a number "
                    f"({type(default).__name__}), not {text!r}"
                ) from exc
    return default


#: How many revoked ids are remembered, and for how many seconds once there are more.
REVOKES_MAX: int = _number_from_environment("WORKER_REVOKES_MAX", 50000)
REVOKE_EXPIRES: float = _number_from_environment("WORKER_REVOKE_EXPIRES", 10800.0)
#: The same for ids of late-acked tasks that have succeeded.
SUCCESSFUL_MAX: int = _number_from_environment("WORKER_SUCCESSFUL_MAX", 1000)
SUCCESSFUL_EXPIRES: float = _number_from_environment("WORKER_SUCCESSFUL_EXPIRES", 10800.0)

#: id -> request, for everything the worker holds.
requests: dict[str, Request] = {}
#: Received and neither running nor waiting for an ETA.
reserved_requests: set[Request] = set()
#: Waiting for an ETA.
scheduled_requests: set[Request] = set()
#: Running.
active_requests: set[Request] = set()
#: Ids of tasks that have succeeded (when deduplication is on).
successful_requests.maxlen = SUCCESSFUL_MAX
successful_requests.expires = SUCCESSFUL_EXPIRES
#: (id, retries) of tasks that have ended and may come again: their connection was lost while they
#: ran, or they had an ETA and were redelivered.
ended_unsettled = LimitedSet(maxlen=SUCCESSFUL_MAX, expires=SUCCESSFUL_EXPIRES)
#: How many tasks of each type have been accepted.
total_count: Counter[str] = Counter()
#: How many tasks have been accepted, in a list so that others can hold on to it.
all_total_count: list[int] = [0]
#: Ids that must not run.
revoked = LimitedSet(maxlen=REVOKES_MAX, expires=REVOKE_EXPIRES)
#: Stamp name -> values that must not run.
revoked_stamps: dict[str, Any] = {}

#: Exit code of a warm shutdown (finish what runs), None while there is no reason to stop.
should_stop: int | bool | None = None
#: Exit code of a cold shutdown (stop now), None while there is no reason to.
should_terminate: int | bool | None = None


def is_cold() -> bool:
    """Tell whether a cold shutdown was asked for."""
    return should_terminate is not None and should_terminate is not False


def maybe_shutdown() -> None:
    """Raise WorkerTerminate or WorkerShutdown, with the exit code, when one was asked for."""
    if is_cold():
        raise WorkerTerminate(should_terminate)
    if should_stop is not None and should_stop is not False:
        raise WorkerShutdown(should_stop)


def reset_state() -> None:
    """Forget every request; what is revoked stays revoked."""
    requests.clear()
    reserved_requests.clear()
    scheduled_requests.clear()
    active_requests.clear()
    successful_requests.clear()
    ended_unsettled.clear()
    total_count.clear()
    all_total_count[:] = [0]


def merge_revoked(task_ids: Iterable[str]) -> None:
    """Take over ids that another worker has seen revoked; it is not known when."""
    for task_id in task_ids:
        if task_id not in revoked:
            revoked.add(task_id)


def task_reserved(request: Any) -> None:
    """A request is going to run as soon as it can."""
    requests[request.id] = request
    reserved_requests.add(request)
    scheduled_requests.discard(request)


def task_scheduled(request: Any) -> None:
    """A request waits for its ETA."""
    requests[request.id] = request
    scheduled_requests.add(request)


def task_accepted(request: Any) -> None:
    """A request has started to run."""
    requests[request.id] = request
    active_requests.add(request)
    total_count[request.name] += 1
    all_total_count[0] += 1


def task_ready(request: Any, successful: bool = False) -> None:
    """A request is over, one way or another."""
    if successful:
        successful_requests.add(request.id)
    requests.pop(request.id, None)
    active_requests.discard(request)
    reserved_requests.discard(request)
    scheduled_requests.discard(request)
