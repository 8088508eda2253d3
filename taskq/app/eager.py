"""Running a task here, in the caller's process, as a worker would: `Task.apply`.

Same tracer, same hooks and signals as in a worker; what is left out is the message, the pool and
(unless task_store_eager_result) the stored result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu.utils.uuid import uuid

from taskq import states
from taskq._state import get_current_worker_task
from taskq.app.defaults import NAMES
from taskq.exceptions import Retry
from taskq.result import EagerResult
from taskq.utils.functional import maybe_list
from taskq.utils.imports import symbol_by_name
from taskq.utils.nodenames import gethostname

__all__ = ("Eager",)


class Eager:
    """The part of `Task` that runs a call in this process."""

    if TYPE_CHECKING:  # what the rest of Task provides
        name: str
        app: Any
        ignore_result: bool | None
        time_limit: float | None
        soft_time_limit: float | None

    def apply(
        self,
        args: Any = None,
        kwargs: Any = None,
        link: Any = None,
        link_error: Any = None,
        task_id: str | None = None,
        retries: int | None = None,
        throw: bool | None = None,
        logfile: str | None = None,
        loglevel: int | None = None,
        headers: Any = None,
        **options: Any,
    ) -> EagerResult[Any]:
        """Run the task here and now, retries included; gives an EagerResult.

        Arguments:
            link, link_error: signature(s) to call with the result, or when the task fails.
            task_id: text to use as id instead of a new UUID.
            retries: how often this call has been tried before.
            throw: raise the task's error instead of keeping it in the result; without it
                task_eager_propagates decides.
            headers, options: as for `apply_async`; what has no meaning here is left out.
        """
        app = self.app
        if throw is None:
            throw = bool(app.conf.task_eager_propagates)
        retries = retries or 0
        task_id = task_id or uuid()
        request = self._request_for(task_id, retries, options)
        request.update(
            callbacks=maybe_list(link),
            errbacks=maybe_list(link_error),
            headers=headers,
            logfile=logfile,
            loglevel=loglevel or 0,
        )
        # Looked up in its module: agents replace it. Clients that only send do not load it.
        build_tracer = symbol_by_name(NAMES["build_tracer"])
        run = build_tracer(self.name, self, eager=True, propagate=throw, app=app)
        args = () if args is None else args
        ended = run(task_id, args, {} if kwargs is None else kwargs, request)
        if ended.info is None:
            return EagerResult(task_id, ended.retval, states.SUCCESS, name=self.name)
        error = ended.info.retval
        if isinstance(error, Retry) and error.sig is not None:
            again: EagerResult[Any] = error.sig.apply(retries=retries + 1, throw=throw)
            return again
        traceback = ended.retval.traceback
        return EagerResult(task_id, error, ended.info.state, traceback=traceback, name=self.name)

    def _request_for(self, task_id: str, retries: int, options: dict[str, Any]) -> dict[str, Any]:
        """What a message would have said about this call."""
        parent = get_current_worker_task()
        above = None if parent is None else parent.request
        ignore_result = options.get("ignore_result")
        # Shown, though nobody keeps to them here; those of the call are not, as in Celery.
        limits = [self.time_limit, self.soft_time_limit]
        request: dict[str, Any] = {
            "id": task_id,
            "task": self.name,
            "parent_id": above.id if above else None,
            "root_id": (above.root_id or above.id if above else None) or task_id,
            "retries": retries,
            "is_eager": True,
            "hostname": gethostname(),
            "timelimit": limits if any(limits) else None,
            "ignore_result": self.ignore_result if ignore_result is None else ignore_result,
            "delivery_info": {
                "is_eager": True,
                "exchange": options.get("exchange"),
                "routing_key": options.get("routing_key"),
                "priority": options.get("priority"),
            },
        }
        if "stamped_headers" in options:
            names = maybe_list(options["stamped_headers"]) or []
            request["stamped_headers"] = names
            request["stamps"] = {name: maybe_list(options.get(name, [])) for name in names}
        return request
