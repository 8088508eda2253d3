"""The settling half of a Redis channel: acks, rejections, and what is held until then."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from taskq.transports.redis_lease import Session
from taskq.transports.redis_line import Command
from taskq.transports.redis_publish import Publishing
from taskq.transports.redis_recovery import Keys
from taskq.utils.log import get_logger

if TYPE_CHECKING:
    from taskq.transports.redis import Transport
    from taskq.transports.redis_delays import Delays

__all__ = ("BROKEN", "Settling")

logger = get_logger(__name__)

#: What makes the connection unusable, not the question.
BROKEN = (RedisConnectionError, RedisTimeoutError, OSError)


class Settling(Publishing):
    """The part of a channel that ends deliveries."""

    connection: Transport
    keys: Keys
    delays: Delays
    _session: Session | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: Delivered or reserved, and not settled: tags, in order.
        #: With list and queue, where they are known.
        self.held: dict[str, tuple[str, str] | None] = {}
        #: Acked, not sent yet.
        self._done: deque[str] = deque()
        #: Whether there may be messages to reserve.
        self.hungry = False
        #: Whether something may lie in Redis under our id that we do not know of.
        self.is_torn = False
        super().__init__(*args, **kwargs)

    @property
    def session(self) -> Session:
        """This connection as a consumer; made when it first consumes."""
        raise NotImplementedError

    def consumed_lists(self) -> list[str]:
        """Give the lists consumed from, without prefix."""
        raise NotImplementedError

    def _end_waits(self) -> None:
        raise NotImplementedError

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """Acknowledge a message; with a Hub it is sent at the end of the turn."""
        for tag in self._tags_up_to(delivery_tag) if multiple else (delivery_tag,):
            if self.held.pop(tag, self) is not self:
                if ":" in tag:
                    self._done.append(tag)
            elif self._session is not None and tag in self._session.gone:
                self._session.gone.discard(tag)
                _log_late([tag])
        if self.connection is None or self.connection.loop is None:
            self.flush_acks()
        else:
            self.connection.wake_from_thread()

    def _tags_up_to(self, delivery_tag: str) -> list[str]:
        tags = list(self.held)
        if not delivery_tag:
            return tags
        return tags[: tags.index(delivery_tag) + 1] if delivery_tag in tags else []

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Drop a message, or put it back at the end of its queue, marked redelivered."""
        if not requeue:
            self.basic_ack(delivery_tag)
        elif self.held.pop(delivery_tag, self) is not self and ":" in delivery_tag:
            self.session.recovery.put_back([delivery_tag], command="LPUSH")
            self.hungry = True
            self.connection.wake()

    def basic_recover(self, requeue: bool = False) -> None:
        """Put everything delivered and not settled back at the consuming end, redelivered."""
        waiting = {tag for channel, tag, *_ in self.connection.waiting if channel is self}
        tags = [tag for tag in self.held if tag not in waiting]
        for tag in tags:
            del self.held[tag]
        self.session.recovery.put_back([tag for tag in tags if ":" in tag])
        self.hungry = True
        self.connection.wake()

    def flush_acks(self, starting: str | None = None) -> bool:
        """Send the acks collected so far; afterwards no crash can bring these messages back.

        `starting` is the delivery tag of a message whose task starts only if this succeeds: gives
        False when that message was no longer ours, and an error takes its ack back.
        """
        # First: when it fails, no ack has been sent that would have to be taken back.
        self.delays.flush()
        acked = self._take_done()
        if starting and starting in acked:
            acked.remove(starting)
            if self._session is not None and not self._session.check():
                self.held[starting] = None
                return False
            late = self._send_acks([starting])
            if late:
                return False
        elif starting and not self.holds(starting):
            return False
        if acked:
            self._send_acks(acked)
        if starting and self.qos.find_room() <= 0:
            # The loop will not come round while the task runs.
            self._end_waits()
        return True

    def _send_acks(self, acked: list[str]) -> bool:
        """Send acks and see that they have arrived; gives whether any came late."""
        for attempt in (1, 2):
            try:
                replies = self.line.ask(*self._build_acks(acked))
                return self._check_acks(acked, replies)
            except BROKEN:
                # Said twice they do no harm.
                if attempt == 2:
                    self._done.extendleft(reversed(acked))
                    raise
        return False

    def _build_acks(self, acked: list[str]) -> list[Command]:
        if not acked:
            return []
        return [("HDEL", self.keys.unacked, *acked), ("ZREM", self.keys.scores, *acked)]

    def _check_acks(self, acked: list[str], replies: list[Any]) -> bool:
        for reply in replies[:2]:
            if isinstance(reply, Exception):
                raise reply
        late = bool(replies[1] < len(acked) and not self.is_torn)
        if late:
            _log_late(acked)
        return late

    def holds(self, delivery_tag: str) -> bool:
        """Say whether a delivered, unsettled message is still ours; asked before starting it.

        False when this process stalled past its lease and the message was given to another.
        """
        if not delivery_tag or ":" not in delivery_tag:
            return True
        return self.session.check() and delivery_tag in self.held

    def _take_done(self) -> list[str]:
        # Pool threads append meanwhile.
        return [self._done.popleft() for _ in range(len(self._done))]


def _log_late(tags: list[str]) -> None:
    logger.warning(
        "An ack came late (one of %s): this worker's lease had ended and the message was given to "
        "another, so its task may have run twice",
        ", ".join(tags),
    )
