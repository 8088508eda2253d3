"""This file writes a message as the frames of AMQP's basic.publish.

Between publish (app/amqp.py) and RabbitMQ. The bytes are those py-amqp would write, made without
its call per value: headers are most of what a publish costs. What is rare is left to py-amqp.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Any

from amqp.serialization import dumps

__all__ = ("PROPERTIES", "Known", "as_frames")

#: The headers last written, by name: as objects, and as bytes with their names.
Known = dict[Any, tuple[Any, bytes]]

_FRAME_END = b"\xce"
_LARGEST_INT = 2147483647

#: What cannot change while it stays the same object.
_ATOMS = frozenset((str, int, float, bool, type(None)))
_MOST_KNOWN = 128

_frame = Struct(">BHI").pack
_publish = Struct(">HHH").pack
_content = Struct(">HHQ").pack
_octet = Struct("B").pack
_long = Struct(">I").pack
_text_head = Struct(">cI").pack
_int = Struct(">ci").pack
_big_int = Struct(">cq").pack
_float = Struct(">cd").pack

#: (name, flag, how it is written): text (of a few: n), table, octet or a 64-bit number.
PROPERTIES = (
    ("content_type", 0x8000, "n"),
    ("content_encoding", 0x4000, "n"),
    ("application_headers", 0x2000, "F"),
    ("delivery_mode", 0x1000, "o"),
    ("priority", 0x0800, "o"),
    ("correlation_id", 0x0400, "s"),
    ("reply_to", 0x0200, "n"),
    ("expiration", 0x0100, "s"),
    ("message_id", 0x0080, "s"),
    ("timestamp", 0x0040, "L"),
    ("type", 0x0020, "s"),
    ("user_id", 0x0010, "s"),
    ("app_id", 0x0008, "s"),
    ("cluster_id", 0x0004, "s"),
)


def as_frames(
    channel: int,
    message: Any,
    exchange: str,
    routing_key: str,
    mandatory: bool,
    immediate: bool,
    frame_max: int,
    known: Known | None = None,
) -> bytes:
    """A message as method, header and body frames; a large body is cut to the frame size.

    `known`, at first empty, is to be the same for messages that resemble each other.
    """
    body = message.body
    if isinstance(body, str):
        encoding = message.properties.setdefault("content_encoding", "utf-8")
        body = body.encode(encoding)
    flags = bytes((bool(mandatory) | bool(immediate) << 1,))
    method = _publish(60, 40, 0) + _short(exchange or "") + _short(routing_key or "") + flags
    header = _content(60, 0, len(body)) + _properties(message, {} if known is None else known)
    parts = [
        _frame(1, channel, len(method)), method, _FRAME_END,
        _frame(2, channel, len(header)), header, _FRAME_END,
    ]  # fmt: skip
    size = frame_max - 8
    for start in range(0, len(body), size):
        piece = body[start : start + size]
        parts += (_frame(3, channel, len(piece)), piece, _FRAME_END)
    return b"".join(parts)


@lru_cache(1024)
def _short(text: str) -> bytes:
    """A name, as one byte of length and its UTF-8; the same few come again and again."""
    return _text(text)


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    try:
        return bytes((len(data),)) + data
    except ValueError:
        raise ValueError(
            f"{text!r:.80} is too long for RabbitMQ: ids, routing keys and names of queues, "
            f"exchanges and headers have at most 255 bytes, and this has {len(data)}"
        ) from None


def _properties(message: Any, known: Known) -> bytes:
    properties = message.properties
    flags = 0
    parts = [b""]
    for name, flag, kind in PROPERTIES:
        value = properties.get(name)
        if value is None:
            continue
        flags |= flag
        if kind == "n" and type(value) is str:
            parts.append(_short(value))
        elif kind == "o" and type(value) is int:
            parts.append(_octet(value))
        elif kind == "s" and type(value) is str:
            parts.append(_text(value))
        elif kind == "F" and value:
            parts.append(_headers(value, known))
        else:
            parts.append(dumps(kind.replace("n", "s"), (value,)))
    parts[0] = flags.to_bytes(2, "big")
    return b"".join(parts)


def _headers(headers: dict[Any, Any], known: Known) -> bytes:
    parts = []
    for key, value in headers.items():
        # Most headers are, as objects, those of the message before.
        last = known.get(key)
        if last is not None and last[0] is value:
            parts.append(last[1])
            continue
        entry = _entry(key, value)
        if type(value) in _ATOMS:
            if len(known) >= _MOST_KNOWN:
                known.clear()
            known[key] = value, entry
        parts.append(entry)
    data = b"".join(parts)
    return _long(len(data)) + data


def _table(table: dict[Any, Any]) -> bytes:
    data = b"".join([_entry(key, value) for key, value in table.items()])
    return _long(len(data)) + data


def _entry(key: Any, value: Any) -> bytes:
    name = _short(key) if type(key) is str else bytes((len(key),)) + key
    if type(value) is str:
        data = value.encode("utf-8", "surrogatepass")
        return name + _text_head(b"S", len(data)) + data
    if value is None:
        return name + b"V"
    return name + _value(key, value, type(value))


def _value(key: Any, value: Any, kind: type) -> bytes:
    if kind is bool:
        return b"t\x01" if value else b"t\x00"
    if kind is int:
        if -_LARGEST_INT <= value <= _LARGEST_INT:
            return _int(b"I", value)
        return _big_int(b"L", value)
    if kind is float:
        return _float(b"d", value)
    if kind is dict:
        return b"F" + _table(value) if value else b"F\0\0\0\0"
    if kind is list or kind is tuple:
        data = b"".join([_item(item) for item in value])
        return b"A" + _long(len(data)) + data
    # Dates, decimals, and what AMQP has no type for. Without the table's size and the key.
    name = key if isinstance(key, bytes) else key.encode("utf-8", "surrogatepass")
    return dumps("F", ({key: value},))[5 + len(name) :]


def _item(item: Any) -> bytes:
    if item is None:
        return b"V"
    if type(item) is str:
        data = item.encode("utf-8", "surrogatepass")
        return _text_head(b"S", len(data)) + data
    return _value("", item, type(item))
