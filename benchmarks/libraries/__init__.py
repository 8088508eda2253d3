"""The five libraries behind one face, so that a scenario is written once.

Each module is what a worker of that library loads, and what a client imports. It reads where it is
from the environment (`libraries.place`), and has

    worker_command(verbose)     the command of a worker with two processes
    READY                       what a verbose worker prints when it is up
    send_each(count)            send no-op tasks one by one
    send_together(count)        send them the way the library sends many at once
    LATER_QUEUE                 what tasks that are due later go through
    round_trip()                send one and wait for its result
    send_later(count, seconds)  send tasks that are due in so many seconds (where it can)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Library:
    """One library of the comparison."""

    name: str
    module: str
    packages: tuple[str, ...]
    brokers: tuple[str, ...]
    #: Of the tasks the fastest is given: so that each is measured for about as long.
    share: float
    #: How a worker is set up, for the reader of the figures.
    setting: str


LIBRARIES = {
    library.name: library
    for library in (
        Library(
            "taskq", "libraries.celery_api", ("taskq",), ("redis", "rabbitmq", "sqlite"),
            1.0, "defaults, -P prefork -c 2",
        ),
        Library(
            "celery", "libraries.celery_api", ("celery", "kombu", "redis", "hiredis", "amqp"),
            ("redis", "rabbitmq"), 0.25, "defaults, -P prefork -c 2",
        ),
        Library(
            "huey", "libraries.with_huey", ("huey",), ("redis", "sqlite"),
            0.5, "-w 2 -k process, blocking reads, results announced",
        ),
        Library(
            "dramatiq", "libraries.with_dramatiq", ("dramatiq", "pika"), ("redis", "rabbitmq"),
            0.5, "--processes 2 --threads 32",
        ),
        Library(
            "taskiq", "libraries.with_taskiq", ("taskiq", "taskiq-redis", "taskiq-aio-pika"),
            ("redis", "rabbitmq"), 0.25,
            "--workers 2 --max-async-tasks 1000, streams on Redis, qos 1000 on RabbitMQ",
        ),
    )
}  # fmt: skip
