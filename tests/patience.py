"""How long tests wait: for ever, nearly, so that only a broken program makes them fail."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

#: Seconds a test waits for what takes well under one: a loaded machine may need some of them.
PATIENCE_S = 60.0

#: Longer than any test waits: what sleeps so long has not ended by itself.
FOREVER_S = 3600.0


def pause() -> None:
    time.sleep(0.005)


def wait_until(
    condition: Callable[[], T],
    what: str = "it comes true",
    seconds: float = PATIENCE_S,
    report: Callable[[], Any] | None = None,
    turn: Callable[[], Any] = pause,
) -> T:
    """What `condition` gives as soon as it is true; fails after `seconds`, saying `what`.

    `report` is called for more to say, such as a log; `turn` between two looks.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() >= deadline:
            more = f"\n{report()}" if report else ""
            raise AssertionError(f"not within {seconds:g} s: {what}{more}")
        turn()
    return found
