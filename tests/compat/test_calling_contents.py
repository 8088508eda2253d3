"""The Calling guide: serialisers and compression, and the other options. Numbers 150 to 165."""

import datetime
import decimal
import logging
import uuid

import kombu
import pytest
from celery import signals
from celery.exceptions import QueueNotFound, TimeoutError
from kombu import Exchange, Queue
from kombu.exceptions import EncodeError, SerializerNotInstalled

JSON, PICKLE, YAML = "application/json", "application/x-python-serialize", "application/x-yaml"


def take(app, queue="celery"):
    """The next message of a queue, as it was sent; None when there is none."""
    with app.connection_for_read() as connection:
        return connection.default_channel.basic_get(queue, no_ack=True)


@pytest.fixture
def echo(app):
    @app.task(name="echo")
    def echo(value=None):
        return value

    return echo


def test_150_call_then_task_then_setting(app):
    app.send_task("far")
    app.conf.task_serializer = "pickle"

    @app.task
    def plain(): ...

    @app.task(serializer="yaml")
    def own(): ...

    plain.delay()
    own.delay()
    own.apply_async(serializer="json")
    app.send_task("far", serializer="yaml")
    assert [take(app).content_type for _ in range(5)] == [JSON, PICKLE, YAML, JSON, YAML]


def test_151_call_then_task_then_setting(app):
    app.conf.task_compression = "zlib"

    @app.task
    def plain(): ...

    @app.task(compression="bzip2")
    def own(): ...

    plain.delay()
    own.delay()
    own.apply_async(compression="lzma")
    names = [take(app).headers.get("compression") for _ in range(3)]
    assert names == ["application/x-gzip", "application/x-bz2", "application/x-lzma"]


def test_152_content_that_is_not_accepted_is_refused(app, worker, echo, caplog, eventually):
    rejected = []

    @signals.task_rejected.connect
    def keep(message, **kwargs):
        rejected.append(message.content_type)

    worker.start()
    echo.apply_async((1,), serializer="pickle")
    eventually(lambda: rejected, "a rejected message")
    assert worker.finish(echo.delay(2)).get() == 2
    assert rejected == [PICKLE]
    told = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert "Refusing to deserialize untrusted content of type pickle" in told[0].getMessage()
    qos = worker.controller.consumer.task_consumer.channel.qos
    eventually(lambda: not set(qos._delivered) - qos._dirty, "nothing is held back")


def test_152_accept_content_by_name_or_type(app, worker, echo):
    app.conf.accept_content = ["json", "application/x-python-serialize", "yaml"]
    moment = datetime.datetime(2026, 1, 2)
    for serializer, value in (("pickle", (1, 2)), ("yaml", moment), ("json", [1])):
        result = worker.finish(echo.apply_async((str(value),), serializer=serializer))
        assert result.get() == str(value)


def test_153_what_cannot_be_encoded_is_not_sent(app, echo):
    for bad in (object(), {1, object()}, {"a": [object()]}):
        with pytest.raises(EncodeError):
            echo.delay(bad)
    with pytest.raises(EncodeError):
        echo.apply_async((lambda: 1,), serializer="pickle")
    with pytest.raises(SerializerNotInstalled, match="nonsense"):
        echo.apply_async(serializer="nonsense")
    echo.delay(1)
    assert take(app)
    assert take(app) is None


def test_154_what_json_makes_of_values(app, worker, echo):
    sent = {7: (1, 2), "nested": [(3,)], None: 1.5, True: None}
    got = worker.finish(echo.delay(sent)).get()
    assert got == {"7": [1, 2], "nested": [[3]], "null": 1.5, "true": None}


@pytest.mark.parametrize(
    "value",
    [
        datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.timezone.utc),
        datetime.date(2026, 1, 2),
        datetime.time(3, 4, 5),
        decimal.Decimal("1.10"),
        uuid.UUID(int=7),
        b"\xff\x00 bytes",
        b"text",
        "täxt \N{SNOWMAN}",
        2**80,
    ],
)
def test_154_what_json_carries_beyond_json(app, worker, echo, value):
    got = worker.finish(echo.delay(value)).get()
    assert (type(got), got) == (type(value), value)


@pytest.mark.parametrize(
    "name", ["gzip", "zlib", "bzip2", "bzip", "lzma", "xz", "brotli", "zstd", "zstandard"]
)
def test_155_compressions(app, worker, echo, name):
    if name not in kombu.compression._aliases:
        with pytest.raises(KeyError):
            echo.apply_async(compression=name)
        return
    result = worker.finish(echo.apply_async(("x" * 1000,), compression=name))
    assert result.get() == "x" * 1000


def test_155_a_compression_of_ones_own(app, worker, echo):
    kombu.compression.register(
        lambda body: body[::-1], lambda body: body[::-1], "application/x-backwards", ["backwards"]
    )
    echo.apply_async(("abc",), compression="backwards", queue="other")
    message = take(app, "other")
    assert message.headers["compression"] == "application/x-backwards"
    assert worker.finish(echo.apply_async(("abc",), compression="backwards")).get() == "abc"


def test_155_an_unknown_compression(app, echo):
    with pytest.raises(KeyError):
        echo.apply_async(compression="nonsense")
    assert take(app) is None


# -- routing options


def test_158_queue_routes_by_name(app, echo, sent):
    echo.apply_async((1,), queue="priority.high")
    assert (sent[0].exchange, sent[0].routing_key) == ("", "priority.high")
    assert take(app, "priority.high")


