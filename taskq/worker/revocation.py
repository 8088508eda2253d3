"""This file ends requests before their time: revoked, expired, terminated, cancelled."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from billiard.common import TERM_SIGNAME

from taskq.exceptions import Retry
from taskq.platforms import signals as process_signals
from taskq.signals import task_retry, task_revoked
from taskq.utils.log import get_logger
from taskq.worker import state
from taskq.worker.request_message import RequestMessage

__all__ = ("Revocable",)

logger = get_logger("taskq.worker.request")


class Revocable(RequestMessage):
    """The part of `Request` that does not let it run, or run on."""

    __slots__ = ()

    def revoked(self) -> bool:
        """If revoked or expired: announce and acknowledge it, and say True."""
        if self._already_revoked:
            return True
        expired = self.maybe_expire() if self.expires else False
        if not (expired or self.id in state.revoked or self.is_revoked_by_stamp()):
            return False
        logger.info("Discarding revoked task: %s[%s]", self.name, self.id)
        self._announce_revoked("expired" if expired else "revoked", False, None, expired)
        return True

    def maybe_expire(self) -> bool:
        """True when the moment of expiry has passed; the id is then revoked."""
        if self.expires is None or datetime.now(self.expires.tzinfo) <= self.expires:
            return False
        state.revoked.add(self.id)
        return True

    def is_revoked_by_stamp(self) -> bool:
        """True when one of the task's stamps has been revoked."""
        stamps = self.stamps
        for name, unwanted in state.revoked_stamps.items():
            given = stamps.get(name)
            if given is not None:
                given = given if isinstance(given, (list, tuple, set)) else [given]
                wanted = unwanted if isinstance(unwanted, (list, tuple, set)) else [unwanted]
                if any(value in wanted for value in given):
                    return True
        return False

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        state.task_ready(self)
        self.send_event("task-revoked", terminated=terminated, signum=signum, expired=expired)
        self.task.backend.mark_as_revoked(
            self.id, reason, request=self._context, store_result=self.store_errors
        )
        self.acknowledge()
        self._already_revoked = True
        task_revoked.send(
            sender=self.task,
            request=self._context,
            terminated=terminated,
            signum=signum,
            expired=expired,
        )

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """End the task where it runs, or as soon as it starts."""
        signum = process_signals.signum(signal or TERM_SIGNAME)
        if self.time_start is not None:
            pool.terminate_job(self.worker_pid, signum)
            self._announce_revoked("terminated", True, signum, False)
        else:
            self._terminate_on_ack = pool, signum
        result = self._apply_result and self._apply_result()
        if result is not None:
            result.terminate(signum)

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """End a running task whose message will come again: the broker or the worker is going."""
        signum = process_signals.signum(signal or TERM_SIGNAME)
        if self.time_start is None:
            return
        pool.terminate_job(self.worker_pid, signum)
        again = "Cancelled: the message of this task will be delivered again"
        self.give_up(again if emit_retry else None)

    def give_up(self, why: str | None) -> None:
        """Note that a running task was ended without an outcome; RETRY, if `why` is given."""
        if self._already_cancelled:
            return
        self._already_cancelled = True
        state.task_ready(self)
        self.send_event("task-cancelled")
        if why:
            reason = Retry(why)
            self.task.backend.mark_as_retry(self.id, reason, request=self._context)
            task_retry.send(sender=self.task, request=self._context, reason=reason, einfo=None)
