"""This file says how many unsettled messages RabbitMQ may give a channel: its prefetch window.

Between the worker's window (worker/consumer/steps.py) and RabbitMQ.

How it works. RabbitMQ counts a window by channel or by consumer. By channel it can be changed at
any time, and costs the broker a fifth of what a message does; by consumer it is cheap, and stays as
it is. So as long as a channel has one consumer, and its window is not changed, it is counted by
consumer. When that ends, the channel's window is told, and the consumer is cancelled and begun
again without one of its own; what it was given counts in the channel's.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any

from amqp.spec import Basic

__all__ = ("Window",)

_qos = Struct(">BHIHHIHBB").pack


class Window:
    """The prefetch window of a channel."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        #: 0 for no limit.
        self._size = 0
        self._is_by_consumer = False
        self._has_consumed = False
        #: The one consumer: its tag, and what begins it again.
        self._sole: tuple[str, Callable[[], Any]] | None = None

    def resize(self, count: int) -> tuple[int, bool]:
        """Set it; gives what is to be told, and whether it is for the whole channel."""
        before, self._size = self._size, count
        if not self._has_consumed:
            self._is_by_consumer = count > 0
        elif self._is_by_consumer and count != before:
            self._count_by_channel()
        return count, not self._is_by_consumer

    def add_consumer(self, tag: str, again: Callable[[], Any] | None) -> None:
        """A consumer is about to begin; `again` begins it once more, where that does no harm."""
        if self._is_by_consumer and (self._has_consumed or again is None):
            self._count_by_channel()
        elif again is not None:
            self._sole = tag, again
        self._has_consumed = True

    def remove_consumer(self, tag: str) -> None:
        """A consumer has ended."""
        if self._sole is not None and self._sole[0] == tag:
            self._sole = None

    def _count_by_channel(self) -> None:
        channel = self._channel
        self._is_by_consumer = False
        channel.connection.wire.write(self._as_qos(0, False) + self._as_qos(self._size, True))
        sole, self._sole = self._sole, None
        # The broker may have ended it.
        if sole is not None and sole[0] in channel.callbacks:
            tag, again = sole
            channel.send_method(Basic.Cancel, "sb", (tag, True))
            again()

    def _as_qos(self, count: int, for_channel: bool) -> bytes:
        return _qos(1, self._channel.channel_id, 11, 60, 10, 0, count, for_channel, 0xCE)
