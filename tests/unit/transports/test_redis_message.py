"""A message of our Redis transport is kombu's, however it was made."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from kombu.compression import compress
from kombu.transport import virtual

from taskq.transports.redis_message import Message

FIELDS = (
    "_raw", "accept", "acknowledged", "body", "channel", "content_encoding", "content_type",
    "delivery_info", "delivery_tag", "errors", "headers", "properties",
)  # fmt: skip


class Channel:
    no_ack_consumers: frozenset[str] = frozenset()

    def decode_body(self, body: Any, encoding: str | None = None) -> Any:
        return virtual.Channel.codecs[encoding].decode(body) if encoding else body


def make_payload(body: bytes, **headers: Any) -> dict[str, Any]:
    return {
        "body": b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": {
            "body_encoding": "base64",
            "correlation_id": "c",
            "delivery_info": {"exchange": "", "routing_key": "q"},
            "delivery_tag": "tag",
        },
    }


def as_kombu_reads_it(payload: dict[str, Any]) -> tuple[Any, Any]:
    channel: Any = Channel()
    return tuple(kind(payload, channel=channel) for kind in (Message, virtual.Message))


PLAIN = make_payload(b'["\xc3\xa9"]', task="add", id="1")
SQUEEZED, SQUEEZER = compress(b"[1]", "zlib")
TEXT = {**PLAIN, "body": "[1]", "properties": {"delivery_tag": "tag", "delivery_info": {}}}


@pytest.mark.parametrize(
    "payload",
    [
        PLAIN,
        make_payload(b""),
        make_payload(SQUEEZED, compression=SQUEEZER),
        TEXT,
        {"body": None, "properties": PLAIN["properties"]},
        {**PLAIN, "headers": None, "content-type": None},
    ],
)
def test_it_is_what_kombu_makes_of_it(payload: dict[str, Any]) -> None:
    ours, theirs = as_kombu_reads_it(json.loads(json.dumps(payload)))
    assert isinstance(ours, virtual.Message)
    for field in FIELDS:
        assert getattr(ours, field) == getattr(theirs, field), field


def test_it_is_decoded() -> None:
    ours, _ = as_kombu_reads_it(PLAIN)
    assert ours.payload == ["\xe9"]


def test_a_body_that_is_not_base64_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"."):
        Message({**PLAIN, "body": "a"}, channel=Channel())
