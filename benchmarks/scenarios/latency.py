"""How long a call takes from sending to its result in the client, on a worker that is idle."""

from __future__ import annotations

import time
from typing import Any

from scenarios import ALL_BROKERS, ALL_LIBRARIES

TITLE, UNIT, BETTER = "round trip p50, idle worker", "ms", "less"
BROKERS, LIBRARIES, RESULTS = ALL_BROKERS, ALL_LIBRARIES, True

WARM = 20


def in_client(load: Any, count: int) -> list[float]:
    library = load()
    for _ in range(WARM):
        library.round_trip()
    taken = []
    for _ in range(count):
        # Long enough that the worker goes back to waiting.
        time.sleep(0.002)
        started = time.perf_counter()
        library.round_trip()
        taken.append(time.perf_counter() - started)
    return taken


def measure(side: Any, size: int) -> dict[str, float]:
    with side.worker():
        taken = sorted(side.client("latency", max(20, size // 50)))
    return {
        "p50_ms": taken[len(taken) // 2] * 1000,
        "p99_ms": taken[len(taken) * 99 // 100] * 1000,
    }
