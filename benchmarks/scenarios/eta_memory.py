"""How much a worker grows by tasks that are due in an hour, per 100,000 of them."""

from __future__ import annotations

import time
from typing import Any

TITLE, UNIT, BETTER = "100,000 tasks with countdown=3600", "MB", "less"
BROKERS, RESULTS = ("redis", "rabbitmq", "sqlite"), False
#: taskiq leaves what is due later to a scheduler process and a source of its own.
LIBRARIES = ("taskq", "celery", "huey", "dramatiq")

PER = 100_000
WARM = 500
LATER_S = 3600
OTHERS_S = 60


def in_client(load: Any, now: int, later: int) -> str:
    library = load()
    library.send_each(now)
    if later:
        library.send_later(later, LATER_S)
    queue: str = library.LATER_QUEUE
    return queue


def measure(side: Any, size: int) -> dict[str, float]:
    # The others are measured with a tenth, at the least 2,000, and scaled.
    count = size * 5 if side.library.name == "taskq" else max(2000, size // 2)
    with side.worker() as worker:
        side.client("eta_memory", WARM, 0)
        worker.wait_counted(WARM)
        before = worker.settled_mb()
        queue = side.client("eta_memory", 0, count)
        taken = count - wait_taken(side, worker, queue)
        grown = worker.settled_mb() - before
    return {"mb_per_100000": max(grown, 0.0) * PER / max(taken, 1), "tasks": taken}


def wait_taken(side: Any, worker: Any, queue: str) -> int:
    """Wait until every task has left the queue; gives how many another library leaves there.

    Celery takes them from RabbitMQ a few a second: after a minute, those taken are its figure.
    """
    waiting, deadline = [-1], time.monotonic() + OTHERS_S

    def is_over() -> bool:
        waiting.append(side.count_waiting(queue))
        over = waiting[-1] == waiting[-2] or time.monotonic() > deadline
        return not waiting[-1] or (over and side.library.name != "taskq")

    worker.wait_for("every task is taken", is_over, 5)
    return waiting[-1]
