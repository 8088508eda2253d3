"""One file per thing that is measured.

Each has `TITLE`, `UNIT`, `BETTER` ("more" or "less"), `BROKERS`, `LIBRARIES`, `RESULTS` (are
results stored?) and two functions: `measure(side, size)`, run by the measuring process, gives
figures by name (the first is the one that is compared); `in_client(load, ...)` is its part in a
client process.
"""

from __future__ import annotations

import importlib
from typing import Any

ORDER = (
    "drain",
    "drain_results",
    "publish",
    "group",
    "latency",
    "eta_memory",
    "idle_memory",
    "first_call",
)

ALL_BROKERS = ("redis", "rabbitmq", "sqlite")
ALL_LIBRARIES = ("taskq", "celery", "huey", "dramatiq", "taskiq")


def load(name: str) -> Any:
    """The module of a scenario."""
    return importlib.import_module(f"scenarios.{name}")
