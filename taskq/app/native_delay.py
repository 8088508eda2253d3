"""This file sends tasks with an ETA by RabbitMQ's delay queues, as Celery does for quorum queues.

Step 4 of the journey, for the few it is meant for: an amqp broker, a quorum queue among those the
application knows, a queue that is bound to an exchange that is not direct. All other tasks with an
ETA go to their queue at once, and the worker decides where they wait.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from kombu.transport.native_delayed_delivery import (
    MAX_LEVEL,
    MAX_NUMBER_OF_BITS_TO_USE,
    calculate_routing_key,
    level_name,
)

from taskq.utils.time import isoparse

if TYPE_CHECKING:
    from taskq.app.amqp import AMQP

__all__ = ("find_way",)

#: What making and sending a message takes off a countdown in whole seconds.
_SENDING_S = 0.1


def find_way(
    amqp: AMQP, queue: Any, exchange: Any, routing_key: Any, eta: Any
) -> tuple[Any, Any]:
    """Give (exchange, routing key) for a message with an ETA; those given, where it goes on."""
    direct = (exchange, routing_key)
    if not exchange or queue.exchange is None or queue.exchange.type == "direct":
        return direct
    if not amqp.queues.has_quorum or not amqp.app.conf.worker_detect_quorum_queues:
        return direct
    moment = eta if isinstance(eta, datetime) else isoparse(eta)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    seconds = int((moment - datetime.now(timezone.utc)).total_seconds() + _SENDING_S)
    if not 0 < seconds < 2**MAX_NUMBER_OF_BITS_TO_USE or not _has_delay_queues(amqp):
        return direct
    return level_name(MAX_LEVEL), calculate_routing_key(seconds, routing_key)


def _has_delay_queues(amqp: AMQP) -> bool:
    """Has a worker set them up? Without them the broker would throw the message away."""
    known: set[str] = amqp.__dict__.setdefault("_with_delay_queues", set())
    with amqp.app.pool.acquire(block=True) as connection:
        uri = connection.as_uri()
        if uri in known:
            return True
        if connection.transport.driver_type != "amqp":
            return False
        channel = connection.connection.channel()
        try:
            channel.exchange_declare(level_name(MAX_LEVEL), "topic", passive=True)
        except connection.channel_errors:
            return False
        finally:
            channel.close()
        known.add(uri)
    return True
