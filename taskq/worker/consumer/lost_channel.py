"""This file looks after what was held on a lost channel of kombu's Redis transport.

RabbitMQ gives unsettled messages out again as soon as it misses a connection. kombu's Redis leaves
them aside until the visibility timeout (an hour): long for a task that has not started, and for one
that has ended since, whose ack was for a channel that is gone. But its tags outlive channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ("LostChannels",)


class LostChannels:
    """Remembers what lost channels held until a new channel has taken care of it."""

    def __init__(self) -> None:
        #: Delivery tag -> the request that was running, None for what had not started.
        self._held: dict[Any, Any] = {}

    def add(self, channel: Any, running: Iterable[Any]) -> None:
        """Note what is held on a channel that is lost; these requests are run on."""
        # Transports with leases ("holds") and AMQP look after it themselves.
        window: Any = getattr(channel, "qos", None)
        if hasattr(channel, "holds") or not hasattr(window, "restore_by_tag"):
            return
        for tag in window._delivered:
            self._held.setdefault(tag)
        for request in running:
            self._held[request.message.delivery_tag] = request

    def recover(self, channel: Any) -> None:
        """Put back what has not started; have what runs be acknowledged on this channel."""
        for tag, request in list(self._held.items()):
            if request is None:
                channel.qos.restore_by_tag(tag)
            elif request.acknowledged:
                # Meanwhile, or in vain.
                channel.basic_ack(tag)
            else:
                request.message.channel = channel
            del self._held[tag]
