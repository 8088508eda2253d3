"""How fast a client sends groups of 1,000 tasks; where a library has none, what is nearest."""

from __future__ import annotations

import time
from typing import Any

from scenarios import ALL_BROKERS, ALL_LIBRARIES

TITLE, UNIT, BETTER = "group of 1,000 published", "tasks/s", "more"
BROKERS, LIBRARIES, RESULTS = ALL_BROKERS, ALL_LIBRARIES, False

MEMBERS = 1000


def in_client(load: Any, members: int, groups: int) -> float:
    library = load()
    library.send_together(members)
    started = time.perf_counter()
    for _ in range(groups):
        library.send_together(members)
    return members * groups / (time.perf_counter() - started)


def measure(side: Any, size: int) -> dict[str, float]:
    groups = max(1, int(size * side.library.share) // 2 // MEMBERS)
    return {"tasks_per_s": side.client("group", min(MEMBERS, size), groups)}
