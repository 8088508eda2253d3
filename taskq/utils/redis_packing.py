"""This file packs commands for a connection of redis-py, by the shortest way it has.

redis-py looks at every argument before it hands them to hiredis; ours are text, bytes and numbers,
which hiredis writes as redis-py would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ("pack_commands",)


def _find_packer() -> Callable[[tuple[Any, ...]], bytes] | None:
    try:
        from hiredis import pack_command
    except ImportError:  # not there, or one that cannot
        return None
    return pack_command


pack_command = _find_packer()

#: Bytes of an argument that are not copied once more only to leave with the others.
LARGE = 64 * 1024


def pack_commands(connection: Any, commands: Sequence[Sequence[Any]]) -> list[bytes]:
    """Give what `connection.send_packed_command` takes; no command's name has a blank in it."""
    if pack_command is not None:
        try:
            pieces = [pack_command(tuple(command)) for command in commands]
        except TypeError:
            # A value of another type: for redis-py to judge.
            pass
        else:
            if len(pieces) == 1 or sum(map(len, pieces)) > LARGE:
                return pieces
            return [b"".join(pieces)]
    packed: list[bytes] = connection.pack_commands(commands)
    return packed
