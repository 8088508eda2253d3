"""What an idle worker with two children takes: PSS of all its processes, from Linux's /proc."""

from __future__ import annotations

from typing import Any

from scenarios import ALL_BROKERS, ALL_LIBRARIES

TITLE, UNIT, BETTER = "idle memory (PSS, 2 children)", "MB", "less"
BROKERS, LIBRARIES, RESULTS = ALL_BROKERS, ALL_LIBRARIES, False


def in_client(load: Any) -> str:
    ready: str = load().READY
    return ready


def measure(side: Any, size: int) -> dict[str, float]:
    ready = side.client("idle_memory")
    with side.worker(verbose=True) as worker:
        worker.wait_ready(ready)
        return {"pss_mb": worker.settled_mb()}
