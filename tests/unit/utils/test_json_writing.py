"""The writer that is made once writes and refuses what the encoder does."""

from __future__ import annotations

import json
import uuid
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pytest
from kombu.utils.json import JSONEncoder

from taskq.utils.json_writing import build_writer

VALUES: list[Any] = [
    None, True, 7, 1.5, float("inf"), "", "a\"b\\c\né\N{SNOWMAN}\N{GRINNING FACE}", [], {}, (),
    [1, [2, [3]]], {"a": {"b": [None]}, 1: 2, None: 3, 1.5: "x"}, "x" * 100_000,
    datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc), Decimal("1.10"), uuid.UUID(int=7),
    [{"when": datetime(2026, 1, 2)}],
]  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"separators": (",", ":")}, {"sort_keys": True}])
@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_same_text(value: Any, options: dict[str, Any]) -> None:
    if options.get("sort_keys") and isinstance(value, dict) and None in value:
        pytest.skip("keys that cannot be sorted")
    encoder = JSONEncoder(**options)
    assert build_writer(encoder)(value) == encoder.encode(value)


@pytest.mark.parametrize("options", [{"ensure_ascii": False}, {"indent": 2}])
def test_styles_it_leaves_to_the_encoder(options: dict[str, Any]) -> None:
    encoder = json.JSONEncoder(**options)
    assert build_writer(encoder)({"é": [1]}) == encoder.encode({"é": [1]})


def test_same_errors() -> None:
    write = build_writer(JSONEncoder())
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="Circular reference"):
        write(circle)
    with pytest.raises(TypeError, match="not JSON serializable"):
        write({"a": object()})
    with pytest.raises(ValueError, match="Out of range"):
        build_writer(json.JSONEncoder(allow_nan=False))(float("nan"))
    assert write(["after an error"]) == '["after an error"]'
