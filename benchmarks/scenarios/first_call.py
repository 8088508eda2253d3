"""How long a new interpreter takes to import a library, make an application and send one task."""

from __future__ import annotations

import time
from typing import Any

from scenarios import ALL_BROKERS, ALL_LIBRARIES

TITLE, UNIT, BETTER = "import and first delay()", "ms", "less"
BROKERS, LIBRARIES, RESULTS = ALL_BROKERS, ALL_LIBRARIES, False


def in_client(load: Any) -> float:
    started = time.perf_counter()
    load().send_each(1)
    return (time.perf_counter() - started) * 1000


def measure(side: Any, size: int) -> dict[str, float]:
    side.client("first_call")  # not counted: compiles what is new, declares what is missing
    return {"first_ms": side.client("first_call")}
