"""RabbitMQ, by kombu's pyamqp transport: what taskq adds to it for those who consume.

Between RabbitMQ and on_message (worker/consumer/delivery.py) of a task's journey.

How it works. When the socket has something, all of it is read at once and cut into frames, and each
is handled before the loop goes on. A delivery is put together here; other frames are py-amqp's. A
channel keeps the tags nobody has settled yet. Acks are collected during one turn of the loop and go
out at its end, before it waits, in one write: AMQP's `multiple` acknowledges every delivery up to
its tag, so it is used up to the lowest tag that is still outstanding, and what has ended above that
is acknowledged one by one. Without a loop an ack is sent at once.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from struct import Struct
from typing import Any

from amqp.exceptions import AMQPError, RecoverableConnectionError, UnexpectedFrame
from amqp.method_framing import frame_handler as handle_others
from kombu.message import Message
from kombu.transport import pyamqp

from taskq.transports.amqp_delays import Delays, is_back, restore
from taskq.transports.amqp_reading import (
    Tables,
    read_address,
    read_body_size,
    read_properties,
)
from taskq.transports.amqp_window import Window

__all__ = ("Delivery", "Inbox", "Receiving", "Settling")

#: Kind, channel and content; a DELIVERY has the contents of three frames.
Frame = tuple[int, int, Any]

#: Bytes asked of the socket at a time, and how often in one turn of the loop. For more at a time
#: the C library maps new memory, and gives it back, with each read: twenty times as dear.
READ_SIZE = 64 * 1024
READS_A_TURN = 32

#: Kinds of frames; the first is ours, the three of a delivery whose body has not been cut in parts.
DELIVERY, METHOD, HEADER, BODY = -1, 1, 2, 3
FRAME_END = 0xCE
DELIVER = b"\0\x3c\0\x3c"
#: Bytes of a content header's frame up to the size of the body.
CONTENT_HEAD_SIZE = 19

_head = Struct(">BHI").unpack_from
_content_head = Struct(">BHIIQ").unpack_from
_ack = Struct(">BHIHHQBB").pack

GONE = "the connection to the broker is closed"


class Delivery(pyamqp.Message):
    """A message as its consumer gets it."""

    #: True for one that comes from the delay queues (see amqp_delays).
    is_back = False
    #: True for one the delay queues did not take.
    is_refused = False

    def __init__(
        self,
        channel: Any,
        tag: int,
        body: bytes,
        properties: dict[str, Any],
        delivery_info: dict[str, Any],
    ) -> None:
        #: The body as it was sent; the other may have been decompressed.
        self.raw = body
        Message.__init__(
            self,
            body,
            tag,
            properties.get("content_type"),
            properties.get("content_encoding"),
            delivery_info,
            properties,
            properties.get("application_headers"),
            channel=channel,
        )


class Inbox:
    """The reading half of a plain socket: frames that were read with others wait here."""

    sock: Any
    _read_buffer: bytes

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.inbox: deque[Frame] = deque()
        super().__init__(*args, **kwargs)

    def read_frame(self, *args: Any) -> Frame:
        """Give the next frame, waiting for it."""
        if self.inbox:
            return self.inbox.popleft()
        frame: Frame = super().read_frame(*args)  # type: ignore[misc] # py-amqp's, after this one
        return frame

    def fill(self, flags: int) -> None:
        """Read what has come, without waiting; OSError when the other side has closed."""
        data = self._read_buffer
        for _ in range(READS_A_TURN):
            try:
                piece = self.sock.recv(READ_SIZE, flags)
            except (BlockingIOError, InterruptedError):
                break
            if not piece:
                self._read_buffer = data
                raise ConnectionResetError("the broker has closed the connection")
            data += piece
            if len(piece) < READ_SIZE:
                break
        self._read_buffer = data[self._cut(data) :]

    def _cut(self, data: bytes) -> int:
        """Put the frames of `data` into the inbox; gives where the last whole one ends."""
        start, length, take = 0, len(data), self.inbox.append
        while length - start > 7:
            kind, channel, size = _head(data, start)
            end = start + size + 8
            if end > length:
                break
            if data[end - 1] != FRAME_END:
                raise UnexpectedFrame(f"a frame of {size} bytes does not end as frames do")
            content = data[start + 7 : end - 1]
            if kind == METHOD and content.startswith(DELIVER):
                rest = _find_content(data, end, channel)
                if rest is not None:
                    header, body, start = rest
                    take((DELIVERY, channel, (content, header, body)))
                    continue
            take((kind, channel, content))
            start = end
        return start


def _find_content(data: bytes, start: int, channel: int) -> tuple[bytes, bytes, int] | None:
    """Header, body and where they end, when both frames are there, and the body is not in parts."""
    if len(data) - start < CONTENT_HEAD_SIZE:
        return None
    kind, number, size, _, body_size = _content_head(data, start)
    middle = start + size + 8
    end = middle + body_size + 8
    if kind != HEADER or number != channel or not body_size or end > len(data):
        return None
    if _head(data, middle) != (BODY, channel, body_size):
        return None
    if not data[middle - 1] == data[end - 1] == FRAME_END:
        return None
    return data[start + 7 : middle - 1], data[middle + 7 : end - 1], end


def frame_handler(connection: Any, callback: Callable[..., Any]) -> Callable[[Frame], Any]:
    """Give what is called with each frame; true answers mean that something is complete."""
    handle_other = handle_others(connection, callback)
    #: Channel -> the parts of the delivery that is coming in there, and how much is missing.
    partial: dict[int, list[Any]] = {}

    def on_frame(frame: Frame) -> Any:
        kind, number, data = frame
        if kind == DELIVERY:
            connection.bytes_recv += 3
            deliver(number, *data)
            return True
        if kind == METHOD:
            if data[:4] != DELIVER:
                return handle_other(frame)
            partial[number] = [data]
            connection.bytes_recv += 1
            return False
        parts = partial.get(number)
        if parts is None or kind > BODY:
            return handle_other(frame)
        connection.bytes_recv += 1
        parts.append(data)
        if kind == HEADER:
            parts.insert(0, read_body_size(data))
        else:
            parts[0] -= len(data)
        if parts[0] > 0:
            return False
        del partial[number]
        body = parts[3] if len(parts) == 4 else b"".join(parts[3:])
        deliver(number, parts[1], parts[2], body)
        return True

    def deliver(number: int, method: bytes, header: bytes, body: bytes) -> None:
        if connection.channels is None:
            raise RecoverableConnectionError(GONE)
        connection.channels[number].on_delivery(method, header, body)

    return on_frame


class Receiving:
    """The part of a connection that reads; `loop` is the Hub it is registered with."""

    loop: Any = None
    channels: dict[int, Any] | None
    wire: Any
    blocking_read: Callable[..., Any]
    on_inbound_frame: Callable[[Frame], Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("frame_handler", frame_handler)
        #: Channels with acks that are not sent yet.
        self.unsent: set[Settling] = set()
        #: What keeps tasks that wait.
        self.delays = Delays(self)
        super().__init__(*args, **kwargs)

    def join(self, loop: Any) -> None:
        """Let a kombu Hub drive this connection."""
        self.loop = loop
        loop.add_reader(self.wire.sock, self.read_turn)
        loop.on_tick.add(self.end_turn)
        loop.on_close.add(self._on_loop_closed)

    def leave(self) -> None:
        """Be driven no more; from now on acks are sent at once."""
        loop, self.loop = self.loop, None
        if loop is not None:
            loop.on_tick.discard(self.end_turn)
            loop.on_close.discard(self._on_loop_closed)

    def _on_loop_closed(self, loop: Any) -> None:
        self.leave()
        # A broken connection is why the loop was closed, or is met by the next who uses it.
        with suppress(OSError, AMQPError):
            self.flush_acks()

    def read_turn(self) -> None:
        """Handle every frame that has come."""
        wire = self.wire
        flags = wire.without_waiting
        if not flags:
            with suppress(TimeoutError):
                while True:
                    self.blocking_read(0)
            return
        wire.fill(flags)
        inbox, handle = wire.inbox, self.on_inbound_frame
        while inbox:
            handle(inbox.popleft())

    def end_turn(self) -> None:
        """Send what this turn has collected."""
        self.delays.flush()
        self.flush_acks()

    def flush_acks(self) -> None:
        """Send the acks of this turn."""
        while self.unsent:
            self.unsent.pop().flush_acks()

    def close(self, *args: Any, **kwargs: Any) -> Any:
        """Close the connection, once the acks are sent."""
        self.leave()
        try:
            self.delays.close()
            self.flush_acks()
        finally:
            answer = super().close(*args, **kwargs)  # type: ignore[misc] # py-amqp's
        return answer

    def collect(self) -> None:
        """Take the connection apart without a word to the broker."""
        self.leave()
        self.delays.drop()
        self.unsent.clear()
        super().collect()  # type: ignore[misc] # py-amqp's


class Settling(pyamqp.Channel):
    """The part of a channel that takes in deliveries and ends them."""

    connection: Any
    channel_id: int
    is_closing: bool
    callbacks: dict[str, Callable[[Any], Any]]
    no_ack_consumers: set[str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: Delivered and not settled, by tag; tags only rise.
        self.held: dict[int, Delivery] = {}
        self._tables = Tables()
        #: Acked, not sent yet.
        self._done: deque[int] = deque()
        self.window = Window(self)
        # Pool threads ack as well.
        self._flushing = threading.Lock()
        #: Consumer tag -> queue.
        self._sources: dict[str, str] = {}
        #: Queues that are there to stay, and whether a consumer may leave them for a moment.
        self._lasting: dict[str, bool] = {}
        #: False once a message was fetched by basic_get, whose tags are not among those held.
        self._knows_all_tags = True
        super().__init__(*args, **kwargs)

    def on_delivery(self, method: bytes, header: bytes, body: bytes) -> None:
        """Hand a message to its consumer."""
        if self.is_closing:
            return
        consumer_tag, tag, redelivered, exchange, routing_key = read_address(method)
        info = {
            "consumer_tag": consumer_tag,
            "delivery_tag": tag,
            "redelivered": redelivered,
            "exchange": exchange,
            "routing_key": routing_key,
        }
        properties = read_properties(header, self._tables)
        has_waited = is_back(exchange)
        if has_waited:
            restore(properties, info, self._sources.get(consumer_tag, ""))
        delivery = Delivery(self, tag, body, properties, info)
        delivery.is_back = has_waited
        consume = self.callbacks.get(consumer_tag)
        if consume is None:
            # Its consumer was cancelled meanwhile.
            self.basic_reject(tag, True)
            return
        if consumer_tag not in self.no_ack_consumers:
            self.held[tag] = delivery
        consume(delivery)

    def message_to_python(self, raw_message: Any) -> Any:
        if isinstance(raw_message, Delivery):
            return raw_message
        return super().message_to_python(raw_message)  # type: ignore[no-untyped-call] # kombu's

    def basic_consume(self, queue: str = "", consumer_tag: str = "", **kwargs: Any) -> Any:
        self._sources[consumer_tag] = queue
        consume = super().basic_consume
        again = None
        if self._lasting.get(queue):
            again = partial(consume, queue, consumer_tag, **{**kwargs, "nowait": True})
        self.window.add_consumer(consumer_tag, again)
        return consume(queue, consumer_tag, **kwargs)

    def basic_cancel(self, consumer_tag: str, *args: Any, **kwargs: Any) -> Any:
        self.window.remove_consumer(consumer_tag)
        return super().basic_cancel(consumer_tag, *args, **kwargs)

    def queue_declare(
        self,
        queue: str = "",
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = True,
        nowait: bool = False,
        arguments: Any = None,
        **kwargs: Any,
    ) -> Any:
        ends = exclusive or auto_delete or "x-expires" in (arguments or ())
        if durable and not passive and not ends:
            self._lasting[queue] = "x-single-active-consumer" not in (arguments or ())
        return super().queue_declare(
            queue, passive, durable, exclusive, auto_delete, nowait, arguments, **kwargs
        )

    def basic_qos(
        self, prefetch_size: int, prefetch_count: int, a_global: bool, **kwargs: Any
    ) -> Any:
        if a_global:
            prefetch_count, a_global = self.window.resize(prefetch_count)
        return super().basic_qos(prefetch_size, prefetch_count, a_global, **kwargs)

    def basic_get(self, *args: Any, **kwargs: Any) -> Any:
        self._knows_all_tags = False
        return super().basic_get(*args, **kwargs)

    def basic_ack(self, delivery_tag: int, multiple: bool = False, **kwargs: Any) -> None:
        """Acknowledge a message; with a Hub it is sent at the end of the turn."""
        if self.connection is None:
            raise RecoverableConnectionError(GONE)
        tags = [delivery_tag]
        if multiple:
            tags = [tag for tag in list(self.held) if not delivery_tag or tag <= delivery_tag]
        # In this order: a flush by another thread must not take it for settled already.
        self._done.extend(tags)
        for tag in tags:
            self.held.pop(tag, None)
        if self.connection.loop is None:
            self.flush_acks()
        else:
            self.connection.unsent.add(self)

    def basic_reject(self, delivery_tag: int, requeue: bool = False, **kwargs: Any) -> None:
        super().basic_reject(delivery_tag, requeue, **kwargs)
        self.held.pop(delivery_tag, None)

    def basic_delay(self, delivery_tag: int, seconds: float) -> bool:
        """Have the broker keep a message for some seconds; False when the worker is to hold it.

        A queue that may end before the wait does is none to come back to.
        """
        delivery = self.held.get(delivery_tag)
        if delivery is None:
            return False
        queue = self._sources.get(delivery.delivery_info["consumer_tag"], "")
        return queue in self._lasting and self.connection.delays.park(delivery, queue, seconds)

    def basic_recover(self, requeue: bool = False) -> Any:
        self.flush_acks()
        self.held.clear()
        return super().basic_recover(requeue)

    def flush_acks(self, starting: int | None = None) -> bool:
        """Send the acks collected so far.

        `starting` is the tag of a message whose task starts only if this gives True.
        """
        with self._flushing:
            tags = sorted(self._done.popleft() for _ in range(len(self._done)))
            if not tags:
                return True
            below = self._count_below(tags)
            frames = [self._as_ack(tag, False) for tag in tags[below:]]
            if below:
                frames.insert(0, self._as_ack(tags[below - 1], below > 1))
            if self.connection is None:
                raise RecoverableConnectionError(GONE)
            self.connection.wire.write(b"".join(frames))
        return True

    def _count_below(self, tags: list[int]) -> int:
        """How many of these sorted tags have nothing outstanding below them."""
        if not self._knows_all_tags:
            return 0
        while True:
            try:
                lowest = next(iter(self.held), None)
                break
            except RuntimeError:
                # A pool thread has just settled one.
                continue
        return len(tags) if lowest is None else bisect_left(tags, lowest)

    def _as_ack(self, tag: int, multiple: bool) -> bytes:
        return _ack(METHOD, self.channel_id, 13, 60, 80, tag, multiple, FRAME_END)

    def close(self, *args: Any, **kwargs: Any) -> Any:
        """Close the channel, once the acks are sent; what is held goes back to its queues."""
        if self.connection is not None and self._done:
            self.flush_acks()
        return super().close(*args, **kwargs)

    def _do_revive(self) -> None:
        # The broker has closed the channel: its deliveries are void, and tags begin at 1 again.
        self._forget()
        super()._do_revive()

    def collect(self) -> None:
        """Take the channel apart without a word to the broker."""
        self._forget()
        super().collect()

    def _forget(self) -> None:
        self.held.clear()
        self._done.clear()
        self.window = Window(self)
