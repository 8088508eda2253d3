"""RabbitMQ, by kombu's pyamqp transport: what taskq adds to it for those who send.

Between publish (app/amqp.py) and on_message (worker/consumer/delivery.py) of a task's journey.

How it works. A connection obeys the deadline of the kombu Connection it belongs to: whatever waits
for the broker (its greeting, a channel, a declaration, room in the socket, a confirm) waits until
then and raises TimeoutError. Closing has a limit of its own. A message leaves in one write; before
it, the frames that have come are read, so that a connection the broker has closed or blocked is
noticed before anything is sent on it. With confirms a channel counts what it has published, so the
messages of a batch are written together and their confirms are awaited once.
"""

from __future__ import annotations

import socket
import threading
from contextlib import nullcontext, suppress
from itertools import takewhile
from time import monotonic
from typing import Any

from amqp import transport as amqp_transport
from amqp.exceptions import AMQPError, MessageNacked, RecoverableConnectionError
from amqp.platform import KNOWN_TCP_OPTS
from kombu.transport import pyamqp

from taskq.exceptions import BatchPublishError
from taskq.transports.amqp_consuming import Inbox, Receiving, Settling
from taskq.transports.amqp_frames import Known, as_frames
from taskq.transports.amqp_parting import close_at_exit

__all__ = ("Channel", "Connection", "SSLTransport", "Transport")

#: Seconds the other side has to answer a goodbye.
CLOSE_S = 5.0

#: How long an expired task stays in its queue: who waits for its result is to hear REVOKED from a
#: worker, and a queue nobody reads is not to grow for ever.
KEPT_EXPIRED_MS = 3_600_000

#: Ten years: RabbitMQ closes the channel of who asks for more.
LONGEST_EXPIRATION_MS = 315_360_000_000

#: Bytes of a batch between two looks at what the broker says.
PIECE = 256 * 1024

#: Milliseconds after which the system gives up a connection on which the broker reads nothing. With
#: py-amqp's single second a busy broker's pause ends it, and all messages on their way are gone.
UNREAD_MS = 20_000

_SETTINGS: dict[int, int] = {}
if "TCP_USER_TIMEOUT" in KNOWN_TCP_OPTS and hasattr(socket, "TCP_USER_TIMEOUT"):
    _SETTINGS[socket.TCP_USER_TIMEOUT] = UNREAD_MS

#: Absent on Windows; TLS sockets do not take it.
_AT_ONCE = getattr(socket, "MSG_DONTWAIT", 0)

OVERDUE = "the broker did not answer in time"
BLOCKED = "the broker takes no messages now, since it is low on memory or disk space"
GONE = "the connection to the broker is closed"


class _Wire(Inbox, amqp_transport._AbstractTransport):
    """What both kinds of socket below have in common: one writer at a time, and a deadline."""

    connection: Connection
    #: Flags with which the socket is read as far as it goes; 0 where that does not work.
    without_waiting = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.writing = threading.Lock()
        super().__init__(*args, **kwargs)

    def write(self, data: Any) -> None:
        """Write all of it; TimeoutError when there was no room until the deadline."""
        # A heartbeat may come from another thread, and must not land inside a message.
        with self.writing:
            sent = self.send_at_once(data)
            if sent < len(data):
                self._write_rest(memoryview(data)[sent:])

    def _write_rest(self, data: memoryview) -> None:
        try:
            with self.having_timeout(self.connection.find_left()):
                super().write(data)
        except TimeoutError:
            self.connected = False  # half a message has gone out
            raise

    def send_at_once(self, data: Any) -> int:
        """Send what the socket takes without waiting; gives how many bytes that was."""
        return 0

    def has_input(self) -> bool:
        """Is there anything to read? Where that cannot be told cheaply: yes."""
        return True


