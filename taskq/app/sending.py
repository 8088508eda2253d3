"""This file is what sending one message and sending many have in common.

Part of step 4 of the journey, between `amqp.py` or `pipeline.py` and a connection: how sending
begins and fails, and, entered only when somebody listens, the signals before and after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import kombu
from kombu.exceptions import OperationalError
from kombu.utils.url import maybe_sanitize_url

from taskq.protocol import TaskMessage
from taskq.signals import after_task_publish, before_task_publish, task_sent
from taskq.utils.sqlite_location import DatabaseError

__all__ = (
    "broker_errors",
    "open_at_once",
    "raise_cannot_send",
    "send_after_publish",
    "send_before_publish",
)


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


def send_before_publish(
    name: str,
    message: TaskMessage,
    exchange: Any,
    routing_key: str | None,
    declare: Any,
    policy: Mapping[str, Any] | None,
) -> tuple[Any, dict[str, Any]]:
    """Send before_task_publish; gives `declare` and the retry policy as receivers left them.

    Headers and properties of the message may be changed by receivers too.
    """
    declare = None if declare is None else list(declare)
    policy = dict(policy or {})
    before_task_publish.send(
        sender=name,
        body=message.body,
        exchange=exchange,
        routing_key=routing_key,
        declare=declare,
        headers=message.headers,
        properties=message.properties,
        retry_policy=policy,
    )
    return declare, policy


def send_after_publish(
    name: str,
    message: TaskMessage,
    destination: tuple[Any, Any, str | None],
    dispatcher: Any,
    **publishing: Any,
) -> None:
    """Send after_task_publish, task_sent, and the task-sent event if there is a dispatcher.

    `destination` is (queue, exchange, routing key); `publishing` goes to the dispatcher.
    """
    queue, exchange, routing_key = destination
    body, headers = message.body, message.headers
    if after_task_publish.receivers:
        after_task_publish.send(
            sender=name, body=body, headers=headers, exchange=exchange, routing_key=routing_key
        )
    if task_sent.receivers:
        _send_task_sent(name, body, headers)
    if message.sent_event and dispatcher is not None:
        message.sent_event.update(
            queue=getattr(queue, "name", queue),
            exchange=getattr(exchange, "name", exchange),
            routing_key=routing_key,
        )
        dispatcher.publish("task-sent", message.sent_event, **publishing)


def _send_task_sent(name: str, body: Any, headers: Mapping[str, Any]) -> None:
    if isinstance(body, Mapping):  # protocol 1
        headers, args, kwargs = body, body["args"], body["kwargs"]
    else:
        args, kwargs = body[0], body[1]
    task_sent.send(
        sender=name,
        task_id=headers["id"],
        task=name,
        args=args,
        kwargs=kwargs,
        eta=headers["eta"],
        taskset=headers["group"],
    )
