"""A worker on Redis outlives the loss of its broker."""

from __future__ import annotations

from typing import Any

import pytest
from contract.loss import LossContract, Site
from patience import wait_until


class TestKombuRedis(LossContract):
    """kombu's own transport."""

    SETTINGS: dict[str, Any] = {"broker_transport_options": {"lane": "kombu"}}
    #: The command of a worker that has nothing to do.
    WAITS_BY = "brpop"

    @pytest.fixture
    def server_url(self, redis_url: str) -> str:
        return redis_url

    @staticmethod
    def is_ack(way: str, data: bytes) -> bool:
        return way == "up" and b"HDEL" in data

    @staticmethod
    def is_publish(way: str, data: bytes) -> bool:
        return way == "up" and b"LPUSH" in data

    def wait_until_reading(self, site: Site) -> None:
        # A cut between two commands is mended by the client of Redis, and nothing is lost.
        with site.app.connection_for_read() as connection:
            client = connection.default_channel.client
            number = str(client.get_connection_kwargs()["db"])
            wait_until(lambda: any(
                each["cmd"] == self.WAITS_BY and each["db"] == number
                for each in client.client_list()
            ), "it waits for messages")  # fmt: skip

    def count_waiting(self, site: Site) -> int:
        with site.app.connection_for_read() as connection:
            client = connection.default_channel.client
            return int(client.llen("celery") + client.hlen("unacked"))


class TestRedis(TestKombuRedis):
    """Our transport."""

    SETTINGS: dict[str, Any] = {}
    WAITS_BY = "blmove"

    def lose(self, site: Site, how: str) -> None:
        super().lose(site, how)
        # A connection that breaks while a call is on its way is mended without the consumer, who
        # then has nothing to log; a task that is sent meanwhile waits in Redis.
        site.connections = 1
