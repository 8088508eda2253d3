"""What consumers on Redis and on the embedded broker have in common: a prefetch window, a lease."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taskq.exceptions import ImproperlyConfigured

__all__ = ("DELIVERY_S", "Window", "read_lease")

#: Messages reserved at most in one turn.
MOST_AT_ONCE = 64

#: Seconds a turn of the loop may spend on delivering before others have theirs.
DELIVERY_S = 0.005

DEFAULT_LEASE_S = 30.0


class Window:
    """How many unacknowledged messages a channel may hold; kombu's QoS."""

    def __init__(self, channel: Any, prefetch_count: int = 0) -> None:
        self.channel = channel
        self.prefetch_count = prefetch_count

    def find_room(self) -> int:
        """Give the number of messages that may be reserved now."""
        if not self.prefetch_count:
            return MOST_AT_ONCE
        return min(self.prefetch_count - len(self.channel.held), MOST_AT_ONCE)


def read_lease(options: Mapping[str, Any]) -> float:
    """Give the seconds of a lease, as broker_transport_options say."""
    value = options.get("lease", DEFAULT_LEASE_S)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        raise ImproperlyConfigured(
            f"broker_transport_options['lease']: expected seconds (more than 0), got {value!r}."
        )
    return float(value)
