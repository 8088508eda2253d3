"""Waiting for messages while there are none: one blocking move per list, or one watch for many.

A wait moves its message into the in-flight list of this worker, where the next reserve finds it:
it is in Redis at every moment, and one message wakes one worker.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from taskq.transports.redis_line import Line

if TYPE_CHECKING:
    from taskq.transports.redis_channel import ReservingChannel

__all__ = ("MOST_WAITS", "Waits", "Watch")

#: Seconds after which a wait that cannot be ended is hung up on.
END_S = 1.0

#: Lists above which one connection watches them all.
MOST_WAITS = 32


class _Wait:
    """A blocking move out of one list, on a connection of its own."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.is_armed = False
        self.since = 0.0
        self.socket: Any = None
        #: The connection as the server calls it.
        self.client = 0


class Waits:
    """The waits of one channel, by list."""

    def __init__(self, channel: ReservingChannel) -> None:
        self.channel = channel
        self._waits: dict[str, _Wait] = {}

    @property
    def is_armed(self) -> bool:
        return any(wait.is_armed for wait in self._waits.values())

    def arm(self, names: Iterable[str]) -> None:
        """Wait on those of the lists nobody waits on yet."""
        for name in names:
            wait = self._waits.get(name)
            if wait is None:
                wait = self._waits[name] = _Wait(Line(self.channel.pool))
            if not wait.is_armed:
                self._arm(name, wait)

    def _arm(self, name: str, wait: _Wait) -> None:
        session = self.channel.session
        line = wait.line
        if line.open() is not wait.socket:
            self.channel.connection.forget(wait.socket)
            wait.client = line.ask(("CLIENT", "ID"))[0]
            wait.socket = line.socket
            self.channel.connection.watch(wait.socket, line.hear)
        pair = session.keys.list_pairs(session.id, [name])
        command = ("BLMOVE", *pair, "RIGHT", "LEFT", round(session.pause_s, 3))
        line.send([command], partial(self._on_answer, name, wait))
        wait.is_armed, wait.since = True, time.monotonic()

    def _on_answer(self, name: str, wait: _Wait, replies: list[Any]) -> None:
        wait.is_armed = False
        if isinstance(replies[0], Exception):
            raise replies[0]
        self.channel.on_rung(name if replies[0] is not None else None)

    def end(self, line: Line) -> bool:
        """End all waits, and read what they still bring; False when one could not be ended."""
        deadline = time.monotonic() + END_S
        left = [wait for wait in self._waits.values() if wait.is_armed]
        while left:
            if any(wait.line.socket is None for wait in left) or time.monotonic() > deadline:
                # A broken line will not bring what its wait has moved, nor say that it ended.
                self.close()
                return False
            try:
                ended = line.ask(*[("CLIENT", "UNBLOCK", wait.client) for wait in left])
            except ResponseError:
                # Not allowed here. Hung up on, the server drops the wait by itself.
                self.close()
                return False
            # One that was not blocked has its answer, or its command has not arrived yet.
            for wait, count in zip(left, ended, strict=True):
                if count or wait.line.has_news:
                    wait.line.hear()
            left = [wait for wait in left if wait.is_armed]
        return True

    def check(self, patience_s: float) -> None:
        """Raise ConnectionError when a server that answers at once has not answered for long."""
        limit = time.monotonic() - self.channel.session.pause_s - patience_s
        for wait in list(self._waits.values()):
            if wait.is_armed and wait.since < limit:
                if not wait.line.has_news:
                    raise RedisConnectionError("Redis does not answer a wait any more")
                wait.line.hear()

    def keep_only(self, names: set[str]) -> None:
        """Give up the connections of lists that are no longer consumed from."""
        for name in set(self._waits) - names:
            self._drop(self._waits.pop(name))

    def close(self) -> None:
        """Hang up."""
        for name, wait in self._waits.items():
            if wait.is_armed:
                # Its answer may be on its way, and a message in its in-flight list.
                self.channel.is_torn = True
                self.channel.on_rung(name)
            self._drop(wait)
        self._waits.clear()

    def _drop(self, wait: _Wait) -> None:
        self.channel.connection.forget(wait.socket)
        wait.line.close()
        wait.is_armed = False


class Watch:
    """One connection that is told of changes of many lists (CLIENT TRACKING).

    Every idle worker is told of every message: that is the price of fewer connections.
    """

    def __init__(self, channel: ReservingChannel) -> None:
        self.channel = channel
        self._line = Line(channel.pool, protocol=3)
        self._socket: Any = None
        self.is_armed = False

    def arm(self, names: Iterable[str]) -> None:
        """Be told of the next message in any of the lists."""
        if self.is_armed:
            return
        if self._line.open() is not self._socket:
            self.channel.connection.forget(self._socket)
            self._line.ask(("CLIENT", "TRACKING", "ON"))
            self._socket = self._line.socket
            self.channel.connection.watch(self._socket, self._on_news)
        self.is_armed = True
        prefix = self.channel.keys.prefix
        # The server tells of a key once, and only after it was read.
        if any(self._line.ask(*[("LLEN", prefix + name) for name in names])):
            self._on_news()

    def _on_news(self) -> None:
        # What is told matters less than that something is: the lists are asked anew anyway. A
        # connection is cheaper than the parts of a reply that could be left on it.
        self.close()
        self.channel.on_rung(None)

    def end(self, line: Line) -> bool:
        """A watch takes nothing: it may go on while there is no room."""
        return True

    def check(self, patience_s: float) -> None:
        """Look at the connection: it says nothing as long as nothing happens."""
        self._line.open()
        if self.is_armed and self._line.socket is not self._socket:
            self._on_news()

    def keep_only(self, names: set[str]) -> None:
        """Watch anew."""
        if self.is_armed:
            self._on_news()

    def close(self) -> None:
        """Hang up."""
        self.channel.connection.forget(self._socket)
        self._socket = None
        self._line.close()
        self.is_armed = False
