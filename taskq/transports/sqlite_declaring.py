"""A channel's exchanges, queues and bindings: kept in the tables, so that any process sees them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kombu.exceptions import ChannelError
from kombu.transport import virtual
from kombu.transport.base import to_rabbitmq_queue_arguments
from kombu.transport.virtual.base import queue_declare_ok_t
from kombu.utils.uuid import uuid

from taskq.transports import sqlite_store as store
from taskq.transports import sqlite_topology as topology
from taskq.transports.sqlite_lease import ring_for
from taskq.transports.sqlite_message import Message
from taskq.transports.sqlite_topology import QueueOptions

if TYPE_CHECKING:
    from taskq.transports.sqlite import Transport

__all__ = ("DeclaringChannel",)

_TYPES = ("direct", "topic", "fanout")


class DeclaringChannel(virtual.Channel):
    """The part of a channel that makes, finds and deletes what messages pass through."""

    connection: Transport
    supports_fanout = True

    def exchange_declare(
        self,
        exchange: str | None = None,
        type: str = "direct",
        durable: bool = False,
        auto_delete: bool = False,
        arguments: Any = None,
        nowait: bool = False,
        passive: bool = False,
    ) -> None:
        """Make an exchange every process sees; with `passive`, only check that it is there."""
        kind = type or "direct"
        if kind not in _TYPES:
            raise ChannelError(
                f"COMMAND_INVALID - exchange type {kind!r}; this broker has {', '.join(_TYPES)}",
                (40, 10),
                "Channel.exchange_declare",
                "503",
            )
        name = exchange or f"amq.{kind}"
        if not passive:
            self.connection.database.write(topology.declare_exchange, name, kind, auto_delete)
        elif self.connection.database.write(topology.find_exchange, name) is None:
            raise _not_found("exchange", name, "exchange_declare")

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        self.connection.database.write(topology.delete_exchange, exchange, if_unused)

    def prepare_queue_arguments(self, arguments: Any, **kwargs: Any) -> Any:
        return to_rabbitmq_queue_arguments(arguments, **kwargs)

    def queue_declare(self, queue: str | None = None, passive: bool = False, **kwargs: Any) -> Any:
        """Make a queue every process sees; gives its name, number of messages and of consumers.

        Knows the arguments x-expires and x-message-ttl, in milliseconds.
        """
        name = queue or f"amq.gen-{uuid()}"
        database = self.connection.database
        if passive:
            id = self._find_queue(name)
            if id is None:
                raise _not_found("queue", name, "queue_declare")
        else:
            arguments = kwargs.get("arguments") or {}
            options = QueueOptions(
                auto_delete=bool(kwargs.get("auto_delete")),
                owner=self.connection.session.id if kwargs.get("exclusive") else None,
                expires_s=_as_seconds(arguments.get("x-expires")),
                ttl_s=_as_seconds(arguments.get("x-message-ttl")),
            )
            id = database.write(topology.declare_queue, name, options, time.time())
        return queue_declare_ok_t(name, *database.write(store.count, id))

    def queue_delete(
        self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any
    ) -> int:
        """Delete a queue and give the number of messages that went with it.

        Raises ChannelError when a condition does not hold.
        """
        id = self._find_queue(queue)
        if id is None:
            return 0
        messages, consumers = self.connection.database.write(store.count, id)
        if (if_empty and messages) or (if_unused and consumers):
            raise ChannelError(
                f"PRECONDITION_FAILED - queue {queue!r} has {messages} messages and "
                f"{consumers} consumers",
                (50, 40),
                "Channel.queue_delete",
                "406",
            )
        self.connection.database.write(topology.delete_queue, id)
        return messages

    def queue_bind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: Any = None,
        **kwargs: Any,
    ) -> None:
        name = exchange or "amq.direct"
        id = self._find_queue(queue)
        if id is None:
            raise _not_found("queue", queue, "queue_bind")
        if self.connection.database.write(topology.find_exchange, name) is None:
            raise _not_found("exchange", name, "queue_bind")
        self.connection.database.write(topology.bind, id, name, routing_key or "")

    def queue_unbind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: Any = None,
        **kwargs: Any,
    ) -> None:
        id = self._find_queue(queue)
        if id is not None:
            name = exchange or "amq.direct"
            self.connection.database.write(topology.unbind, id, name, routing_key or "")

    def queue_purge(self, queue: str, **kwargs: Any) -> int:
        """Remove the messages nobody has reserved, delayed ones too; give their number."""
        id = self._find_queue(queue)
        return 0 if id is None else self.connection.database.write(topology.purge, id)

    def list_parked(self, queue: str) -> Iterator[tuple[float, Message]]:
        """Give (seconds since the epoch, message) of what waits, the next one first."""
        id = self._find_queue(queue)
        rows = [] if id is None else self.connection.database.write(store.list_delayed, id)
        for due, head, body in rows:
            yield due, Message(store.Reserved(0, 0, id or 0, 0, head, body), self)

    def release_parked(self, queue: str) -> int:
        """Put all that waits into a queue now; gives the number of messages."""
        id = self._find_queue(queue)
        if id is None:
            return 0
        database = self.connection.database
        number, bells = database.write(store.release_delayed, id)
        ring_for(database, bells)
        return number

    def list_bindings(self) -> list[tuple[str, str, str]]:
        return self.connection.database.write(topology.list_bindings)

    def get_exchanges(self) -> list[str]:
        rows = self.connection.database.read("SELECT name FROM taskq_exchange ORDER BY name")
        return [row[0] for row in rows]

    def _find_queue(self, name: str) -> int | None:
        rows = self.connection.database.read("SELECT id FROM taskq_queue WHERE name = ?", (name,))
        return rows[0][0] if rows else None

    def _size(self, queue: str) -> int:
        id = self._find_queue(queue)
        return 0 if id is None else self.connection.database.write(store.count, id)[0]

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return self._find_queue(queue) is not None


def _as_seconds(milliseconds: Any) -> float | None:
    return None if milliseconds is None else float(milliseconds) / 1000


def _not_found(what: str, name: str, method: str) -> ChannelError:
    return ChannelError(f"NOT_FOUND - no {what} {name!r}", (50, 10), f"Channel.{method}", "404")
