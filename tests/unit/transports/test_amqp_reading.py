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
from taskq.transports.amqp_reading import Tables, _read_table, read_address, read_properties

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


def table(headers: dict[Any, Any]) -> bytes:
    return dumps("F", (headers,))[4:]


def variants() -> list[dict[Any, Any]]:
    """Headers as they come one after another: nearly the same, and quite different ones."""
    plain = {key: value for key, value in HEADERS.items() if key not in ("stamps", "at")}
    found: list[dict[Any, Any]] = []
    for number in range(40):
        each = {**plain, "id": f"{number}", "eta": None if number % 3 else "2026", "tries": number}
        found += [{**each, "shadow": "ü" * number}, {**each, "timelimit": [number, None]}]
        found += [HEADERS, {"id": number, "empty": {}}, {}, {"id": b"\xff" * number}]
        found += [{str(number): 1}, {"id": "", "lang": "py"}, {"id": "", "lang": "py", "more": 1}]
    return found


@pytest.mark.parametrize("step", [1, 2, 9])
def test_tables_of_all_shapes(step: int) -> None:
    tables = Tables()
    for headers in variants()[::step]:
        data = table(headers)
        expected, _ = loads("F", dumps("F", (headers,)), 0)
        found = tables.read(b"before" + data + b"after", 6, 6 + len(data))
        assert list(found.items()) == list(expected[0].items())


def test_a_table_is_nobody_elses() -> None:
    tables = Tables()
    headers = {"id": "a", "timelimit": [None, 1], "stamps": {}, "links": [["a"]]}
    data = table(headers)
    for _ in range(5):
        found = tables.read(data, 0, len(data))
        assert found == headers
        for value in (found["links"][0], found["links"], found["timelimit"]):
            value.append("mine")
        found["stamps"]["mine"] = 1
        found["mine"] = 1


def test_what_is_known_is_only_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = Tables()
    pieces = [table({**HEADERS, "id": str(number), "stamps": {}}) for number in range(9)]
    read = [tables.read(data, 0, len(data)) for data in pieces[:3]]
    monkeypatch.setattr("taskq.transports.amqp_reading._read_table", None)
    read += [tables.read(data, 0, len(data)) for data in pieces[3:]]
    assert [each["id"] for each in read] == [str(number) for number in range(9)]


def test_a_name_that_comes_twice() -> None:
    data = table({"a": "1"}) + table({"b": "2"}) + table({"a": "3"})
    other = table({"a": "4"}) + table({"b": "2"}) + table({"a": "3"})
    tables = Tables()
    for each in (data, other, data, other, other):
        assert tables.read(each, 0, len(each)) == _read_table(each, 0, len(each)) == {
            "a": "3", "b": "2"
        }  # fmt: skip


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
