"""A kombu message as a row of the embedded broker, and back."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

from kombu.exceptions import EncodeError
from kombu.message import Message as BaseMessage
from kombu.transport import virtual
from kombu.utils.json import JSONEncoder
from kombu.utils.json import loads as load_typed

from taskq.transports.sqlite_store import Outgoing, Reserved
from taskq.utils.json_writing import build_writer
from taskq.utils.time import isoparse

HIGHEST_PRIORITY = 9

_encode = build_writer(JSONEncoder(separators=(",", ":")))
_decode = json.JSONDecoder().raw_decode


class Message(virtual.Message):
    """A delivery: a reserved row under the tag its channel gave it."""

    def __init__(self, payload: Reserved, channel: Any = None, tag: int = 0) -> None:
        head = payload.head
        # Values JSON does not know are rare, and kombu's way of reading them back is slow.
        read = load_typed(head) if '"__type__"' in head else _decode(head)[0]
        headers, properties, content_type, content_encoding = read
        delivery_info = properties["delivery_info"]
        if payload.redelivered:
            headers["redelivered"] = delivery_info["redelivered"] = True
        properties["delivery_tag"] = tag
        BaseMessage.__init__(
            self,
            body=payload.body,
            delivery_tag=tag,
            content_type=content_type,
            content_encoding=content_encoding,
            delivery_info=delivery_info,
            properties=properties,
            headers=headers,
            channel=channel,
        )

    def serializable(self) -> dict[str, Any]:
        """Give the message as kombu's virtual transports write it."""
        return {
            "body": self.body.decode("utf-8", "surrogateescape"),
            "properties": self.properties,
            "content-type": self.content_type,
            "content-encoding": self.content_encoding,
            "headers": self.headers,
        }


def as_outgoing(message: dict[str, Any], exchange: str, routing_key: str, now: float) -> Outgoing:
    """Give the row for a message made by Channel.prepare_message.

    Raises EncodeError when its headers or properties hold what cannot be written as JSON.
    """
    headers, properties, body = message["headers"], message["properties"], message["body"]
    properties["delivery_info"] = {"exchange": exchange, "routing_key": routing_key}
    try:
        head = _encode((headers, properties, message["content-type"], message["content-encoding"]))
    except (TypeError, ValueError) as exc:
        raise EncodeError(
            f"The headers or properties of a message hold what JSON cannot: {exc}"
        ) from exc
    priority = properties.get("priority") or 0
    eta = headers.get("eta")
    expiration = properties.get("expiration")
    return Outgoing(
        exchange,
        routing_key,
        HIGHEST_PRIORITY - min(max(priority, 0), HIGHEST_PRIORITY),
        read_due(eta, now) if eta else None,
        now + float(expiration) / 1000 if expiration is not None else None,
        head,
        body.encode() if isinstance(body, str) else bytes(body),
    )


def read_due(eta: Any, now: float) -> float | None:
    """Give the moment an `eta` header means, None when it is not in the future.

    Text without an offset is UTC. What is no date is left to the worker, which refuses the task.
    """
    try:
        moment = eta if isinstance(eta, datetime) else isoparse(eta)
    except (TypeError, ValueError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    due = moment.timestamp()
    return due if due > now else None
