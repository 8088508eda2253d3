"""One kept connection to Redis: commands leave in one packet, replies are read in order.

What all parts of the Redis transport speak through; who asks from another thread waits his turn.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from taskq.transports.redis_scripts import HASHES, SOURCES
from taskq.utils.redis_packing import pack_commands

__all__ = ("Command", "Line", "build_call")

Command = Sequence[Any]
#: Called with the replies to one packet; an error reply is an exception among them.
Receiver = Callable[[list[Any]], None]

#: Seconds after a reply for which the server is taken to be there, by who can do without it.
TRUSTED_S = 1.0


class Line:
    """A connection that stays open, and opens itself when it is needed."""

    def __init__(self, pool: Any, survives: bool = False, **options: Any) -> None:
        """`pool` is the redis.ConnectionPool that knows how to connect; it lends nothing.

        survives: what is sent may be lost with the connection, its sender takes care of that.
        """
        self._trusted_s = TRUSTED_S if survives else 0.0
        self._heard_at = 0.0
        self._build: Callable[[], Any] = lambda: pool.connection_class(
            **{**pool.connection_kwargs, **options}
        )
        self._connection: Any = None
        self._pid = 0
        #: The socket that `_poll` looks at.
        self._polled: Any = None
        self._poll: Callable[[int], Any] | None = None
        self._lock = threading.RLock()
        #: Who waits for replies, and for how many.
        self._waiting: deque[tuple[int, Receiver]] = deque()

    def ask(self, *commands: Command) -> list[Any]:
        """Send commands in one packet and give their replies; raises the first error of them."""
        with self._lock:
            self._send(commands)
            replies = self._read(len(commands))
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def run(self, script: str, keys: Sequence[Any], arguments: Sequence[Any]) -> Any:
        """Run one of our scripts, teaching it to a server that does not know it."""
        command = build_call(script, keys, arguments)
        try:
            return self.ask(command)[0]
        except NoScriptError:
            self.teach()
            return self.ask(command)[0]

    def teach(self) -> None:
        """Load our scripts into the server: it forgets them when it restarts or fails over."""
        self.ask(*[("SCRIPT", "LOAD", source) for source in SOURCES.values()])

    def send(self, commands: Sequence[Command], receiver: Receiver) -> None:
        """Send commands; `hear`, or the next question, gives their replies to `receiver`."""
        with self._lock:
            self._send(commands)
            self._waiting.append((len(commands), receiver))

    def hear(self) -> None:
        """Read the replies that are due, waiting for them."""
        with self._lock:
            while self._waiting:
                # Taken out first: an error ends the wait for all of them.
                count, receiver = self._waiting.popleft()
                receiver(self._read(count))

    @property
    def has_news(self) -> bool:
        """Say whether `hear` would find something: a reply, or that the server hung up.

        On a closed line it would not: nothing is due any more.
        """
        if self.socket is None:
            return False
        try:
            return bool(self._connection.can_read(0))
        except (RedisError, OSError):
            return True

    def open(self) -> Any:
        """Connect if need be, and give the socket."""
        with self._lock:
            connection = self._connection
            if connection is None or self._pid != os.getpid():
                # A fork's copy of the socket is its parent's to use.
                connection = self._connection = self._build()
                self._pid = os.getpid()
                self._waiting.clear()
            elif connection._sock is not None and not self._waiting and not self._is_fresh():
                self._hang_up_if_dead(connection)
            if connection._sock is None:
                connection.connect()
            return connection._sock

    def _hang_up_if_dead(self, connection: Any) -> None:
        # Nothing was asked: what there is to read is the server hanging up.
        if self._polled is not connection._sock:
            self._polled = connection._sock
            self._poll = _find_poll(self._polled)
        if self._poll is not None and not self._poll(0):
            return
        try:
            dead = connection.can_read(0)
        except (RedisError, OSError):
            dead = True
        if dead:
            connection.disconnect()

    def _is_fresh(self) -> bool:
        return self._trusted_s > 0 and time.monotonic() - self._heard_at < self._trusted_s

    @property
    def socket(self) -> Any:
        """The socket while connected, else None."""
        return self._connection and self._connection._sock

    def close(self) -> None:
        """Hang up; nobody gets the replies that were due."""
        self._waiting.clear()
        connection: Any = self._connection
        self._connection = None
        if connection is not None:
            connection.disconnect()

    def _send(self, commands: Sequence[Command]) -> None:
        self.open()
        connection = self._connection
        try:
            if self._waiting:
                self.hear()
            packed = pack_commands(connection, commands)
            connection.send_packed_command(packed, check_health=False)
        except BaseException:
            self.close()
            raise

    def _read(self, count: int) -> list[Any]:
        connection = self._connection
        if connection is None:
            raise RedisConnectionError("the connection to Redis was closed while waiting for it")
        replies: list[Any] = []
        try:
            read = connection.read_response
            if type(connection).read_response is AbstractConnection.read_response:
                # Past the layer that words an error before there is one.
                read = connection._parser.read_response
            for _ in range(count):
                try:
                    replies.append(read())
                except ResponseError as exc:
                    replies.append(exc)
            if self._trusted_s:
                self._heard_at = time.monotonic()
        except OSError as exc:
            self.close()
            kind = RedisTimeoutError if isinstance(exc, TimeoutError) else RedisConnectionError
            raise kind(f"Error while reading from {connection._host_error()}: {exc}") from exc
        except BaseException:
            # Half of the replies read: whoever asked next would be given the others.
            self.close()
            raise
        return replies


def build_call(script: str, keys: Sequence[Any], arguments: Sequence[Any]) -> Command:
    """Give the command that runs one of our scripts."""
    return ("EVALSHA", HASHES[script], len(keys), *keys, *arguments)


def _find_poll(sock: Any) -> Callable[[int], Any] | None:
    """A look at whether a socket has something to read; None where redis-py has to be asked."""
    if not hasattr(select, "poll") or hasattr(sock, "pending"):  # Windows; TLS
        return None
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return poll.poll
