"""The short way to write an ordinary success gives what the long way gives."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pytest
from kombu.serialization import registry

from taskq import Celery
from taskq.backends.documents import Documents
from taskq.backends.memory import MemoryBackend
from taskq.context import Context

NOW = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
VALUES: list[Any] = [
    None, True, 7, 2**80, 1.5, float("nan"), "", "a\"b\\c\né\N{SNOWMAN}\N{GRINNING FACE}\ud800",
    [1, {"x": None}], (), {1: 2}, NOW, Decimal("1.10"), uuid.UUID(int=7), b"\xff",
]  # fmt: skip


class Long(MemoryBackend):
    """Writes every document the long way: an overridden `encode` must be called."""

    def encode(self, data: Any) -> Any:
        return super().encode(data)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(Documents, "_now", lambda self: NOW)
    with Celery("documents", broker="memory://", set_as_current=False) as app:
        yield app


def write(backend: Any, result: Any = 7, task_id: Any = "t", **fields: Any) -> Any:
    state = fields.pop("state", "SUCCESS")
    return backend._write_document(task_id, result, state, None, Context(fields))


def is_short(backend: Any, **fields: Any) -> bool:
    return backend._write_success("t", 7, Context(fields)) is not None


@pytest.mark.parametrize("value", VALUES, ids=lambda value: ascii(value)[:20])
def test_the_same_text(app: Any, value: Any) -> None:
    assert is_short(MemoryBackend(app))
    assert write(MemoryBackend(app), value) == write(Long(app), value)


@pytest.mark.parametrize("task_id", ["t", 'a"b\\', "é", uuid.UUID(int=1), 5])
def test_any_id(app: Any, task_id: Any) -> None:
    assert write(MemoryBackend(app), 7, task_id) == write(Long(app), 7, task_id)


@pytest.mark.parametrize(
    "fields",
    [
        {"group": "g"},
        {"parent_id": "p"},
        {"group": "g", "parent_id": "p"},
        {"_children": [Celery("other").AsyncResult("child")]},
        {"state": "PROGRESS"},
        {"state": "FAILURE"},
    ],
    ids=str,
)
def test_what_is_special_goes_the_long_way(app: Any, fields: Any) -> None:
    if "state" not in fields:
        assert not is_short(MemoryBackend(app), **fields)
    assert write(MemoryBackend(app), **fields) == write(Long(app), **fields)


def test_settings_are_kept_to(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    app.conf.result_extended = True
    assert json.loads(write(MemoryBackend(app), args=[1]))["args"] == [1]
    app.conf.result_extended = False
    assert not is_short(MemoryBackend(app, serializer="pickle"))
    monkeypatch.setattr(MemoryBackend, "supports_result_compression", True)
    app.conf.result_compression = "gzip"
    assert not is_short(MemoryBackend(app))


def test_what_cannot_be_written_says_why(app: Any) -> None:
    circle: list[Any] = []
    circle.append(circle)
    for value in (object(), circle):
        with pytest.raises(Exception) as long:
            write(Long(app), value)
        with pytest.raises(type(long.value)) as short:
            write(MemoryBackend(app), value)
        assert str(short.value)[:20] == str(long.value)[:20]


def test_a_json_of_the_program_s_own_is_used(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = registry._encoders["json"]._replace(encoder=lambda data: "mine")
    monkeypatch.setitem(registry._encoders, "json", own)
    assert write(MemoryBackend(app)) == "mine"
