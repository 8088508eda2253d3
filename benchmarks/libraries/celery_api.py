"""taskq and Celery: the same file for both, run by the one `BENCH_LIBRARY` names."""

from __future__ import annotations

import importlib
import sys

from libraries import place
from libraries.counter import count

package = importlib.import_module(place.LIBRARY)

READY = " ready."
LATER_QUEUE = "celery"

app = package.Celery("bench", broker=place.BROKER, backend=place.RESULTS or None)
app.conf.update(task_ignore_result=not place.RESULTS, broker_connection_retry_on_startup=True)


@app.task(name="bench.noop")
def noop(n: int) -> int:
    count()
    return n


if place.PROFILE:
    importlib.import_module("profiling").watch_worker(package.signals)


def worker_command(verbose: bool) -> list[str]:
    level = "INFO" if verbose else "WARNING"
    options = ["-A", __name__, "worker", "-P", "prefork", "-c", "2", "-l", level]
    return [sys.executable, "-m", place.LIBRARY, *options]


def send_each(count: int) -> None:
    for n in range(count):
        noop.delay(n)


def send_together(count: int) -> None:
    package.group(noop.s(n) for n in range(count)).apply_async()


def round_trip() -> int:
    value: int = noop.delay(7).get(timeout=60)
    return value


def send_later(count: int, seconds: int) -> None:
    for n in range(count):
        noop.apply_async((n,), countdown=seconds)
