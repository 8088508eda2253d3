"""No scenario: asks a library, in a process of its own, how its worker is started."""

from __future__ import annotations

from typing import Any


def in_client(load: Any, verbose: int) -> list[str]:
    command: list[str] = load().worker_command(bool(verbose))
    return command
