"""This file reads the frames of AMQP's basic.deliver: who it is for, properties, headers.

Between RabbitMQ and on_message (worker/consumer/delivery.py). It gives what py-amqp would, made
without its call per value: headers are most of what a delivery costs. What is rare is left to it.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Any

from amqp.serialization import _read_item

from taskq.transports.amqp_frames import PROPERTIES

__all__ = ("read_address", "read_body_size", "read_properties")

_long = Struct(">I").unpack_from
_longlong = Struct(">Q").unpack_from
_int = Struct(">i").unpack_from
_big_int = Struct(">q").unpack_from
_float = Struct(">d").unpack_from
_tag_and_flag = Struct(">QB").unpack_from
_flags = Struct(">H").unpack_from


def read_address(method: bytes) -> tuple[str, int, bool, str, str]:
    """Give (consumer tag, delivery tag, redelivered, exchange, routing key) of a basic.deliver."""
    at = 5 + method[4]
    consumer_tag = _name(method[5:at])
    tag, redelivered = _tag_and_flag(method, at)
    start = at + 10
    at = start + method[start - 1]
    return (
        consumer_tag,
        tag,
        bool(redelivered & 1),
        _name(method[start:at]),
        _name(method[at + 1 : at + 1 + method[at]]),
    )


def read_body_size(header: bytes) -> int:
    """Give the number of bytes that follow a content header."""
    size: int = _longlong(header, 4)[0]
    return size


def read_properties(header: bytes) -> dict[str, Any]:
    """Give the properties in a content header; the headers are `application_headers`."""
    (flags,) = _flags(header, 12)
    at = 14
    properties: dict[str, Any] = {}
    for name, flag, kind in PROPERTIES:
        if not flags & flag:
            continue
        if kind == "s" or kind == "n":
            end = at + 1 + header[at]
            properties[name] = header[at + 1 : end].decode("utf-8", "surrogatepass")
            at = end
        elif kind == "F":
            properties[name], at = _read_table(header, at)
        elif kind == "o":
            properties[name] = header[at]
            at += 1
        else:
            (properties[name],) = _longlong(header, at)
            at += 8
    return properties


@lru_cache(1024)
def _name(data: bytes) -> str:
    """A name; the same few come again and again."""
    return data.decode("utf-8", "surrogatepass")


def _read_table(data: bytes, at: int) -> tuple[dict[Any, Any], int]:
    """Read the table that begins at `at`; gives it and where it ends."""
    at += 4
    end = at + _long(data, at - 4)[0]
    table: dict[Any, Any] = {}
    while at < end:
        start = at + 1
        at = start + data[at]
        try:
            key: Any = _name(data[start:at])
        except UnicodeDecodeError:
            key = data[start:at]
        kind = data[at]
        if kind == 83:  # S: text, the most frequent
            start = at + 5
            at = start + _long(data, at + 1)[0]
            try:
                table[key] = data[start:at].decode("utf-8", "surrogatepass")
            except UnicodeDecodeError:
                table[key] = data[start:at]
        elif kind == 86:  # V
            table[key] = None
            at += 1
        else:
            table[key], at = _read_value(data, at, kind)
    return table, at


def _read_value(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind == 73:  # I
        return _int(data, at + 1)[0], at + 5
    if kind == 116:  # t
        return bool(data[at + 1]), at + 2
    if kind == 70:  # F
        return _read_table(data, at + 1)
    if kind == 65:  # A
        at += 5
        end = at + _long(data, at - 4)[0]
        values = []
        while at < end:
            value, at = _read_value(data, at, data[at])
            values.append(value)
        return values, at
    if kind in (76, 108):  # L, l
        return _big_int(data, at + 1)[0], at + 9
    if kind == 100:  # d
        return _float(data, at + 1)[0], at + 9
    item: tuple[Any, int] = _read_item(data, at)
    return item
