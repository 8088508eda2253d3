"""The servers of a run: private ones, started for it, removed after it, empty for each figure."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from servers import RabbitMQ, RedisServer, Vhost


class Ground:
    """A Redis, which also takes all results, and a RabbitMQ where it is asked for.

    python: the interpreter whose libraries are measured.
    """

    def __init__(self, brokers: list[str], python: str = sys.executable) -> None:
        self.python = python
        self._open = contextlib.ExitStack()
        # As Redis comes: nothing is written to disk while it is measured.
        self.redis = self._open.enter_context(RedisServer(appendonly="no"))
        self.rabbitmq: RabbitMQ | None = None
        if "rabbitmq" in brokers:
            self.rabbitmq = self._open.enter_context(RabbitMQ())

    @contextlib.contextmanager
    def broker(self, name: str, folder: Path) -> Iterator[str]:
        """The URL of an empty broker; results stored on this ground are gone, too."""
        with self.redis.client() as client:
            client.flushall()
        if name == "sqlite":
            yield f"sqlite:///{folder}/bench.db"
        elif name == "redis":
            yield self.redis.database(0)
        else:
            with Vhost(self.rabbitmq) as vhost:
                yield vhost.url

    def results_url(self, library: str, broker: str, folder: Path) -> str:
        """Where results go: Redis, or the file of an embedded broker."""
        if broker == "sqlite":
            return f"sqlite:///{folder}/bench.db"
        # huey has one storage for both, and only asks whether there are results.
        return self.redis.database(0 if library == "huey" else 1)

    def count_stored(self) -> int:
        """Entries of all databases in Redis; a hash counts as its fields."""
        found = 0
        for number in (0, 1):
            with self.redis.client(number) as client:
                keys = list(client.scan_iter(count=1000))
                pipe = client.pipeline(transaction=False)
                for key in keys:
                    pipe.type(key)
                hashes = [k for k, t in zip(keys, pipe.execute(), strict=True) if t == b"hash"]
                found += len(keys) - len(hashes) + sum(client.hlen(key) for key in hashes)
        return found

    def count_waiting(self, broker: str, url: str, queue: str) -> int:
        """Messages in a queue (a list in Redis) no worker has taken yet; SQLite is not asked."""
        if broker == "redis":
            with self.redis.client() as client:
                return int(client.llen(queue))
        if broker == "sqlite" or self.rabbitmq is None:
            return 0
        columns = ("name", "messages_ready")
        vhost = url.rpartition("/")[2]
        lines = self.rabbitmq.ctl("list_queues", "-p", vhost, *columns).splitlines()
        found = dict(line.split("\t") for line in lines[1:])
        return int(found.get(queue, 0))

    def server_pid(self, broker: str) -> int | None:
        """The process that stands for the broker, if it is one."""
        server = {"redis": self.redis, "rabbitmq": self.rabbitmq}.get(broker)
        return server.pid if server else None

    def close(self) -> None:
        """End the servers."""
        self._open.close()
