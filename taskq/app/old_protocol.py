"""This file is the part of `app.amqp` that makes messages of protocol 1.

Instead of step 3 of the journey, where the setting task_protocol is 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Any

from taskq import protocol
from taskq.protocol import TaskMessage

if TYPE_CHECKING:
    from taskq.app.base import App

__all__ = ("OldProtocol",)


class OldProtocol:
    """What makes messages that very old workers read."""

    app: App
    argsrepr_maxsize: int
    kwargsrepr_maxsize: int

    def as_task_v1(
        self,
        task_id: str,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        countdown: float | None = None,
        eta: datetime | str | None = None,
        group_id: str | None = None,
        group_index: int | None = None,
        expires: float | datetime | str | None = None,
        retries: int = 0,
        chord: Any = None,
        callbacks: Any = None,
        errbacks: Any = None,
        reply_to: str | None = None,
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
        create_sent_event: bool = False,
        root_id: str | None = None,
        parent_id: str | None = None,
        shadow: str | None = None,
        now: datetime | None = None,
        timezone: tzinfo | None = None,
        **compat_kwargs: Any,
    ) -> TaskMessage:
        """The message of a call in protocol 1; see `taskq.protocol.as_task_v1`."""
        if now is None and (countdown or expires is not None):
            now = self.app.now()
        return protocol.as_task_v1(
            task_id,
            name,
            args,
            kwargs,
            countdown,
            eta,
            group_id,
            group_index,
            expires,
            retries,
            chord,
            callbacks,
            errbacks,
            reply_to,
            time_limit,
            soft_time_limit,
            create_sent_event,
            root_id,
            parent_id,
            shadow,
            now,
            timezone,
            utc=self.app.conf.enable_utc,
            argsrepr_maxsize=self.argsrepr_maxsize,
            kwargsrepr_maxsize=self.kwargsrepr_maxsize,
            repr_maxlevels=self.app.conf.task_repr_maxlevels,
        )
