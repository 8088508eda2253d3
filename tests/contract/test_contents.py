"""Every serializer with every compression over every broker: there, and back as a result.

A sample of the combinations is always run, all of them in the long run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kombu
import pytest
from contract.workers import serving
from kombu import compression, serialization
from patience import PATIENCE_S, wait_until

from taskq import Celery
from taskq.signals import task_received

VALUE = {"text": "täxt \N{SNOWMAN} " * 50, "list": [1, 2.5, None, True], "nested": {"a": ["b"]}}

SERIALIZERS = ("json", "pickle", "yaml", "msgpack", "backwards")
COMPRESSIONS = (None, "zlib", "gzip", "bzip2", "lzma", "brotli", "zstd", "reversed")
BROKERS = ("memory", "sqlite", "redis", "rabbitmq")

SAMPLE = {("json", None), ("pickle", "zstd"), ("backwards", "reversed")}
ALL = [
    pytest.param(
        *each, marks=() if each in SAMPLE else pytest.mark.long, id="-".join(map(str, each))
    )
    for each in ((name, method) for name in SERIALIZERS for method in COMPRESSIONS)
]


def reverse(body: Any) -> bytes:
    return bytes(reversed(body.encode() if isinstance(body, str) else body))


@pytest.fixture(scope="module", autouse=True)
def own_kinds() -> Iterator[None]:
    """A serializer and a compression that only these tests know."""
    json = serialization.registry._encoders["json"].encoder
    loads = serialization.registry._decoders["application/json"]
    serialization.register(
        "backwards", lambda value: reverse(json(value)), lambda body: loads(reverse(body)),
        content_type="application/x-backwards", content_encoding="binary",
    )  # fmt: skip
    compression.register(reverse, reverse, "application/x-reversed", aliases=["reversed"])
    yield
    serialization.unregister("backwards")


@pytest.fixture
def app_on(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Celery]]:
    """Make an application on a broker; its results go where its broker is, if they can."""
    made = []

    def make(broker: str, **settings: Any) -> Celery:
        queue = f"contents-{tmp_path.name}"
        if broker == "memory":
            url, backend = "memory://", "cache+memory://"
        elif broker == "sqlite":
            url = backend = f"sqlite:///{tmp_path}/q.db"
        elif broker == "redis":
            url = backend = request.getfixturevalue("redis_url")
        else:
            url, backend = request.getfixturevalue("rabbitmq_url"), "cache+memory://"
        app = Celery(queue, broker=url, backend=backend, set_as_current=False)
        app.conf.update(
            accept_content=list(SERIALIZERS), task_default_queue=queue,
            broker_transport_options={"polling_interval": 0.01} if broker == "memory" else {},
            **settings,
        )  # fmt: skip
        made.append(app)
        return app

    yield make
    for app in made:
        app.close()


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize(("serializer", "method"), ALL)
def test_there_and_back(
    app_on: Callable[..., Celery], broker: str, serializer: str, method: str | None
) -> None:
    app = app_on(
        broker, task_serializer=serializer, task_compression=method,
        result_serializer=serializer,
        result_compression=method if broker in ("sqlite", "redis") else None,
    )  # fmt: skip
    travelled = []

    def keep(request: Any, **kwargs: Any) -> None:
        travelled.append((request.content_type, request.request_dict.get("compression")))

    @app.task(name="contents.echo")
    def echo(value: Any) -> Any:
        return value

    with serving(app) as worker:
        task_received.connect(keep, sender=worker.consumer)
        assert echo.delay(VALUE).get(timeout=PATIENCE_S) == VALUE
    content_type = serialization.registry.name_to_type[serializer]
    assert travelled == [(content_type, method and compression._aliases[method])]


@pytest.mark.parametrize("broker", BROKERS)
def test_broken_content_is_dropped_and_the_worker_lives(
    app_on: Callable[..., Celery], broker: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = app_on(broker)

    @app.task(name="contents.echo")
    def echo(value: Any) -> Any:
        return value

    queue = app.conf.task_default_queue
    broken = [
        *(("application/json", type_) for type_ in sorted(compression._decoders) if type_),
        *((registered, None) for registered in sorted(serialization.registry._decoders)),
        ("application/x-unknown", None),
        ("application/json", "application/x-unknown"),
    ]
    with serving(app), app.connection_for_write() as connection:
        producer = kombu.Producer(connection)
        echo.delay(0).get(timeout=PATIENCE_S)
        for content_type, packed in broken:
            producer.publish(
                b"\xc1{not what it says", routing_key=queue, content_type=content_type,
                content_encoding="binary",
                headers={"task": "contents.echo", "id": "broken", "compression": packed},
            )  # fmt: skip
        assert echo.delay(1).get(timeout=PATIENCE_S) == 1
        wait_until(lambda: caplog.text.count("discarded.") >= len(broken), "all are logged")
        assert app.AsyncResult("broken").state == "PENDING"
        assert connection.default_channel.basic_get(queue, no_ack=True) is None
