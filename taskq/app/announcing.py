"""This file tells whoever listens that a message is about to be sent, and that it was.

Part of step 4 of the journey, entered only when somebody listens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taskq.protocol import TaskMessage
from taskq.signals import after_task_publish, before_task_publish, task_sent

__all__ = ("announce_publish", "announce_published")


def announce_publish(
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


def announce_published(
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
