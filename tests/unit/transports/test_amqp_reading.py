"""A delivery is read as py-amqp reads it; frames are cut wherever the socket cuts them."""

from __future__ import annotations

import socket
from datetime import datetime
from decimal import Decimal
from struct import pack
from types import SimpleNamespace
from typing import Any

import amqp
import pytest
from amqp.exceptions import UnexpectedFrame
from amqp.serialization import dumps, loads

from taskq.transports.amqp_consuming import Inbox, frame_handler
from taskq.transports.amqp_reading import read_address, read_properties

HEADERS = {
    "lang": "py",
    "task": "proj.add",
    "shadow": None,
    "eta": None,
    "group_index": 3,
    "large": 2**40,
    "negative": -(2**31),
    "timelimit": [None, 12.5],
    "ratio": 0.25,
    "ignore_result": True,
    "replaced": False,
    "argsrepr": "('ünïcode',)",
    "stamps": {"key": ["a", "b", 1, None, {"deep": [True, []]}]},
    "raw": b"\x00\xff",
    "price": Decimal("1.25"),
    "at": datetime(2026, 1, 2, 3, 4, 5),
    "empty": {},
}


def header_of(size: int, **properties: Any) -> bytes:
    return pack(">HHQ", 60, 0, size) + amqp.Message("", **properties)._serialize_properties()


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"application_headers": {}},
        {"application_headers": HEADERS, "content_type": "application/json", "priority": 9},
        {"content_encoding": "utf-8", "delivery_mode": 2, "correlation_id": "ü", "reply_to": "q"},
        {"expiration": "1000", "message_id": "m", "timestamp": 2**40, "type": "t"},
        {"user_id": "u", "app_id": "a", "cluster_id": "c"},
    ],
)
def test_properties(properties: dict[str, Any]) -> None:
    header = header_of(0, **properties)
    expected = amqp.Message()
    expected.inbound_header(header)
    assert read_properties(header) == expected.properties
    assert list(read_properties(header)) == list(expected.properties)


@pytest.mark.parametrize("redelivered", [True, False])
def test_address(redelivered: bool) -> None:
    method = pack(">HH", 60, 60)
    method += dumps("sLbss", ("consumer-1", 2**40, redelivered, "exchange", "ü.key"))
    expected, _ = loads("sLbss", method, 4)
    assert list(read_address(method)) == expected


def frame(kind: int, data: bytes, channel: int = 1) -> bytes:
    return pack(">BHI", kind, channel, len(data)) + data + b"\xce"


def delivery(tag: int, *pieces: bytes) -> bytes:
    method = pack(">HH", 60, 60) + dumps("sLbss", ("c", tag, False, "", "q"))
    size = sum(map(len, pieces))
    return frame(1, method) + frame(2, header_of(size)) + b"".join(frame(3, p) for p in pieces)


class Line:
    """A socket pair with our reader at one end; what is delivered is (delivery tag, body)."""

    def __init__(self) -> None:
        self.inbox = Inbox()
        self.other, self.inbox.sock = socket.socketpair()
        self.inbox._read_buffer = b""
        self.delivered: list[tuple[int, bytes]] = []
        channel = SimpleNamespace(on_delivery=self.on_delivery)
        connection = SimpleNamespace(bytes_recv=0, channels={1: channel})
        self.handle = frame_handler(connection, lambda *method: None)

    def on_delivery(self, method: bytes, header: bytes, body: bytes) -> None:
        self.delivered.append((read_address(method)[1], body))

    def turn(self) -> None:
        self.inbox.fill(socket.MSG_DONTWAIT)
        while self.inbox.inbox:
            self.handle(self.inbox.inbox.popleft())


@pytest.fixture
def line() -> Any:
    line = Line()
    yield line
    line.other.close()
    line.inbox.sock.close()


def test_all_that_has_come_is_read_in_one_turn(line: Line) -> None:
    line.other.sendall(delivery(1, b"one") + delivery(2) + delivery(3, b"thr", b"ee"))
    line.turn()
    assert line.delivered == [(1, b"one"), (2, b""), (3, b"three")]


def test_frames_may_come_in_any_pieces(line: Line) -> None:
    for byte in delivery(1, b"one") + frame(8, b"", 0) + delivery(2, b"two"):
        line.other.sendall(bytes((byte,)))
        line.turn()
    assert line.delivered == [(1, b"one"), (2, b"two")]


def test_what_is_no_frame_is_an_error(line: Line) -> None:
    line.other.sendall(delivery(1, b"one")[:-1] + b"x")
    with pytest.raises(UnexpectedFrame):
        line.turn()


def test_a_closed_connection_is_an_error(line: Line) -> None:
    line.other.close()
    with pytest.raises(ConnectionResetError):
        line.turn()
