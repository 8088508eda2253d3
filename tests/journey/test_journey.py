"""One task from delay() to get() under a profiler: which files, in which order, how many calls.

Ground functions (`utils/`) and the one file of an adapter are not stations of the journey: files
count without them. Python calls count with everything of taskq and kombu.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from patience import PATIENCE_S

from taskq import App, Celery
from taskq.exceptions import WorkerShutdown

ENQUEUE_FILES, ENQUEUE_CALLS = 8, 150
RUN_FILES, RUN_CALLS = 12, 120

ENQUEUE_JOURNEY = [
    "app/task.py:apply_async",
    "app/base.py:send_task",
    "protocol.py:as_task_v2",
    "app/amqp.py:publish",
]
RUN_JOURNEY = [
    "worker/consumer/delivery.py:on_message",
    "worker/strategy.py:handle",
    "worker/request.py:execute_using_pool",
    "app/trace.py:run",
]


class Watch:
    """Python calls in taskq and kombu while it is on."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.files: list[str] = []
        self.order: list[str] = []
        self.is_on = True

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        if event != "call" or not self.is_on:
            return
        parts = Path(frame.f_code.co_filename).parts
        package = next((name for name in ("taskq", "kombu") if name in parts), None)
        if package is None or "tests" in parts:
            return
        below = "/".join(parts[len(parts) - parts[::-1].index(package) :])
        self.calls[f"{package}/{below}:{frame.f_code.co_name}"] += 1
        self.order.append(f"{below}:{frame.f_code.co_name}")
        if package == "taskq" and not below.startswith("utils/") and below not in self.files:
            self.files.append(below)

    def told(self) -> str:
        rows = "\n".join(f"{n:4} {name}" for name, n in self.calls.most_common())
        return f"{sum(self.calls.values())} calls\n{self.files}\n{rows}"


@contextmanager
def watched() -> Iterator[Watch]:
    watch = Watch()
    sys.setprofile(watch)
    try:
        yield watch
    finally:
        sys.setprofile(None)


def stations(watch: Watch, journey: list[str]) -> list[str]:
    return [name for name in watch.order if name in journey]


def count_without_adapters(files: list[str]) -> int:
    """The journey has the same length whichever adapter stands behind a port."""
    adapters = ("transports/", "backends/sqlite")
    return len([name for name in files if not name.startswith(adapters)])


@pytest.mark.parametrize("broker", ["memory://", "sqlite"])
def test_a_warm_delay_is_short(broker: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/journey.db" if broker == "sqlite" else broker
    app = App("journey", broker=url, backend=None)

    @app.task(lazy=False)
    def noop(n: int) -> int:
        return n

    for n in range(3):
        noop.delay(n)
    with watched() as watch:
        result = noop.delay(3)
    assert result.id
    assert stations(watch, ENQUEUE_JOURNEY) == ENQUEUE_JOURNEY
    assert count_without_adapters(watch.files) <= ENQUEUE_FILES, watch.told()
    assert sum(watch.calls.values()) <= ENQUEUE_CALLS, watch.told()
    app.close()


def test_running_one_is_short(tmp_path: Path) -> None:
    app = Celery("journey", broker="memory://", backend=f"sqlite:///{tmp_path}/results.db")
    app.conf.worker_hijack_root_logger = False
    watch = Watch()

    @app.task(lazy=False)
    def noop(n: int) -> int:
        return n

    @app.task(lazy=False)
    def start_watching() -> None:
        watch.is_on = False
        sys.setprofile(watch_from_delivery)

    @app.task(lazy=False)
    def stop() -> None:
        sys.setprofile(None)
        raise WorkerShutdown(0)

    def watch_from_delivery(frame: FrameType, event: str, arg: Any) -> None:
        name, code = frame.f_code.co_filename, frame.f_code.co_name
        is_delivery = name.endswith("consumer/delivery.py") and code == "on_message"
        if is_delivery and event in ("call", "return"):
            watch.is_on = event == "call" and not watch.calls
        watch(frame, event, arg)

    for n in range(3):
        noop.delay(n)
    start_watching.delay()
    result = noop.delay(4)
    stop.delay()
    worker = app.WorkController(pool="solo", concurrency=1, loglevel="ERROR")
    try:
        with pytest.raises(SystemExit):
            worker.start()
            raise SystemExit(worker.exitcode)
    finally:
        sys.setprofile(None)
    assert result.get(timeout=PATIENCE_S) == 4
    assert stations(watch, RUN_JOURNEY) == RUN_JOURNEY
    assert count_without_adapters(watch.files) <= RUN_FILES, watch.told()
    assert sum(watch.calls.values()) <= RUN_CALLS, watch.told()
    app.close()
