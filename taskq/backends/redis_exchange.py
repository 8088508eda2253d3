"""This file asks Redis one thing and waits for the reply, by the shortest way redis-py leaves.

Its own way is several layers of calls, to send and again to read. Anything unusual takes that way
all the same: a connection class with methods of its own, a parser other than hiredis', a health
check that may be due, any reply but the expected one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

__all__ = ("exchange",)

#: What a server says that has nothing to say, in both versions of the protocol.
_NOTHING = frozenset({b"$-1\r\n", b"_\r\n"})

#: Bytes of a reply that are read at first; the parser reads the rest.
_SHORT = 4096


def exchange(connection: Any, packed: Sequence[bytes]) -> Any:
    """Send a command (see pack_commands) and give its reply; raises what redis-py raises.

    After any error but a reply's (a ResponseError) the connection must be dropped.
    """
    reader = _find_reader(connection)
    if reader is None or reader.has_data():
        connection.send_packed_command(packed)
        return connection.read_response()
    sock = connection._sock
    try:
        for piece in packed:
            sock.sendall(piece)
        received = sock.recv(_SHORT)
    except TimeoutError as exc:
        raise RedisTimeoutError(f"Redis did not answer in time: {exc}") from exc
    except OSError as exc:
        raise RedisConnectionError(f"the connection to Redis broke: {exc}") from exc
    if received in _NOTHING:
        return None
    if not received:
        raise RedisConnectionError("the connection to Redis was closed by the server")
    reader.feed(received)
    return connection.read_response()


def _find_reader(connection: Any) -> Any:
    """The parser of a connected connection that can be spoken to past redis-py; else None."""
    kind: Any = type(connection)
    if not _is_stock(kind) or connection.health_check_interval or connection._sock is None:
        return None
    return getattr(connection._parser, "_reader", None)


@lru_cache(16)
def _is_stock(kind: Any) -> bool:
    return all(
        getattr(kind, name, None) is getattr(AbstractConnection, name)
        for name in ("send_packed_command", "read_response", "check_health")
    )
