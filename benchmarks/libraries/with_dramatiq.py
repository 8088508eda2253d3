"""dramatiq, on Redis and on RabbitMQ."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from libraries import place
from libraries.counter import count

READY = "is ready for action"
LATER_QUEUE = "default.DQ"

broker: Any
if place.BROKER.startswith("redis"):
    from dramatiq.brokers.redis import RedisBroker

    broker = RedisBroker(url=place.BROKER)
    LATER_QUEUE = "dramatiq:default.DQ"
else:
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    broker = RabbitmqBroker(url=place.BROKER)
if place.RESULTS:
    broker.add_middleware(Results(backend=RedisBackend(url=place.RESULTS)))
dramatiq.set_broker(broker)


@dramatiq.actor(**({"store_results": True} if place.RESULTS else {}))
def noop(n: int) -> Any:
    count()
    return n if place.RESULTS else None


def worker_command(verbose: bool) -> list[str]:
    program = str(Path(sys.executable).with_name("dramatiq"))
    # It takes two messages per thread from the broker at once; of 1 to 32 threads the fastest.
    options = ["--processes", "2", "--threads", "32"]
    return [program, __name__, *options, *([] if verbose else ["--skip-logging"])]


def send_each(count: int) -> None:
    for n in range(count):
        noop.send(n)


def send_together(count: int) -> None:
    dramatiq.group([noop.message(n) for n in range(count)]).run()


def round_trip() -> int:
    value: int = noop.send(7).get_result(block=True, timeout=60_000)
    return value


def send_later(count: int, seconds: int) -> None:
    for n in range(count):
        noop.send_with_options(args=(n,), delay=seconds * 1000)
