"""This file is the message behind a request: what it says, and how it is settled.

What every step of the way reads is read once, in the constructor, into slots: reading one costs no
call. What few ask for is looked up in `request_dict` when they do: that costs the others nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Any

from taskq.context import Context
from taskq.exceptions import InvalidTaskError
from taskq.protocol import from_task_v2
from taskq.utils.log import get_logger
from taskq.utils.nodenames import gethostname
from taskq.utils.time import maybe_iso8601, maybe_make_aware
from taskq.worker import state

if TYPE_CHECKING:
    from taskq.app.task import Task

__all__ = ("RequestMessage",)

logger = get_logger("taskq.worker.request")


def noop(*args: Any, **kwargs: Any) -> None:
    """Stand in for an acknowledgement nobody wants."""


class RequestMessage:
    """The part of `Request` that reads its message and acknowledges it."""

    _terminate_on_ack: tuple[Any, Any] | None
    _context_cache: Context | None
    _apply_result: Any

    __slots__ = (
        "__weakref__", "_already_cancelled", "_already_revoked", "_apply_result", "_context_cache",
        "_embed", "_failure_stored", "_terminate_on_ack", "acknowledged", "app", "args", "body",
        "connection_errors", "content_encoding", "content_type", "delivery_info", "eta", "eventer",
        "expires", "hostname", "id", "kwargs", "message", "name", "on_ack", "on_reject",
        "request_dict", "task", "time_limits", "time_start", "type", "utc", "worker_pid",
    )  # fmt: skip

    def __init__(
        self,
        message: Any,
        on_ack: Callable[..., Any] = noop,
        hostname: str | None = None,
        eventer: Any = None,
        app: Any = None,
        connection_errors: Any = None,
        request_dict: Mapping[str, Any] | None = None,
        task: Task[Any, Any] | None = None,
        on_reject: Callable[..., Any] = noop,
        body: Any = None,
        headers: Mapping[str, Any] | None = None,
        decoded: bool = False,
        utc: bool = True,
        maybe_make_aware: Callable[..., Any] = maybe_make_aware,
        maybe_iso8601: Callable[..., Any] = maybe_iso8601,
        **opts: Any,
    ) -> None:
        """Take on a message; InvalidTaskError when it does not describe a call.

        `body` is the raw body, or with decoded=True a triple (args, kwargs, embed).
        """
        headers = headers if headers is not None else message.headers
        properties = message.properties
        delivery = message.delivery_info or {}
        self.message = message
        self.body = message.body if body is None else body
        self.app = app
        self.utc = utc
        payload = self.body if decoded else message.payload
        self.args, self.kwargs, self._embed = from_task_v2(payload)
        self.id: str = read_text(headers, "id")
        self.type: str = read_text(headers, "task")
        self.name: str = headers.get("shadow") or self.type
        self.time_limits = read_time_limits(headers.get("timelimit"))
        self.content_type = None if decoded else message.content_type
        self.content_encoding = None if decoded else message.content_encoding
        self.on_ack = on_ack
        self.on_reject = on_reject
        self.hostname = hostname or gethostname()
        self.eventer = eventer
        self.connection_errors = connection_errors or ()
        self.task = task if task is not None else app.tasks[self.type]
        self.acknowledged = False
        self.time_start: float | None = None
        self.worker_pid: int | None = None
        self._already_revoked = self._already_cancelled = self._failure_stored = False
        self._terminate_on_ack = self._apply_result = self._context_cache = None
        eta, expires = headers.get("eta"), headers.get("expires")
        readers = (self.tzlocal, maybe_iso8601, maybe_make_aware) if eta or expires else ()
        self.eta = read_moment("ETA", eta, *readers) if eta else None
        self.expires = read_moment("expires", expires, *readers) if expires else None
        self.delivery_info = {
            "exchange": delivery.get("exchange"),
            "routing_key": delivery.get("routing_key"),
            "priority": properties.get("priority"),
            "redelivered": delivery.get("redelivered", False),
        }
        # What the task will see as its request, as plain data that may cross to a child process.
        self.request_dict: dict[str, Any] = dict(
            headers,
            properties=properties,
            reply_to=properties.get("reply_to"),
            correlation_id=properties.get("correlation_id"),
            hostname=self.hostname,
            delivery_info=self.delivery_info,
            args=self.args,
            kwargs=self.kwargs,
        )

    # --- settling ---------------------------------------------------------------------------

    def acknowledge(self) -> None:
        """Tell the broker, once, that the message is done with."""
        if not self.acknowledged:
            self.on_ack(logger, self.connection_errors)
            self.acknowledged = True

    def reject(self, requeue: bool = False) -> None:
        """Give the message back to the broker (requeue) or have it thrown away."""
        if not self.acknowledged:
            self.on_reject(logger, self.connection_errors, requeue)
            self.acknowledged = True
            if self.eventer is not None:
                self.send_event("task-rejected", requeue=requeue)

    @property
    def run_key(self) -> tuple[str, int]:
        """(id, retries): what a message keeps when it is delivered again, and no other has."""
        return self.id, self.request_dict.get("retries") or 0

    @property
    def is_with_pool(self) -> bool:
        """True when a child has the task, whether it has said so already or not."""
        job = self._apply_result and self._apply_result()
        return getattr(job, "slot", None) is not None

    def outlive_connection(self) -> None:
        """The connection is lost and the task runs on: its end is remembered for the redelivery."""
        if self.acknowledged:
            # The broker need not have heard of it.
            state.ended_unsettled.add(self.run_key)
            return
        settle = self.on_ack

        def on_ack(log: Any, errors: Any) -> None:
            # Brokers that know a message by its own tag, not the channel's, can still settle it.
            if self.message.channel.connection is not None:
                settle(log, errors)

        self.on_ack = on_ack
        self.remember_end()

    def remember_end(self) -> None:
        """See to it that its end is remembered, for what may come of its message later."""
        settle, key = self.on_ack, self.run_key

        def on_ack(log: Any, errors: Any) -> None:
            state.ended_unsettled.add(key)
            settle(log, errors)

        self.on_ack = on_ack

    def take_over(self, redelivered: RequestMessage) -> None:
        """Settle another delivery of the same message in place of the one this was made of."""
        old, new = self.message, redelivered.message
        is_copy = new.channel is old.channel and new.delivery_tag != old.delivery_tag
        if self.acknowledged or is_copy:
            redelivered.acknowledge()
            return
        self.message = redelivered.message
        self.on_ack, self.on_reject = redelivered.on_ack, redelivered.on_reject

    def send_event(self, type: str, **fields: Any) -> None:
        """Send a task event if somebody wants them."""
        eventer = self.eventer
        if eventer is not None and eventer.enabled and self.task.send_events:
            eventer.send(type, uuid=self.id, **fields)

    @property
    def _context(self) -> Context:
        """The call as the task would see it, for those who act in the task's place."""
        if self._context_cache is None:
            self._context_cache = Context({**self.request_dict, **self._embed})
        return self._context_cache

    @property
    def store_errors(self) -> bool:
        """True when a failure is to be stored."""
        return not self.task.ignore_result or bool(self.task.store_errors_even_if_ignored)

    # --- what it says -----------------------------------------------------------------------

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Facts for `inspect`; safe=True gives the texts of the arguments instead of them."""
        return {
            "id": self.id,
            "name": self.name,
            "args": self.argsrepr if safe else self.args,
            "kwargs": self.kwargsrepr if safe else self.kwargs,
            "type": self.type,
            "hostname": self.hostname,
            "time_start": self.time_start,
            "acknowledged": self.acknowledged,
            "delivery_info": self.delivery_info,
            "worker_pid": self.worker_pid,
        }

    def humaninfo(self) -> str:
        """Name and id."""
        return f"{self.name}[{self.id}]"

    def __str__(self) -> str:
        parts = [
            self.humaninfo(),
            f" ETA:[{self.eta}]" if self.eta else "",
            f" expires:[{self.expires}]" if self.expires else "",
        ]
        return " ".join(part for part in parts if part)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.humaninfo()} {self.argsrepr} {self.kwargsrepr}>"

    @property
    def tzlocal(self) -> tzinfo | None:
        """The zone of moments that came without one."""
        return None if self.utc else self.app.timezone

    @property
    def task_id(self) -> str:
        """The id, by its older name."""
        return self.id

    @property
    def task_name(self) -> str:
        """The shown name, by its older name."""
        return self.name

    @property
    def argsrepr(self) -> Any:
        """The positional arguments as the sender has put them into words."""
        return self.request_dict.get("argsrepr", "")

    @property
    def kwargsrepr(self) -> Any:
        """The same for the keyword arguments."""
        return self.request_dict.get("kwargsrepr", "")

    @property
    def ignore_result(self) -> Any:
        """True when the sender wants no result."""
        return self.request_dict.get("ignore_result", False)

    @property
    def correlation_id(self) -> str | None:
        """What the message is an answer to; the id, for a task."""
        return self.request_dict.get("correlation_id")

    @property
    def reply_to(self) -> str | None:
        """Where the result is to be sent, with rpc://."""
        return self.request_dict.get("reply_to")

    @property
    def root_id(self) -> str | None:
        """Id of the task the whole chain of calls began with."""
        return self.request_dict.get("root_id")

    @property
    def parent_id(self) -> str | None:
        """Id of the task that has sent this one."""
        return self.request_dict.get("parent_id")

    @property
    def chord(self) -> Any:
        """The chord body this task counts towards, or None."""
        return self._embed.get("chord")

    @property
    def errbacks(self) -> Any:
        """The signatures to call on failure, or None."""
        return self._embed.get("errbacks")

    @property
    def group(self) -> str | None:
        """Id of the group the task is a member of."""
        return self.request_dict.get("group")

    @property
    def group_index(self) -> int | None:
        """Place in the group."""
        return self.request_dict.get("group_index")

    @property
    def groups(self) -> list[Any]:
        """The stamp called `groups`, if any."""
        return self.request_dict.get("groups") or []

    @property
    def stamps(self) -> dict[str, Any]:
        """Stamp name -> value."""
        stamps = self.request_dict.get("stamps") or {}
        return {name: stamps.get(name) for name in self.stamped_headers}

    @property
    def stamped_headers(self) -> list[str]:
        """Names of the stamps."""
        return self.request_dict.get("stamped_headers") or []

    @property
    def replaced_task_nesting(self) -> int:
        """How many times the task was replaced by another."""
        return self.request_dict.get("replaced_task_nesting") or 0


def read_text(headers: Mapping[str, Any], key: str) -> str:
    value = headers.get(key)
    if not isinstance(value, str) or not value:
        raise InvalidTaskError(f"the message header {key!r} must be text, not {value!r:.120}")
    return value


def read_time_limits(limits: Any) -> tuple[float | None, float | None]:
    if not limits:
        return None, None
    try:
        hard, soft = limits
    except (TypeError, ValueError):
        raise InvalidTaskError(
            f"the message header 'timelimit' must be [hard, soft] seconds, not {limits!r:.120}"
        ) from None
    return hard, soft


def read_moment(
    what: str,
    value: Any,
    zone: tzinfo | None,
    parse: Callable[..., Any],
    aware: Callable[..., Any],
) -> datetime:
    """Read ETA or expiry; one without an offset is of `zone`, None for UTC.

    Raises InvalidTaskError, naming the value, when it is no moment.
    """
    try:
        moment: datetime = parse(value)
        return aware(moment, zone) if moment.tzinfo is None else moment
    except (AttributeError, ValueError, TypeError) as exc:
        raise InvalidTaskError(f"invalid {what} value {value!r:.120}: {exc}") from exc
