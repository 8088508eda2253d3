"""A channel of the Redis transport: reserve, deliver and settle messages under a worker's lease."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from kombu.transport import redis as kombu_redis
from kombu.utils.json import loads as load_typed
from redis.exceptions import NoScriptError, RedisError

from taskq.transports.consuming import Window
from taskq.transports.redis_delays import Delaying, build_ending
from taskq.transports.redis_lease import Session
from taskq.transports.redis_line import Command, Line, build_call
from taskq.transports.redis_message import Message
from taskq.transports.redis_recovery import Keys
from taskq.transports.redis_scripts import GIVE_BACK, RESERVE
from taskq.transports.redis_settling import BROKEN
from taskq.transports.redis_waits import MOST_WAITS, Waits, Watch
from taskq.utils.log import get_logger
from taskq.utils.serialization import read_json

if TYPE_CHECKING:
    from taskq.transports.redis import Transport

__all__ = ("Channel", "SentinelChannel")

logger = get_logger(__name__)

#: Characters of a message that cannot be read which are logged.
SHOWN = 1024


class FanoutWindow(Window):
    """A window for kombu's own code too, which brings the messages of fanout exchanges."""

    def can_consume(self) -> bool:
        return self.find_room() > 0

    def can_consume_max_estimate(self) -> int | None:
        return max(self.find_room(), 0) if self.prefetch_count else None

    def append(self, message: Any, delivery_tag: str) -> None:
        """Hold a message of a fanout exchange; Redis knows nothing of it."""
        self.channel.held[delivery_tag] = None

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Left to the session, which does it in a thread."""

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Done when the channel is closed."""


class _Receiver(NamedTuple):
    callback: Callable[[Any], Any]
    no_ack: bool


#: Lists, each with its queue.
_Names = list[tuple[str, str]]


class _Call(NamedTuple):
    """A packet whose replies are due: acks, a call of the reserve script, or both."""

    number: int
    #: Messages asked for; 0 for acks alone.
    limit: int
    names: _Names
    acked: list[str]
    #: Commands about what waits for its time.
    delays: int = 0


class _Reserve(NamedTuple):
    """What calls of the reserve script for the same queues, in the same order, have in common."""

    names: _Names
    keys: list[Any]
    arguments: list[Any]


