"""utils/producer.py: what it prepares is what kombu's own producer prepares."""

from __future__ import annotations

from typing import Any

import kombu
import pytest
from kombu import Exchange
from kombu.exceptions import EncodeError, SerializerNotInstalled

from taskq.utils.producer import Producer

BODY = ([1], {"a": "ä"}, {})


@pytest.fixture
def pair() -> Any:
    with kombu.Connection("memory://") as connection:
        channel = connection.default_channel
        yield Producer(channel), kombu.Producer(channel)


@pytest.mark.parametrize(
    "given",
    [
        {"serializer": "json"},
        {"serializer": "pickle"},
        {"serializer": "json", "compression": "gzip", "headers": {}},
        {"content_type": "text/plain"},
        {"content_type": "text/plain", "content_encoding": "latin-1"},
        {},
    ],
)
@pytest.mark.parametrize("body", [BODY, "täxt", b"bytes"])
def test_a_body_is_prepared_as_kombu_does(pair: Any, given: dict[str, Any], body: Any) -> None:
    if "content_type" in given and body is BODY:
        body = repr(body)
    ours, kombus = (producer._prepare(body, **given) for producer in pair)
    assert ours == kombus


@pytest.mark.parametrize("exchange", ["", "named", Exchange(""), Exchange("e", delivery_mode=1)])
@pytest.mark.parametrize("mode", [None, 1, 2, "transient", "persistent", True])
def test_a_destination_is_prepared_as_kombu_does(pair: Any, exchange: Any, mode: Any) -> None:
    ours, kombus = (producer._delivery_details(exchange, mode) for producer in pair)
    assert ours == kombus


@pytest.mark.parametrize(
    ("body", "serializer", "error"),
    [(object(), "json", EncodeError), (BODY, "jason", SerializerNotInstalled)],
)
def test_errors_are_kombus(pair: Any, body: Any, serializer: str, error: type[Exception]) -> None:
    for producer in pair:
        with pytest.raises(error):
            producer.publish(body, serializer=serializer, routing_key="nowhere")
