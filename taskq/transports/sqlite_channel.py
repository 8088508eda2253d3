"""A channel of the embedded broker: publish, consume and settle over the tables of one file."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from kombu.utils.uuid import uuid

from taskq.transports import sqlite_store as store
from taskq.transports.consuming import Window
from taskq.transports.sqlite_declaring import DeclaringChannel
from taskq.transports.sqlite_lease import ring_for
from taskq.transports.sqlite_message import Message as Delivery
from taskq.transports.sqlite_message import as_outgoing
from taskq.transports.sqlite_store import Demand, Outgoing, Reserved
from taskq.transports.sqlite_topology import remember_routes
from taskq.utils.log import get_logger
from taskq.utils.sqlite import DatabaseError

if TYPE_CHECKING:
    from taskq.transports.sqlite import Transport

__all__ = ("Channel", "PublishBatch")

logger = get_logger(__name__)


class _Consumer(NamedTuple):
    queue: str
    no_ack: bool
    callback: Callable[[Any], Any]


class Channel(DeclaringChannel):
    """One channel of a connection to the embedded broker."""

    Message = Delivery
    QoS = Window
    connection: Transport
    supports_batch_publish = True

    def __init__(self, connection: Transport, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        #: Delivered and not settled: (message id, session) by delivery tag.
        self.held: dict[int, tuple[int, int]] = {}
        #: Whether there may be messages to reserve.
        self.hungry = False
        #: When the next delayed message is due, in seconds since the epoch.
        self.due: float | None = None
        #: Acked and not yet stored: (delivery tag, (message id, session)).
        self._done: deque[tuple[int, tuple[int, int]]] = deque()
        self._last_tag = 0
        self._callers: dict[str, _Consumer] = {}
        self._queues: dict[int, _Consumer] = {}
        self._turns: deque[int] = deque()
        self._unacked: frozenset[int] = frozenset()
        self._ready_query = ""
        self._version = -1

    # -- publishing

    def prepare_message(
        self,
        body: Any,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: Any = None,
        properties: Any = None,
    ) -> dict[str, Any]:
        properties = properties or {}
        properties.setdefault("priority", priority or 0)
        return {
            "body": body,
            "content-encoding": content_encoding,
            "content-type": content_type,
            "headers": headers or {},
            "properties": properties,
        }

    def basic_publish(
        self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any
    ) -> None:
        """Store a message; when this returns, it survives the death of any process."""
        connection, now = self.connection, time.time()
        outgoing = as_outgoing(message, exchange or "", routing_key or "", now)
        route = connection.routes.get(outgoing[:2])
        if route is None or not store.publish_one(connection.database, route, outgoing, now):
            self.put([outgoing], now)
        elif route.bells:
            ring_for(connection.database, route.bells)

    def put(self, messages: list[Outgoing], now: float) -> None:
        """Store messages in one transaction and ring who consumes them."""
        database, routes = self.connection.database, self.connection.routes
        taken = database.write(store.publish, routes, messages, now)
        remember_routes(routes, taken)
        for bells in {route.bells for route in taken.values()}:
            ring_for(database, bells)

    def create_publish_batch(self, max_size: int) -> PublishBatch:
        """Collect messages for kombu's Producer.batch()."""
        return PublishBatch(self, max_size)

    # -- consuming

    def basic_consume(
        self,
        queue: str,
        no_ack: bool,
        callback: Callable[[Any], Any],
        consumer_tag: str,
        **kwargs: Any,
    ) -> str:
        tag = consumer_tag or f"ctag{self.channel_id}.{uuid()}"
        self.connection.session.consume(queue, self._name_consumer(tag))
        self._callers[tag] = _Consumer(queue, bool(no_ack), callback)
        self._find_queues()
        self.hungry = True
        self.connection.wake()
        return tag

    def basic_cancel(self, consumer_tag: str) -> None:
        """End a consumer; what was reserved for it and not delivered goes back at once."""
        consumer = self._callers.pop(consumer_tag, None)
        if consumer is None:
            return
        if self._is_ours():
            if all(other.queue != consumer.queue for other in self._callers.values()):
                self._give_back_waiting(consumer.queue)
            self.connection.session.cancel(self._name_consumer(consumer_tag))
            self._find_queues()

    def _name_consumer(self, tag: str) -> str:
        # Tags are unique in a channel, sessions have several.
        return f"{self.channel_id}/{tag}"

    def _find_queues(self) -> None:
        """Look up the ids of the queues consumed from, which change when one is made anew."""
        found = self.connection.session.find_queues() if self._callers else {}
        self._queues = {
            found[consumer.queue]: consumer
            for consumer in self._callers.values()
            if consumer.queue in found
        }
        self._turns = deque(self._queues)
        self._unacked = frozenset(id for id, caller in self._queues.items() if caller.no_ack)
        self._ready_query = store.build_ready_query(self._queues)
        self._version = -1

    def _is_ours(self) -> bool:
        """Say whether the session is this process's, not one inherited through a fork."""
        transport = self.connection
        return transport.has_session and transport.session.pid == os.getpid()

    def has_work(self) -> bool:
        """Say whether the next turn would settle something or look for messages."""
        return bool(self._done) or (
            self.hungry and bool(self._callers) and self.qos.find_room() > self._count_waiting()
        )

    def _count_waiting(self) -> int:
        return sum(1 for channel, _ in self.connection.waiting if channel is self)

    def turn(self) -> list[Reserved]:
        """Settle what was acked and reserve what the window has room for, in one transaction."""
        if not self.has_work():
            return []
        done = self._take_done()
        demand = self._find_demand() if self.hungry and self._callers else None
        if not done and (demand is None or not self._is_ready()):
            return []
        if demand is not None:
            # What _is_ready has just looked up anew counts.
            demand = demand._replace(queues=tuple(self._turns), unacked=self._unacked)
        result = self._settle(done, demand)
        if demand is None:
            return []
        if len(result.reserved) < demand.limit:
            self.hungry = False
            self.due = result.due
        self._rotate(result.reserved)
        return result.reserved

    def _find_demand(self) -> Demand | None:
        room = self.qos.find_room() - self._count_waiting()
        if room <= 0:
            return None
        session = self.connection.session.id
        return Demand(session, tuple(self._turns), self._unacked, room, time.time())

    def _is_ready(self) -> bool:
        """Look, without keeping writers out, whether reserving would give anything."""
        database = self.connection.database
        version, ready, due = database.read(self._ready_query)[0]
        if version != self._version:
            self._find_queues()
            version, ready, due = database.read(self._ready_query)[0]
            self._version = version
        self.due = due
        if ready or (due is not None and due <= time.time()):
            return True
        self.hungry = False
        return False

    def _rotate(self, reserved: list[Reserved]) -> None:
        # The queue served last has its next turn after all others.
        if len(self._turns) > 1 and reserved:
            last = reserved[-1].queue
            self._turns.remove(last)
            self._turns.append(last)

    def deliver(self, reserved: Reserved) -> bool:
        """Hand a reserved message to its consumer; False when that has gone meanwhile."""
        consumer = self._queues.get(reserved.queue)
        if consumer is None:
            self._put_back([(reserved.id, reserved.session)], 0)
            return False
        tag = 0
        if not consumer.no_ack:
            tag = self._hold(reserved)
        consumer.callback(Delivery(reserved, self, tag))
        return True

    def _hold(self, reserved: Reserved) -> int:
        tag = self._last_tag = self._last_tag + 1
        self.held[tag] = (reserved.id, reserved.session)
        return tag

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Delivery | None:
        """Give the next message of a queue, None when there is none."""
        id = self._find_queue(queue)
        if id is None:
            return None
        session = 0 if no_ack else self.connection.session.id
        demand = Demand(session, (id,), frozenset((id,) if no_ack else ()), 1, time.time())
        reserved = self.connection.database.write(store.get_one, demand)
        if reserved is None:
            return None
        return Delivery(reserved, self, 0 if no_ack else self._hold(reserved))

    def basic_qos(
        self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False
    ) -> None:
        self.qos.prefetch_count = prefetch_count
        self.connection.wake()

    # -- settling

    def basic_ack(self, delivery_tag: Any, multiple: bool = False) -> None:
        """Acknowledge a message; with a Hub it is stored at the end of the turn."""
        tags = [delivery_tag]
        if multiple:
            tags = [tag for tag in list(self.held) if not delivery_tag or tag <= delivery_tag]
        for tag in tags:
            taken = self.held.pop(tag, None)
            if taken is not None:
                self._done.append((tag, taken))
        if self.connection.loop is None:
            self.flush_acks()
        elif self._done:
            self.connection.wake()

    def basic_reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """Drop a message, or put it back at the end of its queue, marked redelivered."""
        if requeue:
            self._give_back(delivery_tag, store.requeue, time.time())
        else:
            self.basic_ack(delivery_tag)

    def basic_delay(self, delivery_tag: Any, seconds: float) -> None:
        """Put a message back for nobody to have within that time; it is not marked redelivered."""
        self._give_back(delivery_tag, store.delay, time.time() + seconds)

    def _give_back(self, delivery_tag: Any, move: Callable[..., Any], *arguments: Any) -> None:
        taken = self.held.pop(delivery_tag, None)
        if taken is None:
            return
        database = self.connection.database
        try:
            bells = database.write(move, *taken, *arguments)
        except DatabaseError:
            self.held[delivery_tag] = taken
            raise
        if bells is None:
            self._log_late([taken[0]])
        else:
            ring_for(database, bells)

    def basic_recover(self, requeue: bool = False) -> None:
        """Put everything delivered and not settled back at the consuming end, redelivered."""
        taken = list(self.held.values())
        self.held.clear()
        self._put_back(taken, 1)
        self.hungry = True

    def flush_acks(self, starting: int | None = None) -> bool:
        """Store the acks collected so far; afterwards no crash can bring these messages back.

        `starting` is the delivery tag of a message whose task starts only if this succeeds: gives
        False when that message was no longer ours, and an error takes its ack back.
        """
        if not self._done:
            return True
        done = self._take_done()
        late = None
        try:
            late = self._settle(done, None).late
        finally:
            if late is None and starting and self._done[-1][0] == starting:
                self.held[starting] = self._done.pop()[1]
        return not late or done[-1][0] != starting or done[-1][1][0] not in late

    def holds(self, delivery_tag: int) -> bool:
        """Say whether a delivered, unsettled message is still ours; asked before starting it.

        False when this process stalled past its lease and the message was given to another.
        """
        if not delivery_tag:  # of a consumer without acks: it is ours alone
            return True
        taken = self.held.get(delivery_tag)
        if taken is None:
            return False
        session = self.connection.session
        return taken[1] == session.id and session.holds()

    def _take_done(self) -> list[tuple[int, tuple[int, int]]]:
        # Pool threads append meanwhile.
        return [self._done.popleft() for _ in range(len(self._done))]

    def _settle(
        self, done: list[tuple[int, tuple[int, int]]], demand: Demand | None
    ) -> store.Turn:
        unsettled = done
        taken = [entry[1] for entry in done]
        try:
            result = self.connection.database.write(store.turn, taken, demand)
            unsettled = []
        finally:
            self._done.extendleft(reversed(unsettled))
        self._log_late(result.late)
        return result

    def _log_late(self, ids: list[int]) -> None:
        for id in ids:
            logger.warning(
                "The ack of message %s came late: the lease of this worker had ended and the "
                "message was given to another, so its task may have run twice",
                id,
            )

    def _put_back(self, taken: list[tuple[int, int]], tries: int) -> None:
        if taken:
            database = self.connection.database
            ring_for(database, database.write(store.put_back, taken, tries))

    def _give_back_waiting(self, queue: str | None = None) -> None:
        """Give back what was reserved for a queue (all queues when None) and not delivered."""
        kept: list[tuple[Channel, Reserved]] = []
        given: list[tuple[int, int]] = []
        for channel, reserved in self.connection.waiting:
            consumer = self._queues.get(reserved.queue)
            if channel is self and (queue is None or consumer is None or consumer.queue == queue):
                given.append((reserved.id, reserved.session))
            else:
                kept.append((channel, reserved))
        self.connection.waiting.clear()
        self.connection.waiting.extend(kept)
        self._put_back(given, 0)

    def on_rejoined(self) -> None:
        """After a lost lease: look anew for everything."""
        self._find_queues()
        self.hungry = True

    def close(self) -> None:
        """End the consumers and give back at once what was not settled."""
        if self.closed:
            return
        self.closed = True
        try:
            if self._is_ours():
                self.flush_acks()
                self._give_back_waiting()
                taken = list(self.held.values())
                self.held.clear()
                self._put_back(taken, 1)
            for tag in list(self._callers):
                self.basic_cancel(tag)
        finally:
            self.connection.close_channel(self)


class PublishBatch:
    """Messages collected for one transaction: all of them are stored, or none."""

    def __init__(self, channel: Channel, max_size: int) -> None:
        self.channel = channel
        self._max_size = max_size
        self._messages: list[Outgoing] = []

    def publish(
        self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any
    ) -> None:
        """Collect a message; stores all when there are enough."""
        outgoing = as_outgoing(message, exchange or "", routing_key or "", time.time())
        self._messages.append(outgoing)
        if len(self._messages) >= self._max_size:
            self.flush()

    def flush(self) -> None:
        """Store what was collected."""
        messages, self._messages = self._messages, []
        if messages:
            self.channel.put(messages, time.time())

    def discard(self) -> None:
        """Forget what was collected and not flushed."""
        self._messages.clear()

    close = discard
