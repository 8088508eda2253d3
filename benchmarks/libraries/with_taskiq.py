"""taskiq, on Redis (streams, the broker that acknowledges) and on RabbitMQ."""

from __future__ import annotations

import asyncio
import atexit
import sys
from functools import cache
from pathlib import Path
from typing import Any

from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from libraries import place
from libraries.counter import count

READY = "Listening started"

#: Tasks of one process under way at once; of 100 (its default) and 1,000 the faster.
AT_ONCE = 1000

broker: Any
if place.BROKER.startswith("redis"):
    # "0": a group made by the worker also sees what was sent before.
    broker = RedisStreamBroker(place.BROKER, consumer_id="0")
else:
    from taskiq_aio_pika import AioPikaBroker

    broker = AioPikaBroker(place.BROKER, qos=AT_ONCE)
if place.RESULTS:
    broker = broker.with_result_backend(RedisAsyncResultBackend(place.RESULTS))


@broker.task
async def noop(n: int) -> int:
    count()
    return n


def worker_command(verbose: bool) -> list[str]:
    program = str(Path(sys.executable).with_name("taskiq"))
    level = "INFO" if verbose else "WARNING"
    options = ["--workers", "2", "--max-async-tasks", str(AT_ONCE), "--log-level", level]
    return [program, "worker", f"{__name__}:broker", *options]


@cache
def loop() -> asyncio.AbstractEventLoop:
    """The client's event loop, with the broker started in it."""
    made = asyncio.new_event_loop()
    made.run_until_complete(broker.startup())

    def close() -> None:
        made.run_until_complete(broker.shutdown())
        made.close()

    atexit.register(close)
    return made


def send_each(count: int) -> None:
    async def send() -> None:
        for n in range(count):
            await noop.kiq(n)

    loop().run_until_complete(send())


def send_together(count: int) -> None:
    async def send() -> None:
        await asyncio.gather(*(noop.kiq(n) for n in range(count)))

    loop().run_until_complete(send())


def round_trip() -> int:
    async def go() -> int:
        sent = await noop.kiq(7)
        value: int = (await sent.wait_result(check_interval=0.001, timeout=60)).return_value
        return value

    return loop().run_until_complete(go())