class _Socket(_Wire, amqp_transport.TCPTransport):
    without_waiting = _AT_ONCE

    def send_at_once(self, data: Any) -> int:
        if not _AT_ONCE or self.sock is None:
            return 0
        try:
            sent: int = self.sock.send(data, _AT_ONCE)
        except BlockingIOError:
            return 0
        except OSError:
            self.connected = False
            raise
        return sent

    def has_input(self) -> bool:
        if not _AT_ONCE or self._read_buffer or self.inbox:
            return True
        try:
            self.sock.recv(1, socket.MSG_PEEK | _AT_ONCE)
        except BlockingIOError:
            return False
        return True


class _SecureSocket(_Wire, amqp_transport.SSLTransport):
    pass


class Channel(Settling):
    """A channel that knows which of its messages the broker has confirmed."""

    connection: Connection
    _confirm_selected: bool
    #: True once it has sent messages nobody confirms.
    _is_trusting = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: Number of a message on this channel -> its id.
        self.unconfirmed: dict[int, Any] = {}
        #: Ids the broker has refused to take.
        self.refused: list[Any] = []
        self._published = 0
        #: Headers as the last message had them.
        self._known: Known = {}
        super().__init__(*args, **kwargs)
        # py-amqp puts its own in the way where messages are to be confirmed.
        self.__dict__.pop("basic_publish", None)

    def basic_publish(
        self,
        msg: Any,
        exchange: str = "",
        routing_key: str = "",
        mandatory: bool = False,
        immediate: bool = False,
        timeout: float | None = None,
        confirm_timeout: float | None = None,
        **_: Any,
    ) -> None:
        """Send a message, and await its confirm where the connection asks for confirms."""
        frames = self.as_frames(msg, exchange, routing_key, mandatory, immediate)
        self.check_alive()
        with _limit(self.connection, timeout):
            self.send(frames, [msg])
        if self.unconfirmed:
            with _limit(self.connection, confirm_timeout or timeout):
                self.await_confirms()

    def basic_publish_confirm(self, *args: Any, **kwargs: Any) -> None:
        """As basic_publish, with a confirm also where the connection asks for none."""
        self._select_confirms()
        self.basic_publish(*args, **kwargs)

    def create_publish_batch(self, max_size: int) -> PublishBatch:
        """Collect messages for kombu's Producer.batch()."""
        return PublishBatch(self, max_size)

    def as_frames(
        self, msg: Any, exchange: str, routing_key: str, mandatory: bool, immediate: bool
    ) -> bytes:
        """The bytes that publish a message here."""
        if self.connection is None:
            raise RecoverableConnectionError(GONE)
        if "expiration" in msg.properties:
            _outlive(msg)
        return as_frames(
            self.channel_id, msg, exchange, routing_key, mandatory, immediate,
            self.connection.frame_max, self._known,
        )  # fmt: skip

    def check_alive(self) -> None:
        """Read what the broker has said; raise its error. Nothing of a message is sent yet."""
        if self.connection is None:
            raise RecoverableConnectionError(GONE)
        if self.connection.confirm_publish and not self._confirm_selected:
            self._select_confirms()
        self.refused.clear()
        self.connection.look()
        if self.connection.is_blocked:
            self.connection.await_unblocked()

    def send(self, frames: bytes, messages: list[Any]) -> None:
        """Write the frames of some messages, which await their confirms from then on."""
        if self._confirm_selected:
            for message in messages:
                self._published += 1
                self.unconfirmed[self._published] = message.properties.get("correlation_id")
        elif not self._is_trusting:
            self._is_trusting = True
            close_at_exit(self.connection)
        self.connection.wire.write(frames)

    def await_confirms(self) -> None:
        """Wait until each message is confirmed; MessageNacked when one was refused."""
        while self.unconfirmed:
            if self.connection is None:
                raise RecoverableConnectionError(GONE)
            self.connection.drain_events()
        if self.refused:
            raise MessageNacked()

    def close(self, *args: Any, **kwargs: Any) -> None:
        """Close the channel; the broker has a few seconds to answer."""
        if self.connection is None:
            return
        with _Limit(self.connection, CLOSE_S):
            super().close(*args, **kwargs)

    def _select_confirms(self) -> None:
        if not self._confirm_selected:
            self.confirm_select()
            self._confirm_selected = True

    def _do_revive(self) -> None:
        # The broker has closed the channel: what it had not confirmed is in doubt.
        self.refused += self.unconfirmed.values()
        self.unconfirmed.clear()
        self._published = 0
        super()._do_revive()

    def _on_basic_ack(self, delivery_tag: int, multiple: bool) -> None:
        self._take_confirmed(delivery_tag, multiple)
        super()._on_basic_ack(delivery_tag, multiple)

    def _on_basic_nack(self, delivery_tag: int, multiple: bool) -> None:
        self.refused += self._take_confirmed(delivery_tag, multiple)
        super()._on_basic_nack(delivery_tag, multiple)

    def _take_confirmed(self, tag: int, multiple: bool) -> list[Any]:
        tags = [tag]
        if multiple:
            tags = list(takewhile(lambda sent: sent <= tag, self.unconfirmed))
        return [self.unconfirmed.pop(sent) for sent in tags if sent in self.unconfirmed]


