"""This file says in one sentence what is wrong with a broker; it serves `broker_link.py`."""

from __future__ import annotations

from typing import Any

from kombu.utils.url import maybe_sanitize_url

from taskq.utils.log import get_logger

__all__ = ("describe_trouble", "warn_of_eviction")

logger = get_logger("taskq.worker.consumer.connection")

MAY_EVICT = (
    "The broker %s may throw messages away when its memory is full: its maxmemory-policy is %s. "
    "Set it to noeviction (redis-cli CONFIG SET maxmemory-policy noeviction)."
)


def describe_trouble(exc: BaseException, connection: Any) -> str:
    """What a broker's error says, without passwords and without a full stop."""
    # AMQP's errors print as "(0, 0): (403) TEXT".
    text = maybe_sanitize_url(getattr(exc, "reply_text", None) or str(exc)).rstrip(". ")
    if isinstance(exc, TimeoutError):
        scheme = connection.as_uri().partition("://")[0]
        return f"{text or 'timed out'} (is this the right port? Does what listens speak {scheme}?)"
    return text or type(exc).__name__


def warn_of_eviction(connection: Any) -> None:
    """Log a warning when the broker is a Redis that throws keys away to make room."""
    client = getattr(connection.default_channel, "client", None)
    if connection.transport.driver_type != "redis" or client is None:
        return
    try:
        # CONFIG GET is forbidden on many hosted servers.
        policy = client.info("memory").get("maxmemory_policy", "noeviction")
    except (*connection.connection_errors, *connection.channel_errors) as exc:
        logger.debug("Could not ask the broker for its maxmemory-policy: %r", exc)
        return
    if policy != "noeviction":
        logger.warning(MAY_EVICT, connection.as_uri(), policy)