def test_158_or_is_refused(app, echo):
    app.conf.update(task_create_missing_queues=False, task_queues=[Queue("known")])
    with pytest.raises(QueueNotFound, match="unknown"):
        echo.apply_async(queue="unknown")
    echo.apply_async(queue="known")
    assert take(app, "known")


def test_159_exchange_and_routing_key_are_used_as_given(app, echo, sent):
    with app.connection_for_write() as connection:
        topic = Exchange("news", "topic")
        Queue("sport", topic, "news.sport.#")(connection.default_channel).declare()
        echo.apply_async(exchange="news", routing_key="news.sport.ski")
        echo.apply_async(exchange=topic, routing_key="news.sport.swim")
        echo.apply_async(exchange="news", routing_key="news.music")
    assert [str(getattr(each.exchange, "name", each.exchange)) for each in sent] == ["news"] * 3
    assert take(app, "sport") and take(app, "sport")
    assert take(app, "sport") is None
    echo.apply_async(queue="mail", exchange="", routing_key=None)
    assert (sent[-1].exchange, sent[-1].routing_key) == ("", "mail")


def test_160_priority_is_a_property_of_the_message(app, echo, sent):
    for priority in (0, 9, 255, None):
        echo.apply_async(priority=priority)
    assert [each.properties.get("priority") for each in sent] == [0, 9, 255, None]


# -- results


def test_161_ignore_result_at_three_levels(app, worker, eventually):
    ran = []

    @app.task(name="kept")
    def kept(value):
        ran.append(value)
        return value

    @app.task(name="ignored", ignore_result=True)
    def ignored(value):
        ran.append(value)
        return value

    app.finalize()
    stored = {
        "call": kept.apply_async((1,)),
        "task, undone": ignored.apply_async((2,), ignore_result=False),
        "by name": app.send_task("kept", (3,)),
        "by name, undone": app.send_task("ignored", (4,), ignore_result=False),
    }
    gone = {
        "call": kept.apply_async((5,), ignore_result=True),
        "task": ignored.delay(6),
        "by name": app.send_task("ignored", (7,)),
        "by name, call": app.send_task("kept", (8,), ignore_result=True),
    }
    for result in stored.values():
        worker.finish(result)
    eventually(lambda: len(ran) == 8, "all have run")
    assert sorted(ran) == list(range(1, 9))
    assert [result.get() for result in stored.values()] == [1, 2, 3, 4]
    assert {app.AsyncResult(result.id).state for result in gone.values()} == {"PENDING"}


def test_161_errors_may_be_stored_even_so(app, worker, eventually):
    ran = []

    @app.task(ignore_result=True, store_errors_even_if_ignored=True)
    def fails():
        ran.append(1)
        raise KeyError("x")

    @app.task
    def works():
        return 1

    result = fails.delay()
    worker.start()
    eventually(lambda: app.AsyncResult(result.id).state == "FAILURE", "the failure is stored")
    app.conf.task_ignore_result = True

    @app.task(name="late")
    def late(): ...

    assert late.ignore_result is True


def test_162_a_result_that_is_never_stored(app, echo):
    with pytest.raises(TimeoutError):
        app.AsyncResult("nobody").get(timeout=0.05)
    with pytest.raises(TimeoutError):
        app.AsyncResult(echo.apply_async(ignore_result=True).id).get(timeout=0.05)


def test_163_headers_are_sent_beside_the_others(app, worker, sent):
    @app.task(bind=True)
    def seen(self):
        return [self.request.headers, self.request.get("tenant")]

    result = worker.finish(seen.apply_async(headers={"tenant": "acme", "n": 1}))
    assert sent[0].headers["tenant"] == "acme"
    assert sent[0].headers["task"] == seen.name
    assert result.get()[0]["tenant"] == "acme"


def test_164_shadow_changes_the_shown_name_alone(app, worker, sent, caplog, eventually):
    @app.task(name="real.name", bind=True)
    def real(self):
        return [self.name, self.request.shadow]

    with caplog.at_level(logging.INFO):
        result = worker.finish(real.apply_async(shadow="shown.name"))
        eventually(lambda: f"shown.name[{result.id}] succeeded" in caplog.text, "the log")
    assert result.get() == ["real.name", "shown.name"]
    assert sent[0].headers["task"] == "real.name"
    assert sent[0].headers["shadow"] == "shown.name"
    assert f"Task shown.name[{result.id}] received" in caplog.text
    assert f"real.name[{result.id}]" not in caplog.text


def test_165_result_extended(app, worker):
    app.conf.result_extended = True

    @app.task(name="add")
    def add(x, y=0):
        return x + y

    result = worker.finish(add.apply_async((1,), {"y": 2}))
    kept = app.backend.get_task_meta(result.id)
    shown = {name: kept[name] for name in ("name", "args", "kwargs", "retries", "queue")}
    assert shown == {
        "name": "add", "args": [1], "kwargs": {"y": 2}, "retries": 0, "queue": "celery",
    }  # fmt: skip
    assert (result.name, result.args, result.kwargs) == ("add", [1], {"y": 2})
    assert (result.worker, result.retries, result.queue) == (kept["worker"], 0, "celery")
    assert kept["worker"]


def test_165_result_extended_keeps_stamps(app, worker):
    app.conf.result_extended = True

    @app.task(name="add")
    def add(x, y):
        return x + y

    result = worker.finish(
        add.apply_async((1, 2), stamped_headers=["project"], project=["acme"])
    )
    kept = app.backend.get_task_meta(result.id)
    assert kept["stamped_headers"] == ["project"]
    assert kept["project"] == ["acme"]
