"""Messages as rows, and topic patterns."""

from __future__ import annotations

from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pytest

from taskq.transports.sqlite_message import Message, as_outgoing, read_due
from taskq.transports.sqlite_store import Reserved
from taskq.transports.sqlite_topology import build_pattern

NOW = datetime(2030, 1, 1, 12, tzinfo=timezone.utc).timestamp()


@pytest.mark.parametrize(
    ("eta", "seconds"),
    [
        ("2030-01-01T12:00:10+00:00", 10),
        ("2030-01-01T12:00:10Z", 10),
        ("2030-01-01T14:00:10.5+02:00", 10.5),
        ("2030-01-01T12:00:10", 10),  # without an offset it is UTC
        (datetime(2030, 1, 1, 12, 0, 10), 10),
        ("2030-01-01T11:59:59+00:00", None),
        ("tomorrow", None),
        (5, None),
    ],
)
def test_when_an_eta_is_due(eta: Any, seconds: float | None) -> None:
    due = read_due(eta, NOW)
    assert due == (None if seconds is None else NOW + seconds)


@pytest.mark.parametrize(
    ("priority", "rank"), [(None, 9), (0, 9), (9, 0), (3, 6), (99, 0), (-1, 9)]
)
def test_priorities_are_ranks(priority: int | None, rank: int) -> None:
    assert as_outgoing(make(priority=priority), "", "q", NOW).rank == rank


def test_expiration_is_in_milliseconds() -> None:
    assert as_outgoing(make(expiration="1500"), "", "q", NOW).stale == NOW + 1.5
    assert as_outgoing(make(), "", "q", NOW).stale is None


def test_values_json_does_not_know_come_back() -> None:
    headers = {"when": datetime(2030, 1, 1), "price": Decimal("1.10")}
    outgoing = as_outgoing(make(headers), "x", "k", NOW)
    message = Message(Reserved(1, 1, 1, 2, outgoing.head, outgoing.body), None, 7)
    assert message.headers == {**headers, "redelivered": True}
    info = {"exchange": "x", "routing_key": "k", "redelivered": True}
    assert message.delivery_info == info
    assert message.delivery_tag == 7
    assert message.serializable()["body"] == "{}"


def make(headers: dict[str, Any] | None = None, **properties: Any) -> dict[str, Any]:
    return {
        "body": "{}",
        "headers": headers or {},
        "properties": properties,
        "content-type": "application/json",
        "content-encoding": "utf-8",
    }


@pytest.mark.parametrize(
    ("binding", "matching", "other"),
    [
        ("a.b", ["a.b"], ["a", "a.b.c", "axb", ""]),
        ("a.*", ["a.b", "a.c"], ["a", "a.b.c", "b.a"]),
        ("a.#", ["a", "a.b", "a.b.c"], ["b", "ab"]),
        ("#", ["", "a", "a.b"], []),
        ("#.z", ["z", "a.z", "a.b.z"], ["a", "z.a"]),
        ("a.#.z", ["a.z", "a.b.c.z"], ["a", "z"]),
        ("*", ["a"], ["a.b", ""]),
        ("a+.(b)", ["a+.(b)"], ["aa.b"]),
    ],
)
def test_topic_patterns(binding: str, matching: list[str], other: list[str]) -> None:
    pattern = build_pattern(binding)
    assert [key for key in matching + other if pattern.fullmatch("." + key)] == matching
