"""This file is what sending one message and sending many have in common: how it begins and fails.

Part of step 4 of the journey, between `amqp.py` or `pipeline.py` and a connection.
"""

from __future__ import annotations

from typing import NoReturn

import kombu
from kombu.exceptions import OperationalError
from kombu.utils.url import maybe_sanitize_url

from taskq.utils.sqlite import DatabaseError

__all__ = ("broker_errors", "open_at_once", "raise_cannot_send")


def open_at_once(producer: kombu.Producer) -> None:
    """Open the producer's connection, one attempt per broker; else OperationalError."""
    # Without retries the transport's own attempts must not make the caller wait either.
    connection = producer.connection
    if connection is not None and not connection.connected:
        connection.ensure_connection(max_retries=max(len(connection.alt) - 1, 0))


def raise_cannot_send(producer: kombu.Producer, exc: BaseException) -> NoReturn:
    """Raise what a caller is to see of a broker's error: it names the broker, not its password."""
    connection = producer.connection
    if connection is None or isinstance(exc, DatabaseError):
        raise exc
    # Nobody waits for the goodbye of a broker that does not answer.
    connection.collect()
    wrong = maybe_sanitize_url(str(exc)).rstrip(".")
    raise OperationalError(
        f"cannot send to the broker {connection.as_uri()}: {wrong}. "
        "Is it running, and is the setting broker_url right?"
    ) from exc


def broker_errors(producer: kombu.Producer) -> tuple[type[BaseException], ...]:
    """The errors of the producer's transport that mean: the broker failed."""
    connection = producer.connection
    if connection is None:
        return (OperationalError,)
    return (
        OperationalError,
        *connection.recoverable_connection_errors,
        *connection.recoverable_channel_errors,
    )