class PublishBatch:
    """Messages collected for one write; what kombu's Producer.batch() publishes to."""

    def __init__(self, channel: Channel, max_size: int) -> None:
        self.channel = channel
        self._max_size = max_size
        self._frames: list[bytes] = []
        self._messages: list[Any] = []

    def publish(
        self,
        message: Any,
        exchange: str = "",
        routing_key: str = "",
        mandatory: bool = False,
        immediate: bool = False,
        **_: Any,
    ) -> None:
        """Collect a message; sends all when there are enough."""
        frames = self.channel.as_frames(message, exchange, routing_key, mandatory, immediate)
        self._frames.append(frames)
        self._messages.append(message)
        if len(self._messages) >= self._max_size:
            self.flush()

    def flush(self) -> None:
        """Send what was collected and await the confirms.

        Raises BatchPublishError, which knows the confirmed ones, when that breaks off.
        """
        channel = self.channel
        frames, messages = self._frames, self._messages
        self.discard()
        if not messages:
            return
        channel.check_alive()
        try:
            self._write(frames, messages)
            channel.await_confirms()
        except (OSError, AMQPError, MessageNacked) as exc:
            ids = [message.properties.get("correlation_id") for message in messages]
            sent = []
            if channel.connection is not None and channel._confirm_selected:
                doubtful = {*channel.unconfirmed.values(), *channel.refused}
                sent = [each for each in ids if each not in doubtful]
            unknown = [each for each in ids if each not in set(sent)]
            raise BatchPublishError(str(exc), unknown, sent) from exc

    def _write(self, frames: list[bytes], messages: list[Any]) -> None:
        piece: list[bytes] = []
        size = 0
        start = 0
        for number, each in enumerate(frames, 1):
            piece.append(each)
            size += len(each)
            if size >= PIECE or number == len(frames):
                self.channel.send(b"".join(piece), messages[start:number])
                self.channel.connection.look()
                piece, size, start = [], 0, number

    def discard(self) -> None:
        """Forget what was collected and not flushed."""
        self._frames, self._messages = [], []

    close = discard


