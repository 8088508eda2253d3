"""Commands for Redis are packed as redis-py packs them."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from taskq.utils import redis_packing
from taskq.utils.redis_packing import pack_commands

COMMANDS: list[Any] = [
    ("HSET", "key", b"\x00\xff", "\N{SNOWMAN}", 7, 1.5),
    ["DEL", ""],
    ("EVALSHA", "0" * 40, 1, "key", -3),
]


def connect(**options: Any) -> Any:
    return redis.connection.Connection(**options)


@pytest.mark.parametrize("commands", [COMMANDS, COMMANDS[:1], []])
@pytest.mark.parametrize("has_hiredis", [True, False])
def test_the_bytes_are_those_of_redis_py(
    commands: Any, has_hiredis: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = connect()
    expected = b"".join(connection.pack_commands(commands))
    if not has_hiredis:
        monkeypatch.setattr(redis_packing, "pack_command", None)
    assert b"".join(pack_commands(connection, commands)) == expected


def test_large_arguments_are_not_put_together() -> None:
    commands = [("SET", "key", b"x" * 100_000)] * 2
    connection = connect()
    pieces = pack_commands(connection, commands)
    assert len(pieces) > 1
    assert b"".join(pieces) == b"".join(connection.pack_commands(commands))


def test_what_redis_py_refuses_is_refused() -> None:
    with pytest.raises(redis.DataError):
        pack_commands(connect(), [("SET", "key", None)])
