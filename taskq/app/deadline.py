"""This file is the connection to the broker that ends what it does in time.

Serves step 4 of the journey. How it works: `AMQP.publish` gives the connection a deadline for as
long as it sends. Attempts to connect, and the pauses between them, end before it, and so does what
our transports wait for (transports/amqp.py). Redis has a limit for each command, which is set when
the connection is opened. A call whose policy says `max_retries: None` has no deadline. What nobody
here can hurry: the look-up of a host name, and a transport of kombu's that knows no time limits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

import kombu
from kombu.exceptions import OperationalError

__all__ = ("TimedConnection",)

#: Transports whose sockets take their limits from the transport options.
_REDIS = "redis"
#: Where transports say which of their errors a new connection may mend.
_SAID = "recoverable_connection_errors"


class TimedConnection(kombu.Connection):
    """kombu's connection, with a deadline while a message is being sent."""

    #: Moment (monotonic) by which it must be over.
    deadline: float | None = None
    #: Seconds from the beginning to the deadline.
    patience_s = 0.0
    #: Seconds its user has already waited to be lent it.
    waited_s = 0.0
    #: Was it opened with much less time than the next sender has?
    is_hurried = False

    def take_waited(self) -> float:
        """Seconds of the next deadline that are over already."""
        waited, self.waited_s = self.waited_s, 0.0
        if waited and self._has_redis():
            self.collect()  # the limit of the open socket would be too long
        return waited

    def calm_down(self) -> None:
        """Close what was opened in a hurry: its limits are too short for the next sender."""
        self.is_hurried = False
        self.collect()

    def is_overdue(self) -> bool:
        """Is the deadline over?"""
        return self.deadline is not None and monotonic() >= self.deadline

    def errors_to_repeat(self, policy: Mapping[str, Any]) -> tuple[type[BaseException], ...]:
        return (
            *(policy.get("retry_errors") or ()),
            *self.recoverable_connection_errors,
            *self.recoverable_channel_errors,
        )

    def repeat(
        self, exc: BaseException, obj: Any, fun: Callable[..., Any], policy: dict[str, Any]
    ) -> Callable[..., Any]:
        """kombu's loop, whose first attempt has failed with `exc`; it ends at the deadline."""
        failed: list[BaseException] = [exc]
        transport = self.transport
        if policy.get("max_retries") is not None and not hasattr(transport, _SAID):
            # Of transports that do not say it kombu repeats anything, but only once.
            setattr(transport, _SAID, self.recoverable_connection_errors)

        def attempt(*args: Any, **kwargs: Any) -> Any:
            try:
                if failed:
                    raise failed.pop()
                return fun(*args, **kwargs)
            except self.errors_to_repeat(policy) as exc:
                if self.is_overdue():
                    raise OperationalError(str(exc)) from exc
                raise

        return super().ensure(obj, attempt, **policy)

    def _ensure_connection(
        self,
        errback: Callable[..., Any] | None = None,
        max_retries: int | None = None,
        interval_start: float = 2,
        interval_step: float = 2,
        interval_max: float = 30,
        callback: Callable[..., Any] | None = None,
        reraise_as_library_errors: bool = True,
        timeout: float | None = None,
    ) -> Any:
        patience = (max_retries, interval_start, interval_step, interval_max)
        if self.deadline is None or self.connected:
            return super()._ensure_connection(
                errback, *patience, callback, reraise_as_library_errors, timeout
            )

        def give_up(exc: BaseException, pause: float) -> None:
            if errback is not None:
                errback(exc, pause)
            if self.deadline is not None and monotonic() + pause >= self.deadline:
                raise exc

        return super()._ensure_connection(
            give_up, *patience, callback, reraise_as_library_errors, timeout
        )

    def _establish_connection(self) -> Any:
        if self.deadline is None:
            return super()._establish_connection()
        left = self.deadline - monotonic()
        if left <= 0:
            raise TimeoutError("the broker did not answer in time")
        kept = self.connect_timeout, self.transport_options
        self.connect_timeout = min(self.connect_timeout or left, left)
        if self._has_redis():
            self.is_hurried = left < self.patience_s / 2
            self._limit_redis(left)
        try:
            return super()._establish_connection()
        finally:
            self.connect_timeout, self.transport_options = kept

    def _has_redis(self) -> bool:
        return getattr(self.transport, "driver_type", None) == _REDIS

    def _limit_redis(self, left: float) -> None:
        options = self.transport_options
        self.transport_options = {
            **options,
            "socket_timeout": min(options.get("socket_timeout") or left, left),
            "socket_connect_timeout": min(
                options.get("socket_connect_timeout") or self.connect_timeout, left
            ),
        }

    def switch(self, conn_str: str) -> None:
        """Go on with another broker; a goodbye to one that has failed would only cost time."""
        self.collect()
        super().switch(conn_str)
