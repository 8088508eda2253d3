"""A message of the Redis transport: kombu's, made in one step where it is as nearly all are."""

from __future__ import annotations

from binascii import a2b_base64
from typing import Any

from kombu.message import Message as AnyMessage
from kombu.transport import virtual

__all__ = ("Message",)


class Message(virtual.Message):
    """What a consumer is given."""

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        properties, body = payload["properties"], payload.get("body")
        if type(body) is not str or properties.get("body_encoding") != "base64" or kwargs:
            super().__init__(payload, channel=channel, **kwargs)
            return
        self._raw = payload
        AnyMessage.__init__(
            self,
            body=a2b_base64(body),
            channel=channel,
            delivery_tag=properties["delivery_tag"],
            content_type=payload.get("content-type"),
            content_encoding=payload.get("content-encoding"),
            headers=payload.get("headers"),
            properties=properties,
            delivery_info=properties.get("delivery_info"),
        )
