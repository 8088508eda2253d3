"""The bytes of a publish are those py-amqp writes."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from types import SimpleNamespace

import amqp
import pytest
from amqp.method_framing import frame_writer

from taskq.transports.amqp_frames import as_frames

FRAME_MAX = 4096

HEADERS = {
    "lang": "py",
    "task": "proj.add",
    "id": "d9b1c9d8-5b3d-4c6c-9d2c-6b8c1f1f7c11",
    "shadow": None,
    "eta": None,
    "group_index": 3,
    "large": 2**40,
    "negative": -(2**31),
    "retries": 0,
    "timelimit": [None, 12.5],
    "ratio": 0.25,
    "ignore_result": True,
    "replaced": False,
    "argsrepr": "('ünïcode \udcff',)",
    "stamps": {"key": ["a", "b", 1, None, {"deep": [True]}]},
    "raw": b"\x00\xff",
    "price": Decimal("1.25"),
    "at": datetime(2026, 1, 2, 3, 4, 5),
    "empty": {},
    "nothing": [],
}


def written_by_amqp(message: amqp.Message, arguments: bytes) -> bytes:
    written: list[bytes] = []
    connection = SimpleNamespace(frame_max=FRAME_MAX, bytes_sent=0)
    transport = SimpleNamespace(write=lambda data: written.append(bytes(data)))
    frame_writer(connection, transport)(1, 7, (60, 40), arguments, message)
    return b"".join(written)


def message(body: str | bytes = "[[], {}, {}]", **properties: object) -> amqp.Message:
    return amqp.Message(body, **properties)


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"application_headers": {}},
        {"application_headers": HEADERS},
        {"content_type": "application/json", "content_encoding": "utf-8", "delivery_mode": 2},
        {"priority": 0, "correlation_id": "1", "reply_to": "q", "expiration": "1000"},
        {"priority": 9, "timestamp": 1700000000, "type": "t", "user_id": "u", "app_id": "a"},
        {"message_id": "m", "cluster_id": "c", "correlation_id": ""},
    ],
)
@pytest.mark.parametrize("body", ["", "{}", b"bytes", "é" * 50, b"x" * (3 * FRAME_MAX)])
def test_same_bytes(properties: dict[str, object], body: str | bytes) -> None:
    arguments = amqp.serialization.dumps("Bssbb", (0, "exchange", "key", True, False))
    expected = written_by_amqp(message(body, **properties), arguments)
    ours = as_frames(7, message(body, **properties), "exchange", "key", True, False, FRAME_MAX)
    assert ours == expected


def test_a_header_amqp_has_no_type_for_is_named() -> None:
    wrong = message(application_headers={"when": object()})
    with pytest.raises(amqp.exceptions.FrameSyntaxError, match="when"):
        as_frames(1, wrong, "", "q", False, False, FRAME_MAX)


def test_an_impossible_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="256"):
        as_frames(1, message(), "", "q" * 256, False, False, FRAME_MAX)
