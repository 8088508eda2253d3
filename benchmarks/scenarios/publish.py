"""How fast one client sends, one task after the other, with no worker beside it."""

from __future__ import annotations

import time
from typing import Any

from scenarios import ALL_BROKERS, ALL_LIBRARIES

TITLE, UNIT, BETTER = "publish one by one", "tasks/s", "more"
BROKERS, LIBRARIES, RESULTS = ALL_BROKERS, ALL_LIBRARIES, False

WARM = 200


def in_client(load: Any, count: int) -> float:
    library = load()
    library.send_each(WARM)
    started = time.perf_counter()
    library.send_each(count)
    return count / (time.perf_counter() - started)


def measure(side: Any, size: int) -> dict[str, float]:
    return {"tasks_per_s": side.client("publish", max(200, int(size * side.library.share) // 2))}
