"""Tasks that wait for their time in Redis: parked by a worker, moved back by any of the queue.

Between the decision to wait (worker/strategy.py) and the reserve that takes the message again.

How it works. Each list of a queue has a sorted set beside it, tags by the moment they are due, and
a hash, message by tag. One script moves a message there out of `unacked`; it goes in the packet in
which the acks of the turn go, and said twice it does no harm. Another moves what is due to the
consuming end of its list, and says when the next one is. Moments are the server's. Every worker
looks more often than the shortest wait is long: so it knows of each message before it is due,
whoever parked it.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import chain, count
from math import inf
from operator import attrgetter
from time import monotonic
from typing import Any, NamedTuple

from kombu.utils.json import loads
from redis.exceptions import NoScriptError, ResponseError

from taskq.transports.redis_line import Command, Line, build_call
from taskq.transports.redis_scripts import PARK, RELEASE
from taskq.transports.redis_settling import Settling
from taskq.utils.log import get_logger

__all__ = ("Delaying", "Parked", "build_ending")

logger = get_logger(__name__)

#: Seconds between looks at what is parked, at most: less than the shortest wait there
#: (worker.strategy.LONGEST_HELD_S).
LOOK_S = 3.0

#: Seconds between looks at least, unless there is more to be moved.
GAP_S = 0.1

#: Messages of a list that are moved in one step.
AT_ONCE = 1000


class Parked(NamedTuple):
    """A message that waits in Redis."""

    #: Seconds since the epoch, by the server's clock.
    due: float
    message: Any


class _Leaving(NamedTuple):
    """A message the worker has given up, on its way."""

    tag: str
    #: Its list, without prefix.
    name: str
    #: Length of what follows the message in its copy.
    ending: int
    #: By our own clock.
    due: float


class Delays:
    """What a channel has parked, and its looks at what is parked in its lists."""

    def __init__(self, channel: Delaying) -> None:
        self.channel = channel
        #: When we look next, by our own clock; never while nothing is consumed.
        self.look_at = inf
        #: Not sent yet; sent, and not answered.
        self._leaving: deque[_Leaving] = deque()
        self._sent: list[_Leaving] = []
        self._looks = False
        self._is_refused = False
        self._trouble = ""

    # -- parking

    def park(self, tag: str, name: str, queue: str, seconds: float) -> bool:
        """Have a message wait with the next packet; False when Redis would not take it."""
        if not self._is_refused:
            moment = monotonic() + seconds
            self._leaving.append(_Leaving(tag, name, len(build_ending(queue)), moment))
            self._look_by(moment)
        return not self._is_refused

    @property
    def has_unsent(self) -> bool:
        """Say whether messages are on their way."""
        return bool(self._leaving or self._sent)

    @property
    def is_due(self) -> bool:
        """Say whether there is something to be sent."""
        return bool(self._leaving) or monotonic() >= self.look_at

    def build_commands(self) -> list[Command]:
        """Give the commands that are due; `hear` wants their replies."""
        commands = []
        self._sent = self._take()
        if self._sent:
            commands.append(self._build_park(self._sent))
        now = monotonic()
        self._looks = now >= self.look_at
        if self._looks:
            self.look_at = inf
            self._look_by(now + LOOK_S)
            triples = self.channel.keys.delayed_triples(self.channel.consumed_lists())
            commands.append(build_call(RELEASE, triples, [AT_ONCE, 0]))
        return commands

    def _take(self) -> list[_Leaving]:
        return [self._leaving.popleft() for _ in range(len(self._leaving))]

    def _build_park(self, leaving: list[_Leaving]) -> Command:
        keys = self.channel.keys
        now = monotonic()
        lists: dict[str, int] = {}
        arguments: list[Any] = []
        for tag, name, ending, due in leaving:
            number = lists.setdefault(name, len(lists))
            arguments += (tag, round(max(due - now, 0.0), 6), number, ending)
        pairs = [key for name in lists for key in keys.delayed(name)]
        return build_call(PARK, [keys.unacked, keys.scores, *pairs], arguments)

    def hear(self, replies: Sequence[Any]) -> None:
        """Take in the replies to the commands that were built."""
        left = iter(replies)
        if self._sent:
            sent, self._sent = self._sent, []
            self._on_parked(sent, next(left))
        if self._looks:
            self._on_released(next(left))

    def _on_parked(self, sent: list[_Leaving], reply: Any) -> None:
        if isinstance(reply, NoScriptError):
            self.channel.session.line.teach()
            self._leaving.extendleft(reversed(sent))
        elif isinstance(reply, Exception):
            logger.warning("Redis does not keep waiting tasks, this worker holds them: %s", reply)
            self._is_refused = True
            # What does not go back now is found when we leave.
            self.channel.is_torn = True
            tags = [each.tag for each in sent]
            self.channel.session.recovery.put_back(tags, unmarked=tags)
            self.channel.hungry = True
            self.channel.connection.wake()
        elif reply and not self.channel.is_torn:
            logger.warning(
                "%d waiting task(s) were given to another worker: this one's lease had ended",
                reply,
            )

    def take_back(self) -> None:
        """The reply was lost: say it all again."""
        self._leaving.extendleft(reversed(self._sent))
        self._sent = []
        if self._looks:
            self._look_by(0.0)

    def flush(self) -> None:
        """Park at once what leaves."""
        line = self.channel.line
        while sent := list(self._leaving):
            replies: list[Any] = []
            line.send([self._build_park(sent)], replies.extend)
            line.hear()
            for _ in sent:
                self._leaving.popleft()
            self._on_parked(sent, replies[0])

    # -- coming back

    def _look_by(self, moment: float) -> None:
        if moment < self.look_at:
            self.look_at = moment
            self.channel.connection.wake_at(moment)

    def look_now(self) -> None:
        """Look with the next packet: there are lists we know nothing of."""
        self._look_by(0.0)

    def _on_released(self, reply: Any) -> None:
        if isinstance(reply, NoScriptError):
            self.channel.session.line.teach()
            self._look_by(0.0)
        elif isinstance(reply, Exception):
            # What does not wait goes on. Said once, not at every look.
            if str(reply) != self._trouble:
                logger.error("Tasks that wait in Redis cannot come back: %s", reply)
            self._trouble = str(reply)
        elif reply[1] is not None:
            seconds = float(reply[1])
            self._look_by(monotonic() + (max(seconds, GAP_S) if seconds > 0 else 0.0))


class Delaying(Settling):
    """The part of a channel that has messages wait, and knows which do."""

    line: Line

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.delays = Delays(self)
        super().__init__(*args, **kwargs)

    def basic_delay(self, delivery_tag: str, seconds: float) -> bool:
        """Have a message wait in Redis; False when it is to be held here.

        It goes at the end of the turn, and comes back unmarked, to whoever is free.
        """
        place = self.held.get(delivery_tag)
        if place is None or not self.delays.park(delivery_tag, *place, seconds):
            return False
        del self.held[delivery_tag]
        if self.connection.loop is None:
            self.delays.flush()
        return True

    def list_parked(self, queue: str) -> Iterator[Parked]:
        """Give the messages of a queue that wait for their time, the next one due first."""
        return merge(*map(self._list_beside, self.lists_of(queue)), key=attrgetter("due"))

    def _list_beside(self, name: str) -> Iterator[Parked]:
        tags, messages = self.keys.delayed(name)
        for start in count(0, AT_ONCE):
            (found,) = self.line.ask(("ZRANGE", tags, start, start + AT_ONCE - 1, "WITHSCORES"))
            if not found:
                return
            # Flat, or in pairs: as the protocol has it.
            flat = list(chain(*found)) if isinstance(found[0], (list, tuple)) else found
            copies = self.line.ask(("HMGET", messages, *flat[::2]))[0]
            for due, copy in zip(flat[1::2], copies, strict=True):
                if copy is not None:
                    payload = loads(copy)
                    payload["properties"].setdefault("delivery_tag", "")
                    yield Parked(float(due), self.Message(payload, channel=self))

    def release_parked(self, queue: str) -> int:
        """Put all that waits back into a queue now; gives the number of messages."""
        triples = self.keys.delayed_triples(self.lists_of(queue))
        total = 0
        while moved := self.line.run(RELEASE, triples, [AT_ONCE, 1])[0]:
            total += int(moved)
        return total

    def _count_parked(self, queue: str) -> int:
        keys = [self.keys.delayed(name)[0] for name in self.lists_of(queue)]
        try:
            return sum(self.line.ask(*[("ZCARD", key) for key in keys]))
        except ResponseError:
            # What some program has put there must not keep a worker from starting.
            return 0

    def _drop_parked(self, queue: str) -> None:
        keys = [key for name in self.lists_of(queue) for key in self.keys.delayed(name)]
        self.line.ask(("DEL", *keys))

    def _size(self, queue: str) -> int:
        return super()._size(queue) + self._count_parked(queue)

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return super()._has_queue(queue, **kwargs) or bool(self._count_parked(queue))

    def _purge(self, queue: str) -> int:
        parked = self._count_parked(queue)
        self._drop_parked(queue)
        return parked + super()._purge(queue)

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        super()._delete(queue, *args, **kwargs)
        self._drop_parked(queue)


def build_ending(queue: str) -> str:
    """Give the end of the stored tuple: exchange '' and the queue as routing key."""
    return f', "", {json.dumps(queue)}]'
