"""How fast a worker empties a queue that was filled before; no results."""

from __future__ import annotations

import time
from typing import Any

from scenarios import ALL_BROKERS, ALL_LIBRARIES

TITLE, UNIT, BETTER = "drain, results ignored", "tasks/s", "more"
BROKERS, LIBRARIES, RESULTS = ALL_BROKERS, ALL_LIBRARIES, False


def in_client(load: Any, count: int) -> None:
    load().send_each(count)


def measure(side: Any, size: int) -> dict[str, float]:
    count = max(200, int(size * side.library.share))
    side.client("drain", count)
    with side.worker() as worker:
        return {"tasks_per_s": drain_rate(worker, count)}


def drain_rate(worker: Any, count: int) -> float:
    """Tasks a second between the first twentieth and the last: the start does not count."""
    worker.wait_counted(count // 20)
    done, started = worker.side.counted, time.perf_counter()
    worker.wait_counted(count)
    return float((count - done) / (time.perf_counter() - started))
