"""One question and its reply, past redis-py's layers: what comes back is what redis-py gives."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis._parsers import _RESP2Parser
from redis.connection import Connection

from taskq.backends.redis_exchange import exchange

QUESTION = [b"*1\r\n$4\r\n", b"PING\r\n"]


class Line:
    """A connection whose other end is ours."""

    def __init__(self, kind: type[Connection] = Connection, **options: Any) -> None:
        self.connection: Any = kind(**options)
        self.connection._sock, self.server = socket.socketpair()
        self.connection._sock.settimeout(5)
        self.connection._parser.on_connect(self.connection)

    def ask(self, *replies: bytes) -> Any:
        """Ask while these replies are on their way."""
        self.server.sendall(b"".join(replies))
        reply = exchange(self.connection, QUESTION)
        assert self.server.recv(100) == b"".join(QUESTION)
        return reply

    def close(self) -> None:
        self.connection.disconnect()
        self.server.close()


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.close()


@pytest.mark.parametrize("reply", [b"$-1\r\n", b"_\r\n"])
def test_nothing_in_both_protocols(line: Line, reply: bytes) -> None:
    assert [line.ask(reply) for _ in range(2)] == [None, None]


def test_other_replies_are_read_by_the_parser(line: Line) -> None:
    assert line.ask(b":1\r\n") == 1
    assert line.ask(b"$20000\r\n", b"x" * 20000, b"\r\n") == b"x" * 20000
    assert line.ask(b"$-1\r\n") is None


def test_an_error_reply_leaves_the_connection_usable(line: Line) -> None:
    with pytest.raises(redis.exceptions.NoScriptError):
        line.ask(b"-NOSCRIPT No matching script\r\n")
    line.server.recv(100)
    assert line.ask(b"_\r\n") is None


def test_what_a_server_pushes_is_not_taken_for_a_reply() -> None:
    line = Line(protocol=3)
    assert line.ask(b">2\r\n+moving\r\n_\r\n", b"_\r\n") is None
    # Half of a push comes behind the reply, the other half before the next one.
    assert line.ask(b"_\r\n", b">2\r\n+moving\r\n") is None
    assert line.ask(b"_\r\n", b":7\r\n") == 7
    line.close()


def test_a_server_that_hangs_up(line: Line) -> None:
    line.server.close()
    with pytest.raises(redis.ConnectionError):
        exchange(line.connection, QUESTION)


def test_a_server_that_closes_before_it_answers(line: Line) -> None:
    line.server.shutdown(socket.SHUT_WR)
    with pytest.raises(redis.ConnectionError):
        exchange(line.connection, QUESTION)


def test_a_server_that_is_silent(line: Line) -> None:
    line.connection._sock.settimeout(0.01)
    with pytest.raises(redis.TimeoutError):
        exchange(line.connection, QUESTION)


class Own(Connection):
    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        return "own", super().read_response(*args, **kwargs)


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        (Own, {}, ("own", None)),
        (Connection, {"parser_class": _RESP2Parser, "protocol": 2}, None),
        (Connection, {"health_check_interval": 1000}, None),
    ],
)
def test_unusual_connections_are_asked_by_redis_py(
    kind: Any, options: Any, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line(kind, **options)
    sent = []
    plain = line.connection.send_packed_command
    monkeypatch.setattr(
        line.connection, "send_packed_command", lambda packed: (sent.append(packed), plain(packed))
    )
    line.connection.next_health_check = float("inf")
    assert line.ask(b"$-1\r\n") == expected
    assert sent == [QUESTION]
    line.close()


def test_a_connection_of_another_make_is_asked_by_its_methods() -> None:
    class Other:
        def send_packed_command(self, packed: Any) -> None:
            self.packed = packed

        def read_response(self) -> Any:
            return "reply to", self.packed

    assert exchange(Other(), QUESTION) == ("reply to", QUESTION)
