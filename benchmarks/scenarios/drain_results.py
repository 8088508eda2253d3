"""How fast a worker empties a queue and stores every result; with SQLite, in the same file."""

from __future__ import annotations

from typing import Any

from scenarios import ALL_BROKERS, ALL_LIBRARIES
from scenarios.drain import drain_rate, in_client

__all__ = ("in_client", "measure")

TITLE, UNIT, BETTER = "drain, results stored in Redis", "tasks/s", "more"
BROKERS, LIBRARIES, RESULTS = ALL_BROKERS, ALL_LIBRARIES, True


def measure(side: Any, size: int) -> dict[str, float]:
    count = max(200, int(size * side.library.share))
    side.client("drain_results", count)
    with side.worker() as worker:
        rate = drain_rate(worker, count)
        if side.broker != "sqlite":
            # Nobody is fast by not doing it.
            worker.wait_for("results are stored", lambda: side.ground.count_stored() >= count, 0.2)
    return {"tasks_per_s": rate}
