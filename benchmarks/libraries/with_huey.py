"""huey, on Redis and on SQLite."""

from __future__ import annotations

import sys
from pathlib import Path

from huey import RedisHuey, SqliteHuey

from libraries import place
from libraries.counter import count

READY = "consumer started"
LATER_QUEUE = "huey.redis.bench"

results = bool(place.RESULTS)
if place.BROKER.startswith("redis"):
    # Blocking reads, and results that are announced: nobody polls.
    huey = RedisHuey("bench", url=place.BROKER, results=results, notify_result=results)
else:
    huey = SqliteHuey("bench", filename=str(Path(place.FOLDER, "huey.db")), results=results)


@huey.task()
def noop(n: int) -> int:
    count()
    return n


def worker_command(verbose: bool) -> list[str]:
    options = ["-w", "2", "-k", "process", "-n", "-d", "0.001", "-m", "0.01"]
    quiet = [] if verbose else ["-q"]
    program = Path(sys.executable).with_name("huey_consumer")
    return [str(program), f"{__name__}.huey", *options, *quiet]


def send_each(count: int) -> None:
    for n in range(count):
        noop(n)


def send_together(count: int) -> None:
    noop.map([(n,) for n in range(count)])


def round_trip() -> int:
    value: int = noop(7).get(blocking=True, timeout=60, max_delay=0.01)
    return value


def send_later(count: int, seconds: int) -> None:
    for n in range(count):
        noop.schedule(args=(n,), delay=seconds)
