"""Whether a message that came twice has been worked off already.

With worker_deduplicate_successful_tasks the tracer asks before a late-acked, redelivered call is
run; the worker notes what has succeeded.
"""

from __future__ import annotations

from typing import Any

from taskq.exceptions import BackendGetMetaError
from taskq.states import SUCCESS
from taskq.utils.collections import LimitedSet
from taskq.utils.log import get_logger

__all__ = ("has_succeeded", "successful_requests")

logger = get_logger("taskq.app.trace")

#: Ids of calls known to have succeeded: noted by the worker, and by us when a backend says so.
successful_requests = LimitedSet(maxlen=1000, expires=10800)


def has_succeeded(uuid: str, task_name: str, backend: Any) -> bool:
    """Whether this call has a stored success, or one that this process has seen."""
    if uuid in successful_requests:
        return True
    try:
        state = backend.get_task_meta(uuid, cache=False).get("status")
    except BackendGetMetaError:
        # Not known: running it twice is what a redelivery allows, losing it is not.
        return False
    if state != SUCCESS:
        return False
    fields = {
        "id": uuid,
        "name": task_name,
        "description": "Task already completed successfully.",
    }
    logger.info("Task %(name)s[%(id)s] %(description)s", fields, extra={"data": fields})
    successful_requests.add(uuid)
    return True