class ReservingChannel(Delaying):
    """What our channels do in their own way; a base of kombu's does the rest."""

    QoS = FanoutWindow
    Message = Message
    connection: Transport
    closed: bool

    def __init__(self, connection: Transport, **kwargs: Any) -> None:
        self._session: Session | None = None
        self._receivers: dict[str, _Receiver] = {}
        self._rung: set[str] = set()
        self._reserves: dict[tuple[str, ...], _Reserve] = {}
        self._call: _Call | None = None
        self._is_patient = False
        self._waits: Waits | Watch | None = None
        self._pid = os.getpid()
        super().__init__(connection, **kwargs)
        self.line = Line(self.pool)
        #: Where calls go whose replies are heard when they come.
        self._calls = Line(self.pool, survives=True)
        self.keys = Keys(
            self.global_keyprefix,
            self.global_keyprefix + self.unacked_key,
            self.global_keyprefix + self.unacked_index_key,
        )

    @property
    def client(self) -> Any:
        """A client for kombu's own commands, over the pool."""
        return self._create_client()

    @property
    def session(self) -> Session:
        """This connection as a consumer; made when it first consumes."""
        if self._session is None:
            self._session = self.connection.find_session(self)
            self._session.holders.append(self.held)
        return self._session

    # -- consuming

    def basic_consume(
        self,
        queue: str,
        no_ack: bool,
        callback: Callable[[Any], Any],
        consumer_tag: str,
        **kwargs: Any,
    ) -> Any:
        result = super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)
        if queue not in self.active_fanout_queues:
            self._receivers[queue] = _Receiver(callback, bool(no_ack))
            self._find_lists()
        self.connection.wake()
        return result

    def _basic_cancel(self, consumer_tag: str) -> None:
        """End a consumer; what was reserved for it and not delivered goes back at once."""
        queue = self._tag_to_queue.get(consumer_tag)
        super()._basic_cancel(consumer_tag)
        if queue in self._receivers and queue not in self._active_queues and self._is_ours():
            del self._receivers[queue]
            self._end_waits()
            self.connection.give_back_waiting(self, queue)
            self._find_lists()

    def _find_lists(self) -> None:
        names = [name for queue in self._receivers for name in self.lists_of(queue)]
        self._reserves.clear()
        self.delays.look_at = inf
        if names:
            self.delays.look_now()
            kind = Waits if len(names) <= MOST_WAITS else Watch
            if not isinstance(self._waits, kind):
                if self._waits is not None:
                    self._end_waits()
                    self._waits.close()
                self._waits = kind(self)
            self.connection.register_lists(self)
        if self._waits is not None:
            self._waits.keep_only(set(names))
        self.hungry = bool(names)

    def consumed_lists(self) -> list[str]:
        """Give the lists consumed from, without prefix."""
        return [name for queue in self._receivers for name in self.lists_of(queue)]

    def _is_ours(self) -> bool:
        return self._pid == os.getpid()

    def on_rung(self, name: str | None) -> None:
        """There is something in a list; with its name, it was moved to our in-flight list."""
        self.hungry = True
        if name is not None:
            self._rung.add(name)

    def turn(self) -> None:
        """Send what was acked and ask for what there is room for, in one packet."""
        if self._call is not None:
            return
        acked = self._take_done() if self._done else []
        limit = self._find_demand(len(acked)) if self._receivers else 0
        if not (limit or acked or self.delays.is_due):
            return
        delays = self.delays.build_commands()
        commands = self._build_acks(acked)
        number, names = 0, _Names()
        if limit:
            # Whatever rings from now on may be news to this call or not.
            self.hungry = False
            number, names, command = self._build_reserve(limit, self._order_queues())
            commands.append(command)
            for queue in self._receivers if self._expires else ():
                commands += self.build_expiries(queue)
        commands += delays
        self._call = call = _Call(number, limit, names, acked, len(delays))
        try:
            self._calls.send(commands, self._on_replies)
        except BROKEN:
            self._take_over(call)
            return
        self.connection.watch(self._calls.socket, self.hear)
        if self.connection.loop is None:
            self.hear()

    def hear(self) -> None:
        """Read what Redis has answered."""
        call = self._call
        try:
            self._calls.hear()
        except BROKEN:
            if call is None:
                raise
            self._take_over(call)

    def _find_demand(self, acked: int) -> int:
        """Give the number of messages to ask for now, in a turn with so many acks."""
        room: int = self.qos.find_room()
        if room <= 0:
            self._end_waits()
            return 0
        if not self.hungry:
            return 0
        window = self.qos.prefetch_count
        # If as many have ended in this turn as are still out, the next will probably end those.
        is_rising = acked >= window - room and 4 * room < 3 * window
        if acked and not self._is_patient and (2 * room < window or is_rising):
            # More acks are on their way, and with them more room. Looked at again when Redis has
            # answered to these acks.
            self._is_patient = True
            return 0
        self._is_patient = False
        return room

    def _order_queues(self) -> list[str]:
        return list(self._queue_cycle.consume(len(self._receivers)))

    def _build_reserve(
        self, limit: int, queues: list[str], no_ack: bool = False
    ) -> tuple[int, _Names, Command]:
        session = self.session
        session.calls += 1
        order = tuple(queues)
        if self._rung or no_ack or order not in self._reserves:
            reserve = self._describe_reserve(order, no_ack)
            if not (self._rung or no_ack):
                self._reserves[order] = reserve
            self._rung.clear()
        else:
            reserve = self._reserves[order]
        prefix = f"{session.id}:{session.calls}:"
        arguments = (session.epoch, prefix, limit, *reserve.arguments)
        return session.calls, reserve.names, build_call(RESERVE, reserve.keys, arguments)

    def _describe_reserve(self, queues: tuple[str, ...], no_ack: bool) -> _Reserve:
        session, keys = self.session, self.keys
        names = [(self._q_for_pri(queue, step), queue)
                 for step in self.priority_steps for queue in queues]  # fmt: skip
        arguments: list[Any] = [len(queues), int(self.queue_order_strategy == "round_robin")]
        for name, queue in names:
            receiver = self._receivers.get(queue)
            keeps = not (receiver.no_ack if receiver else no_ack)
            arguments += (int(name in self._rung), build_ending(queue) if keeps else "")
        pairs = keys.list_pairs(session.id, [name for name, _ in names])
        return _Reserve(names, [session.key, keys.unacked, keys.scores, *pairs], arguments)

    def _on_replies(self, replies: list[Any]) -> None:
        call, self._call = self._call, None
        if call is None:
            return
        if call.delays:
            self.delays.hear(replies[-call.delays :])
        if call.acked:
            self._check_acks(call.acked, replies)
        if not call.limit:
            return
        reply = replies[2 if call.acked else 0]
        if isinstance(reply, NoScriptError):
            self.session.line.teach()
            self.hungry = True
        elif isinstance(reply, Exception):
            raise reply
        elif reply is None:
            # Our lease has ended, or a call before was given up.
            self.session.renew(check=True)
            self.hungry = True
        else:
            self._take_in(call, reply)

    def _take_in(self, call: _Call, reply: list[Any]) -> None:
        prefix = f"{self.session.id}:{call.number}:"
        waiting = self.connection.waiting
        queue = ""
        for number, (found, raw) in enumerate(zip(reply[::2], reply[1::2], strict=True), 1):
            place = call.names[found - 1]
            queue = place[1]
            tag = ""
            receiver = self._receivers.get(queue)
            if receiver is None or not receiver.no_ack:
                tag = f"{prefix}{number}"
                self.held[tag] = place
            waiting.append((self, tag, queue, raw))
        if queue:
            self._queue_cycle.rotate(queue)
        if len(reply) == 2 * call.limit:
            self.hungry = True
        elif self._waits is not None and self.qos.find_room() > 0:
            self._waits.arm(self.consumed_lists())

    def _take_over(self, call: _Call) -> None:
        """The reply to a call was lost: find out which messages it gave us."""
        self._call = None
        self._done.extendleft(reversed(call.acked))
        self.delays.take_back()
        self.is_torn = True
        session = self.session
        session.invalidate_calls()
        logger.info("The connection to Redis broke, and was made anew")
        tags = [f"{session.id}:{call.number}:{n}" for n in range(1, call.limit + 1)]
        copies = session.line.ask(("HMGET", self.keys.unacked, *tags))[0] if tags else []
        for tag, copy in zip(tags, copies, strict=True):
            if copy is not None:
                raw, _, ending = copy[1:].rpartition(b', "", ')
                self.held[tag] = None
                queue = json.loads(b"[" + ending)[0]
                self.connection.waiting.append((self, tag, queue, raw))
        self.hungry = True
        self.connection.wake()

    def deliver(self, tag: str, queue: str, raw: bytes) -> bool:
        """Hand a reserved message to its consumer; False when it is not to be delivered."""
        if tag and tag not in self.held:
            return False
        receiver = self._receivers.get(queue)
        if receiver is None:
            if self.held.pop(tag, self) is not self:
                self.session.recovery.put_back([tag], unmarked=[tag])
            return False
        try:
            payload = (load_typed if b"__type__" in raw else read_json)(raw.decode())
            properties = payload.setdefault("properties", {})
            properties["delivery_tag"] = tag
            if "delivery_info" not in properties:
                properties["delivery_info"] = {"exchange": "", "routing_key": queue}
            message = self.Message(payload, channel=self)
        except (ValueError, TypeError, LookupError, AttributeError) as exc:
            # Whatever some program has pushed there.
            logger.critical("Dropped what is no message from %s: %r (%s)", queue, raw[:SHOWN], exc)
            if tag:
                self.basic_ack(tag)
            return False
        receiver.callback(message)
        return True

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Give the next message of a queue, None when there is none."""
        if self._call is not None:
            self.hear()
        number, names, command = self._build_reserve(1, [queue], no_ack)
        _, _, count, *rest = command
        reply = self.line.run(RESERVE, rest[:count], rest[count:])
        for extra in self.build_expiries(queue):
            self.line.ask(extra)
        if not reply:
            return None
        tag = "" if no_ack else f"{self.session.id}:{number}:1"
        if tag:
            self.held[tag] = names[reply[0] - 1]
        payload = load_typed(reply[1])
        payload["properties"]["delivery_tag"] = tag
        return self.Message(payload, channel=self)

    def basic_qos(
        self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False
    ) -> None:
        self.qos.prefetch_count = prefetch_count
        self.hungry = bool(self._receivers)
        self.connection.wake()

    def _end_waits(self) -> None:
        """Wait no longer; what the waits still brought goes back to the consuming end."""
        if self._waits is None or not (self._waits.is_armed or self._rung):
            return
        if not self._waits.end(self.line):
            self.is_torn = True
        if self._rung:
            pairs = self.keys.list_pairs(self.session.id, self._rung)
            self._rung.clear()
            self.line.run(GIVE_BACK, ["", *pairs], [])
            self.hungry = True

    def check(self, patience_s: float) -> None:
        """Raise ConnectionError when Redis owes us an answer for too long."""
        if self._waits is not None:
            self._waits.check(patience_s)

    def close(self) -> None:
        """End the consumers and give back at once what was not settled."""
        if self.closed:
            return
        try:
            if self._session is not None and self._is_ours():
                self._settle_all(self._session)
        except (RedisError, OSError) as exc:
            # The session tries again, as long as it takes.
            logger.debug("A channel could not be settled: %r", exc)
            self.is_torn = True
        finally:
            if self._session is not None:
                torn = self.is_torn or self.delays.has_unsent
                self._session.is_torn = self._session.is_torn or torn
                self._session.unsent += self._take_done()
            self._receivers.clear()
            if self._waits is not None and self._is_ours():
                self._waits.close()
            self.connection.forget(self._calls.socket)
            self._calls.close()
            self.line.close()
            super().close()

    def _settle_all(self, session: Session) -> None:
        if self._call is not None:
            self.hear()
        acked = self._take_done()
        if acked:
            self._send_acks(acked)
        self.delays.flush()
        self._end_waits()
        waiting = {tag for channel, tag, *_ in self.connection.waiting if channel is self}
        held = [tag for tag in self.held if ":" in tag]
        self.held.clear()
        session.recovery.put_back(held, unmarked=waiting)

    def _close_clients(self) -> None:
        # kombu's own client is made anew each time here.
        subclient = self.__dict__.pop("subclient", None)
        if subclient is not None:
            subclient.close()


class Channel(ReservingChannel, kombu_redis.Channel):
    """A channel to one server."""


class SentinelChannel(ReservingChannel, kombu_redis.SentinelChannel):
    """A channel to whichever server the sentinels name."""
