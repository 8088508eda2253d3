"""This file reads the frames of AMQP's basic.deliver: who it is for, properties, headers.

Between RabbitMQ and on_message (worker/consumer/delivery.py). It gives what py-amqp would, made
without its call per value: headers are most of what a delivery costs. What is rare is left to it.

How it works. The headers of one message after another have the same names, and nearly all the same
values. A `_Shape` is made of two such messages: what lies between the values that differ is bytes
that are only compared, and a table is the copy of one that is known with those values put in.
What fits no shape is read value by value.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Any

from amqp.serialization import _read_item

from taskq.transports.amqp_frames import PROPERTIES

__all__ = ("Tables", "read_address", "read_body_size", "read_properties")

#: How a text is marked: S.
TEXT = 83

#: Shapes of headers that are known at a time: senders differ in what they send along.
MOST_SHAPES = 4

_long = Struct(">I").unpack_from
_longlong = Struct(">Q").unpack_from
_int = Struct(">i").unpack_from
_big_int = Struct(">q").unpack_from
_float = Struct(">d").unpack_from
_tag_and_flag = Struct(">QB").unpack_from


def read_address(method: bytes) -> tuple[str, int, bool, str, str]:
    """Give (consumer tag, delivery tag, redelivered, exchange, routing key) of a basic.deliver."""
    at = 5 + method[4]
    tag, redelivered = _tag_and_flag(method, at)
    exchange, routing_key = _names(method[at + 9 :])
    return _name(method[5:at]), tag, bool(redelivered & 1), exchange, routing_key


def read_body_size(header: bytes) -> int:
    """Give the number of bytes that follow a content header."""
    size: int = _longlong(header, 4)[0]
    return size


def read_properties(header: bytes, tables: Tables | None = None) -> dict[str, Any]:
    """Give the properties in a content header; the headers are `application_headers`.

    `tables` is to be the same for messages that resemble each other.
    """
    properties: dict[str, Any] = {}
    at = 14
    for name, kind in _present(header[12:14]):
        if kind == "n":
            end = at + 1 + header[at]
            properties[name] = _name(header[at + 1 : end])
            at = end
        elif kind == "s":
            end = at + 1 + header[at]
            properties[name] = header[at + 1 : end].decode("utf-8", "surrogatepass")
            at = end
        elif kind == "F":
            at += 4
            end = at + _long(header, at - 4)[0]
            read = _read_table if tables is None else tables.read
            properties[name] = read(header, at, end)
            at = end
        elif kind == "o":
            properties[name] = header[at]
            at += 1
        else:
            (properties[name],) = _longlong(header, at)
            at += 8
    return properties


@lru_cache(1024)
def _present(flags: bytes) -> list[tuple[str, str]]:
    """(name, how it is written) of the properties these flags announce."""
    bits = int.from_bytes(flags, "big")
    return [(name, kind) for name, flag, kind in PROPERTIES if bits & flag]


@lru_cache(1024)
def _names(data: bytes) -> tuple[str, str]:
    """Two names that follow each other."""
    at = 1 + data[0]
    return _name(data[1:at]), _name(data[at + 1 : at + 1 + data[at]])


@lru_cache(1024)
def _name(data: bytes) -> str:
    """A name; the same few come again and again."""
    return data.decode("utf-8", "surrogatepass")


class Tables:
    """Reads the headers of one message after another."""

    def __init__(self) -> None:
        self._shapes: list[_Shape] = []
        self._strangers = 0
        self._last = b""

    def read(self, data: bytes, at: int, end: int) -> dict[Any, Any]:
        """Read the table between the two places."""
        for shape in self._shapes:
            table = shape.read(data, at, end)
            if table is not None:
                return table
        table = _read_table(data, at, end)
        self._strangers += 1
        last, self._last = self._last, data[at:end]
        # Ever more rarely, so that messages without anything in common cost nothing.
        if not self._strangers & (self._strangers - 1):
            self._learn(last)
        return table

    def _learn(self, last: bytes) -> None:
        entries = _cut(self._last)
        names = [name for name, _ in entries]
        if len(set(names)) < len(names):
            return
        for shape in self._shapes:
            if shape.names == names:
                shape.widen(entries)
                return
        before = _cut(last)
        if [name for name, _ in before] == names:
            shape = _Shape(names, before)
            shape.widen(entries)
            self._shapes = [shape, *self._shapes[: MOST_SHAPES - 1]]


class _Shape:
    """What the headers of some messages have in common."""

    def __init__(self, names: list[bytes], entries: list[tuple[bytes, bytes]]) -> None:
        #: Each with the byte that is its length.
        self.names = names
        self._entries = entries
        self._differing: set[int] = set()

    def widen(self, entries: list[tuple[bytes, bytes]]) -> None:
        """Make it fit these entries, which have its names, as well."""
        pairs = enumerate(zip(self._entries, entries, strict=True))
        self._differing |= {number for number, (old, new) in pairs if old != new}
        #: (the bytes before a value that differs, their length, its name)
        self._steps: list[tuple[bytes, int, Any]] = []
        self._table: dict[Any, Any] = {}
        #: Values that must not be shared.
        self._own: list[tuple[Any, Any]] = []
        same = b""
        for number, (name, written) in enumerate(entries):
            value, _ = _read_value(written, 0, written[0])
            key = _read_name(name[1:])
            self._table[key] = value
            is_container = isinstance(value, (dict, list))
            if number in self._differing or (is_container and _is_deep(value)):
                self._steps.append((same + name, len(same + name), key))
                same = b""
                continue
            same += name + written
            if is_container:
                self._own.append((key, value))
        self._end = same

    def read(self, data: bytes, at: int, end: int) -> dict[Any, Any] | None:
        """Read the table between the two places; None when it has another shape."""
        if not data.endswith(self._end, at, end):
            return None
        table = self._table.copy()
        for same, length, key in self._steps:
            if not data.startswith(same, at, end):
                return None
            at += length
            if data[at] == TEXT:
                start = at + 5
                at = start + _long(data, at + 1)[0]
                try:
                    table[key] = data[start:at].decode("utf-8", "surrogatepass")
                except UnicodeDecodeError:
                    return None
            else:
                table[key], at = _read_value(data, at, data[at])
        if at + len(self._end) != end:
            return None
        for key, value in self._own:
            table[key] = value.copy()
        return table


def _is_deep(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value
    return any(isinstance(each, (dict, list)) for each in inner)


def _cut(data: bytes) -> list[tuple[bytes, bytes]]:
    """The entries of a table: a name with the byte that is its length, and a value as written."""
    entries = []
    at = 0
    while at < len(data):
        middle = at + 1 + data[at]
        _, end = _read_value(data, middle, data[middle])
        entries.append((data[at:middle], data[middle:end]))
        at = end
    return entries


def _read_name(data: bytes) -> Any:
    try:
        return _name(data)
    except UnicodeDecodeError:
        return data


def _read_table(data: bytes, at: int, end: int) -> dict[Any, Any]:
    """Read the table between the two places."""
    table: dict[Any, Any] = {}
    while at < end:
        start = at + 1
        at = start + data[at]
        key = _read_name(data[start:at])
        table[key], at = _read_value(data, at, data[at])
    return table


def _read_value(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind == TEXT:
        start = at + 5
        at = start + _long(data, at + 1)[0]
        try:
            return data[start:at].decode("utf-8", "surrogatepass"), at
        except UnicodeDecodeError:
            return data[start:at], at
    if kind == 86:  # V
        return None, at + 1
    if kind == 73:  # I
        return _int(data, at + 1)[0], at + 5
    if kind == 116:  # t
        return bool(data[at + 1]), at + 2
    if kind == 70:  # F
        at += 5
        end = at + _long(data, at - 4)[0]
        return _read_table(data, at, end), end
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
