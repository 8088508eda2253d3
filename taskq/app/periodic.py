"""This file takes the periodic tasks that are added by call, not by setting; a part of `App`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from taskq.canvas import Signature
from taskq.utils.log import get_logger

#: Under the name of the module users know.
logger = get_logger("taskq.app.base")


class PeriodicTasks:
    """The part of an application that adds entries to beat_schedule."""

    conf: Any
    configured: bool
    #: added before the configuration was loaded: (key, entry)
    _pending_periodic_tasks: list[tuple[str, dict[str, Any]]]

    def add_periodic_task(
        self,
        schedule: Any,
        sig: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | Sequence[Any] = (),
        name: str | None = None,
        **opts: Any,
    ) -> str:
        """Let beat send a task again and again; gives the name of the entry.

        Arguments:
            schedule: seconds, a timedelta, a crontab or another schedule.
            sig: signature of the task.
            args, kwargs: arguments put before those of the signature.
            name: of the entry, by default the text of the call.
            opts: execution options.

        May be called before the application is configured: the entry is kept until then.
        """
        if not isinstance(sig, Signature):
            raise TypeError(f"the second argument is a signature, task.s(...), not {sig!r}")
        sig = sig.clone(args, dict(kwargs))
        key = name or repr(sig)
        entry = {
            "schedule": schedule,
            "task": sig.name,
            "args": sig.args,
            "kwargs": sig.kwargs,
            "options": {**sig.options, **opts},
        }
        if name is None and self._has_periodic_task(key):
            logger.warning(
                "Periodic task key=%r shadowed a previous unnamed periodic task. Pass a name kwarg"
                " to add_periodic_task to silence this warning.",
                key,
            )
        self._add_periodic_task(key, entry)
        return key

    def _has_periodic_task(self, key: str) -> bool:
        if self.configured:
            return key in self.conf.beat_schedule
        return any(key == pending for pending, _ in self._pending_periodic_tasks)

    def _add_periodic_task(self, key: str, entry: dict[str, Any]) -> None:
        if self.configured:
            self.conf.beat_schedule[key] = entry
        else:
            self._pending_periodic_tasks.append((key, entry))

    def _add_pending_periodic_tasks(self, **_: Any) -> None:
        """The configuration is there (`on_after_configure`)."""
        pending, self._pending_periodic_tasks = self._pending_periodic_tasks, []
        for key, entry in pending:
            self.conf.beat_schedule[key] = entry