class Connection(Receiving, pyamqp.Connection):
    """One connection to RabbitMQ, whose waits have an end when its client has a deadline."""

    Channel = Channel

    connect_timeout: float | None
    #: The kombu Connection this one serves, while it does.
    client: Any = None
    #: Has the broker said that it takes no messages for now?
    is_blocked = False
    #: The end of what goes on just now, when that has a limit of its own.
    limit_at: float | None = None

    @property
    def wire(self) -> Any:
        """The socket; RecoverableConnectionError when it is closed."""
        wire = self._transport
        if wire is None or wire.sock is None:
            raise RecoverableConnectionError(GONE)
        return wire

    def Transport(
        self,
        host: str,
        connect_timeout: float | None,
        ssl: Any = False,
        read_timeout: float | None = None,
        write_timeout: float | None = None,
        socket_settings: dict[int, int] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The socket, not connected yet."""
        wire = (_SecureSocket if ssl else _Socket)(
            host,
            connect_timeout=connect_timeout,
            ssl=ssl,
            read_timeout=read_timeout,
            write_timeout=write_timeout,
            socket_settings={**_SETTINGS, **(socket_settings or {})},
            **kwargs,
        )
        wire.connection = self
        return wire

    def find_left(self) -> float | None:
        """Seconds until the deadline, None without one; TimeoutError when it is over."""
        deadline = self.limit_at
        if deadline is None:
            deadline = getattr(self.client, "deadline", None)
            if deadline is None:
                return None
        left: float = deadline - monotonic()
        if left <= 0:
            raise TimeoutError(OVERDUE)
        return left

    def connect(self, callback: Any = None) -> Any:
        self.connect_timeout = self._shorten(self.connect_timeout)
        return super().connect(callback)

    def blocking_read(self, timeout: float | None = None) -> Any:
        return super().blocking_read(self._shorten(timeout))

    def _shorten(self, timeout: float | None) -> float | None:
        left = self.find_left()
        return timeout if left is None or (timeout is not None and timeout < left) else left

    def look(self) -> None:
        """Read the frames that have come, without waiting."""
        if not self.wire.has_input():
            return
        try:
            while True:
                super().blocking_read(0)
        except TimeoutError:
            pass

    def await_unblocked(self) -> None:
        """Wait until the broker takes messages again; TimeoutError at the deadline."""
        try:
            # Without a deadline the socket is what makes the sender wait.
            while self.is_blocked and self.find_left() is not None:
                self.drain_events()
        except TimeoutError:
            raise TimeoutError(BLOCKED) from None

    def close(self, *args: Any, **kwargs: Any) -> None:
        """Close the connection; the broker has a few seconds to answer."""
        with _Limit(self, CLOSE_S):
            super().close(*args, **kwargs)

    def _on_blocked(self) -> Any:
        self.is_blocked = True
        return super()._on_blocked()

    def _on_unblocked(self) -> Any:
        self.is_blocked = False
        return super()._on_unblocked()


class _Limit:
    """`with` this, what a connection waits for ends within some seconds."""

    def __init__(self, connection: Connection, seconds: float) -> None:
        self._connection = connection
        self._limit_at = monotonic() + seconds

    def __enter__(self) -> None:
        self._kept = self._connection.limit_at
        self._connection.limit_at = self._limit_at

    def __exit__(self, *exc_info: object) -> None:
        self._connection.limit_at = self._kept


def _outlive(message: Any) -> None:
    """Have the broker keep a task that expires for an hour more, so that a worker is told of it."""
    headers, expiration = message.properties.get("application_headers"), None
    if headers and headers.get("expires") is not None:
        with suppress(TypeError, ValueError):
            expiration = int(message.properties["expiration"]) + KEPT_EXPIRED_MS
    if expiration is not None:
        message.properties["expiration"] = str(min(expiration, LONGEST_EXPIRATION_MS))


def _limit(connection: Connection, seconds: float | None) -> Any:
    if not seconds:
        return _UNLIMITED
    return _Limit(connection, connection._shorten(seconds) or seconds)


_UNLIMITED = nullcontext()


class Transport(pyamqp.Transport):
    """RabbitMQ for kombu."""

    Connection = Connection

    implements = pyamqp.Transport.implements.extend(batch_publish=True)

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Let a kombu Hub drive a connection."""
        connection.join(loop)

    def unregister_from_event_loop(self, connection: Any, loop: Any) -> None:
        """Drive it by drain_events again."""
        connection.leave()


class SSLTransport(Transport, pyamqp.SSLTransport):
    """RabbitMQ for kombu, over TLS."""
