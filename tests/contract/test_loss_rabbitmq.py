"""A worker on RabbitMQ outlives the loss of its broker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from contract.loss import LossContract, Site
from servers import Vhost


class TestKombuRabbitMQ(LossContract):
    """kombu's own transport."""

    SETTINGS = {
        # Without confirms a message that is sent as the connection breaks is lost.
        "broker_transport_options": {"lane": "kombu", "confirm_publish": True},
    }

    @pytest.fixture
    def server_url(self, rabbitmq_vhost: Vhost) -> Iterator[str]:
        with Vhost(rabbitmq_vhost.broker) as vhost:
            self.vhost = vhost
            yield vhost.url

    @staticmethod
    def is_ack(way: str, data: bytes) -> bool:
        return way == "up" and b"\0\x3c\0\x50" in data

    @staticmethod
    def is_publish(way: str, data: bytes) -> bool:
        return way == "up" and b"\0\x3c\0\x28" in data and b"loss.late" in data

    def count_waiting(self, site: Site) -> int:
        rows = {name: messages for name, messages, _ in self.vhost.queues()}
        return int(rows["celery"])


class TestRabbitMQ(TestKombuRabbitMQ):
    """Ours."""

    SETTINGS = {"broker_transport_options": {"confirm_publish": True}}
