"""What arrives at the broker, compared with recordings of Celery 5.7.0; and what must not."""

from __future__ import annotations

import importlib.util
import json
import pickle
from pathlib import Path

import kombu
import pytest
from kombu import Exchange, Queue, compression
from kombu.common import Broadcast
from kombu.exceptions import EncodeError, OperationalError, SerializerNotInstalled
from kombu.serialization import loads, registry
from kombu.transport import memory

from taskq.app import Celery
from taskq.app.amqp import AMQP, task_message, utf8dict
from taskq.app.encoding import not_installed
from taskq.canvas import group
from taskq.exceptions import (
    ImproperlyConfigured,
    InvalidQueueName,
    MaxRetriesExceededError,
    UnknownCompression,
)
from taskq.signals import after_task_publish, before_task_publish, task_sent

RECORDED = Path(__file__).parent.parent / "recorded"
_spec = importlib.util.spec_from_file_location("recorded_cases", RECORDED / "record.py")
record = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(record)

V2 = json.loads((RECORDED / "protocol2.json").read_text())
V1 = json.loads((RECORDED / "protocol1.json").read_text())
CALLS = json.loads((RECORDED / "calls.json").read_text())

UNREACHABLE = "amqp://guest:secret@127.0.0.1:1//"
AT_ONCE = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}


@pytest.fixture(autouse=True)
def empty_broker():
    """kombu's memory transport keeps its queues for the whole process."""
    for queue in memory.Channel.queues.values():
        queue.queue.clear()


@pytest.fixture
def app():
    app = Celery("amqp", broker="memory://", set_as_current=False)
    yield app
    app.close()


def make_app(**settings):
    app = Celery("amqp", broker="memory://", set_as_current=False)
    app.conf.update(settings)
    return app


@pytest.fixture
def published(monkeypatch):
    """The keyword arguments of every kombu.Producer.publish from here on, which sends nothing."""
    calls = []

    def publish(self, body, **kwargs):
        # `declare` is looked at as kombu looks at it: only when it has something.
        kwargs["declare"] = list(kwargs["declare"]) if kwargs["declare"] else []
        calls.append({"body": body, **kwargs})

    monkeypatch.setattr(kombu.Producer, "publish", publish)
    return calls


def send(app, producer=None, args=(), **options):
    message = app.amqp.create_task_message("i", "t", args, {})
    with app.producer_or_acquire(producer) as acquired:
        return app.amqp.send_task_message(acquired, "t", message, **options)


def size(app, queue="celery"):
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        return channel._size(queue) if queue in channel.queues else 0


class TestRecorded:
    @pytest.mark.parametrize("name", sorted(V2))
    def test_protocol_2(self, name):
        self.compare(record.publish(record.make_app(Celery), name), V2[name], name)

    @pytest.mark.parametrize("name", sorted(V1))
    def test_protocol_1(self, name):
        self.compare(record.publish(record.make_app(Celery, task_protocol=1), name), V1[name], name)

    def compare(self, raw, expected, name):
        raw = json.loads(json.dumps(raw))
        headers, expected_headers = raw.pop("headers"), dict(expected["headers"])
        if name in record.READABLE_REPR:
            for header in ("argsrepr", "kwargsrepr"):
                del headers[header], expected_headers[header]
        assert list(headers.items()) == list(expected_headers.items())
        assert raw == {key: value for key, value in expected.items() if key != "headers"}

    @pytest.mark.parametrize("name", sorted(CALLS))
    def test_calls_of_tasks_and_signatures(self, name):
        assert record.call(record.make_app(Celery), group, name) == CALLS[name]


class TestDestination:
    """`exchange`, `routing_key` and `declare` of kombu.Producer.publish, as Celery gives them."""

    TOPIC = Queue("q", Exchange("e", "topic", delivery_mode=1), "k.#")

    @pytest.mark.parametrize(
        ("options", "exchange", "routing_key"),
        [
            ({}, "", "celery"),
            ({"queue": "images"}, "", "images"),
            ({"exchange": "e", "routing_key": "k"}, "e", "k"),
            ({"queue": "images", "exchange": "e"}, "", "images"),
            ({"queue": "images", "routing_key": "k"}, "", "images"),
            ({"queue": "images", "exchange": "e", "routing_key": "k"}, "e", "k"),
            ({"queue": TOPIC}, "e", "k.#"),
            ({"queue": TOPIC, "routing_key": "a.b"}, "e", "a.b"),
            ({"queue": TOPIC, "exchange": "other", "exchange_type": "direct"}, "", "q"),
            ({"queue": TOPIC, "exchange": "other"}, "other", None),
            ({"queue": Queue("named", Exchange("x"), "y")}, "", "named"),
            ({"queue": Broadcast("news")}, "news", "celery"),
        ],
    )
    def test_where_it_goes(self, app, published, options, exchange, routing_key):
        send(app, **options)
        assert (published[0]["exchange"], published[0]["routing_key"]) == (exchange, routing_key)

    def test_delivery_mode(self, app, published):
        send(app)
        send(app, queue=self.TOPIC)
        send(app, queue=self.TOPIC, delivery_mode=2)
        send(make_app(task_default_delivery_mode="transient"))
        assert [call["delivery_mode"] for call in published] == [2, 1, 2, "transient"]

    def test_a_topic_exchange_as_default(self, published):
        app = make_app(task_default_exchange_type="topic")
        send(app)
        send(app, routing_key="a.b")
        assert [(c["exchange"], c["routing_key"]) for c in published] == [
            ("celery", "celery"),
            ("celery", "a.b"),
        ]

    def test_what_is_declared(self, app, published):
        send(app, queue="images")
        send(app, queue=Broadcast("news"))
        send(app, exchange="e", routing_key="k")
        send(app, queue="images", declare=[])
        declared = [[each.name for each in call["declare"]] for call in published]
        assert declared == [["images"], ["news"], [], []]

    def test_settings_and_options(self, published):
        app = make_app(
            task_serializer="pickle",
            task_compression="gzip",
            task_publish_retry=False,
            task_publish_retry_policy={"max_retries": 9},
        )
        app.amqp.Producer = kombu.Producer
        send(app, retry=True, retry_policy={"interval_max": 5}, timeout=3, confirm_timeout=4)
        call = published[0]
        assert (call["serializer"], call["compression"], call["retry"]) == ("pickle", "gzip", True)
        assert call["retry_policy"] == {"max_retries": 9, "interval_max": 5}
        assert (call["timeout"], call["confirm_timeout"]) == (3, 4)
        assert app.conf.task_publish_retry_policy == {"max_retries": 9}

    def test_stamps_are_no_properties(self, app, published):
        app.send_task("t", stamped_headers=["tenant"], tenant="acme", user_id="u")
        call = published[0]
        assert call["headers"]["stamps"] == {"tenant": "acme"}
        assert call["user_id"] == "u"
        assert not {"stamped_headers", "tenant", "stamps"} & call.keys()


class Declarations:
    """Counts the queues declared on kombu's memory transport."""

    def __init__(self, monkeypatch):
        self.names = []
        original = Queue.declare

        def declare(queue, *args, **kwargs):
            self.names.append(queue.name)
            return original(queue, *args, **kwargs)

        monkeypatch.setattr(Queue, "declare", declare)


class TestDeclaring:
    def test_once_per_connection(self, app, monkeypatch):
        declared = Declarations(monkeypatch)
        for _ in range(3):
            send(app)
            send(app, queue="images")
        assert declared.names == ["celery", "images"]

    def test_by_each_connection(self, app, monkeypatch):
        declared = Declarations(monkeypatch)
        with app.producer_or_acquire() as first, app.producer_or_acquire() as second:
            for producer in (first, second, first, second):
                send(app, producer)
        assert declared.names == ["celery", "celery"]

    def test_again_after_a_reconnect(self, app, monkeypatch):
        declared = Declarations(monkeypatch)
        with app.producer_or_acquire() as producer:
            send(app, producer)
            producer.connection.collect()
            producer.revive(producer.connection)
            send(app, producer)
            send(app, producer)
        assert declared.names == ["celery", "celery"]

    def test_again_when_the_connection_is_lost_in_the_middle_of_a_publish(self, app, monkeypatch):
        declared = Declarations(monkeypatch)
        with app.producer_or_acquire() as producer:
            send(app, producer)
            channel = producer.channel
            lost = [ConnectionResetError("the network breaks now")]

            def basic_publish(*args, **kwargs):
                raise lost.pop()

            monkeypatch.setattr(channel, "basic_publish", basic_publish)
            monkeypatch.setattr(
                producer.connection, "recoverable_connection_errors", (ConnectionResetError,)
            )
            send(app, producer, retry_policy=AT_ONCE)
            assert producer.channel is not channel
        assert lost == []
        assert declared.names == ["celery", "celery"]

    def test_not_marked_when_it_failed(self, app, monkeypatch):
        failing = [True]
        original = Queue.declare

        def declare(queue, *args, **kwargs):
            if failing.pop():
                raise ValueError("refused")
            failing.append(False)
            return original(queue, *args, **kwargs)

        monkeypatch.setattr(Queue, "declare", declare)
        with pytest.raises(ValueError, match="refused"):
            send(app)
        failing.append(False)
        send(app)
        assert failing == [False]

    def test_queues_that_must_not_be_remembered(self, app, monkeypatch):
        declared = Declarations(monkeypatch)
        fleeting = Queue("fleeting", Exchange("fleeting"), "fleeting", auto_delete=True)
        app.amqp.queues.add(fleeting)
        send(app, queue="fleeting")
        send(app, queue="fleeting")
        assert declared.names == ["fleeting", "fleeting"]

    def test_a_producer_over_a_bare_channel(self, app):
        with app.connection_for_write() as connection, connection.channel() as channel:
            send(app, kombu.Producer(channel))
            assert channel._size("celery") == 1


class TestSignals:
    @pytest.fixture
    def heard(self):
        heard = []

        def receiver(sender=None, **kwargs):
            heard.append((kwargs.pop("signal").name, sender, kwargs))

        for signal in (before_task_publish, after_task_publish, task_sent):
            signal.connect(receiver, weak=False, dispatch_uid="test_amqp")
        yield heard
        for signal in (before_task_publish, after_task_publish, task_sent):
            signal.disconnect(dispatch_uid="test_amqp")

    def test_arguments(self, app, published, heard):
        send(app, args=(1,), priority=5)
        (_, sender, before), (_, _, after), (_, _, sent) = heard
        assert sender == "t"
        assert before.keys() == {
            "body", "exchange", "routing_key", "headers", "properties", "declare", "retry_policy",
        }  # fmt: skip
        assert before["properties"] == {"correlation_id": "i", "reply_to": "", "priority": 5}
        assert before["declare"] == [app.amqp.queues["celery"]]
        assert after.keys() == {"body", "exchange", "routing_key", "headers"}
        assert (after["exchange"], after["routing_key"]) == ("", "celery")
        assert sent == {
            "task_id": "i", "task": "t", "args": (1,), "kwargs": {}, "eta": None, "taskset": None,
        }  # fmt: skip

    def test_receivers_may_change_the_message(self, app, published):
        extra = Queue("extra")

        def change(sender=None, headers=None, properties=None, declare=None, **kwargs):
            headers["trace"] = "t-1"
            properties["priority"] = 7
            declare.append(extra)
            kwargs["retry_policy"]["max_retries"] = 1

        before_task_publish.connect(change)
        try:
            send(app)
        finally:
            before_task_publish.disconnect(change)
        call = published[0]
        assert call["headers"]["trace"] == "t-1"
        assert call["priority"] == 7
        assert call["declare"] == [app.amqp.queues["celery"], extra]
        assert call["retry_policy"]["max_retries"] == 1
        assert app.conf.task_publish_retry_policy["max_retries"] == 3

    def test_protocol_1(self, published, heard):
        send(make_app(task_protocol=1), args=(1,))
        assert heard[-1][2]["args"] == (1,)

    def test_no_signal_after_a_failure(self, app, heard):
        with pytest.raises(EncodeError):
            send(app, args=(object(),))
        assert [name for name, *_ in heard] == ["before_task_publish"]

    def test_a_dispatcher_gets_the_sent_event(self, app, published):
        events = []

        class Dispatcher:
            def publish(self, type, fields, producer, **kwargs):
                events.append((type, fields, kwargs))

        message = app.amqp.create_task_message("i", "t", (), {}, create_sent_event=True)
        with app.producer_or_acquire() as producer:
            app.amqp.send_task_message(producer, "t", message, event_dispatcher=Dispatcher())
        ((type, fields, kwargs),) = events
        assert type == "task-sent"
        assert fields["uuid"] == "i"
        assert (fields["queue"], fields["exchange"], fields["routing_key"]) == (
            "celery",
            "",
            "celery",
        )
        assert kwargs["retry"] is True


class TestBadInput:
    def test_arguments_that_cannot_be_serialised(self, app):
        with pytest.raises(EncodeError):
            app.send_task("t", (object(),))
        with pytest.raises(EncodeError):
            app.send_task("t", ({1, 2},))
        with pytest.raises(EncodeError):
            app.send_task("t", (lambda: 1,), serializer="pickle")
        assert size(app) == 0
        app.send_task("t", (1,))
        assert size(app) == 1

    def test_unknown_serializer(self, app):
        with pytest.raises(SerializerNotInstalled, match="did you mean 'json'"):
            app.send_task("t", serializer="jsno")
        assert size(app) == 0

    @pytest.mark.parametrize("name", ["yaml", "msgpack"])
    def test_a_serializer_whose_extra_is_missing(self, app, monkeypatch, name):
        monkeypatch.delitem(registry._encoders, name)
        with pytest.raises(SerializerNotInstalled, match=rf"taskq\[{name}\]"):
            app.send_task("t", serializer=name)

    def test_unknown_compression(self, app):
        with pytest.raises(UnknownCompression, match="did you mean 'gzip'") as caught:
            app.send_task("t", compression="gizp")
        assert isinstance(caught.value, OperationalError)
        assert isinstance(caught.value, KeyError)
        with pytest.raises(UnknownCompression):
            make_app(task_compression="nope").send_task("t")
        assert size(app) == 0

    def test_a_compression_whose_extra_is_missing(self):
        assert "taskq[brotli]" in not_installed("compression", "application/x-brotli")
        assert "taskq[zstd]" in not_installed("compression", "zstd")

    @pytest.mark.parametrize("name", ["", "a\0b", "x" * 256, 5])
    def test_impossible_queue_names(self, app, name):
        with pytest.raises(InvalidQueueName):
            app.send_task("t", queue=name)

    def test_unknown_protocol(self):
        with pytest.raises(ImproperlyConfigured, match="task_protocol: expected 1 or 2"):
            make_app(task_protocol=3).send_task("t")

    @pytest.mark.parametrize("args", ["abc", 5, {1}])
    def test_args_that_are_none(self, app, args):
        with pytest.raises(TypeError, match="list or tuple"):
            app.send_task("t", args)

    def test_expired_before_it_is_sent(self, app, caplog):
        app.send_task("t", expires=-5)
        with app.connection_for_write() as connection:
            raw = connection.default_channel._get("celery")
        assert raw["properties"]["expiration"] == "0"
        assert "expiration date in the past" in caplog.text

    def test_unknown_key_of_a_retry_policy(self, app):
        with pytest.raises(TypeError, match="did you mean 'max_retries'"):
            app.send_task("t", retry_policy={"max_retrys": 1})

    def test_a_connection_survives_an_argument_that_cannot_be_serialised(self, app):
        app.send_task("t")
        with app.producer_or_acquire() as producer:
            connection = producer.connection.connection
        with pytest.raises(EncodeError):
            app.send_task("t", (object(),))
        with app.producer_or_acquire() as producer:
            assert producer.connection.connection is connection


class TestUnreachable:
    @pytest.mark.parametrize(
        "options",
        [
            {"retry": False},
            {"retry": True, "retry_policy": AT_ONCE},
            {"retry": True, "retry_policy": {"max_retries": 0}},
        ],
    )
    def test_operational_error(self, options):
        app = make_app(broker_url=UNREACHABLE)
        for _ in range(2):
            with pytest.raises(OperationalError, match="refused") as caught:
                app.send_task("t", **options)
            assert "secret" not in str(caught.value)

    def test_errors_of_the_transport_are_operational_errors(self, app, monkeypatch):
        with app.producer_or_acquire() as producer:

            def publish(*args, **kwargs):
                raise ConnectionResetError("the network breaks now")

            monkeypatch.setattr(producer, "publish", publish)
            monkeypatch.setattr(
                producer.connection, "recoverable_connection_errors", (ConnectionResetError,)
            )
            with pytest.raises(OperationalError, match="breaks now"):
                send(app, producer, retry=False)


class TestCompression:
    @pytest.mark.parametrize("name", ["gzip", "bzip2", "lzma", "brotli", "zstd"])
    def test_there_and_back(self, app, name):
        if name not in compression._aliases:
            pytest.skip(f"{name} is not installed here")
        app.send_task("t", ("x" * 1000,), compression=name)
        with app.connection_for_write() as connection:
            message = app.amqp.queues["celery"](connection.default_channel).get(no_ack=True)
        assert message.headers["compression"] == compression.get_encoder(name)[1]
        assert message.payload[0] == ["x" * 1000]

    def test_zstd_frames_that_do_not_say_how_long_they_are(self):
        zstandard = pytest.importorskip("zstandard")
        stream = zstandard.ZstdCompressor().compressobj()
        frame = stream.compress(b"x" * 1000) + stream.flush()
        assert compression.decompress(frame, "application/zstd") == b"x" * 1000


class TestPickle:
    def test_what_leaves_names_celery_and_what_comes_is_ours(self, app):
        app.send_task("t", (MaxRetriesExceededError("gone"),), serializer="pickle")
        with app.connection_for_write() as connection:
            message = app.amqp.queues["celery"](connection.default_channel).get(
                no_ack=True, accept=["pickle"]
            )
        assert b"celery.exceptions" in message.body
        assert b"taskq.exceptions" not in message.body
        (error,), _, _ = message.decode()
        assert type(error) is MaxRetriesExceededError

    def test_other_users_of_kombu_get_what_they_had(self):
        value = {"path": Path("/tmp"), "n": [1, 2.5, None], "error": KeyError("k")}
        encoder = registry._encoders["pickle"].encoder
        assert pickle.loads(encoder(value))["path"] == value["path"]
        read = loads(
            pickle.dumps(value), "application/x-python-serialize", "binary", accept={"pickle"},
            force=True, _trusted_content={"application/x-python-serialize"},
        )  # fmt: skip
        assert read["n"] == value["n"]
        assert registry.name_to_type["pickle"] == "application/x-python-serialize"
        assert "application/x-python-serialize" in registry._disabled_content_types


class TestAMQP:
    def test_default_queue_and_exchange(self):
        app = make_app(
            task_default_queue="main",
            task_default_exchange="x",
            task_default_routing_key="k",
            task_default_exchange_type="topic",
            task_default_queue_type="quorum",
        )
        queue = app.amqp.default_queue
        assert (queue.name, queue.exchange.name, queue.exchange.type) == ("main", "x", "topic")
        assert (queue.routing_key, queue.queue_arguments) == ("k", {"x-queue-type": "quorum"})
        assert app.amqp.default_exchange is queue.exchange

    def test_queues_of_settings(self):
        app = make_app(task_queues=[Queue("a")], task_create_missing_queues=False)
        assert list(app.amqp.queues) == ["a"]
        assert app.amqp.queues["a"].exchange.name == "celery"
        with pytest.raises(KeyError):
            app.amqp.default_queue
        assert list(make_app(task_queues=[]).amqp.queues) == ["celery"]

    def test_queues_can_be_set(self, app):
        router = app.amqp.router
        app.amqp.queues = {"only": {}}
        assert list(app.amqp.queues) == ["only"]
        assert app.amqp.router is not router
        assert app.amqp.router.queues is app.amqp.queues
        app.amqp.router = router
        assert app.amqp.router is router

    def test_autoexchange_and_missing_queues(self):
        app = make_app(task_create_missing_queue_type="quorum", task_queue_max_priority=4)
        app.amqp.autoexchange = lambda name: Exchange("auto", "fanout")
        queue = app.amqp.queues["new"]
        assert queue.exchange.name == "auto"
        assert queue.queue_arguments == {"x-queue-type": "quorum", "x-max-priority": 4}

    def test_subclasses_choose_their_classes(self):
        class OwnQueues(AMQP.queues_cls):
            pass

        class Own(AMQP):
            queues_cls = OwnQueues
            argsrepr_maxsize = 5

        app = Celery("own", amqp=Own, broker="memory://", set_as_current=False)
        assert type(app.amqp.queues) is OwnQueues
        headers = app.amqp.create_task_message("i", "t", (list(range(99)),)).headers
        assert len(headers["argsrepr"]) < 20

    def test_protocols(self):
        assert make_app(task_protocol=1).amqp.create_task_message("i", "t").body["task"] == "t"
        message = make_app().amqp.create_task_message("i", "t")
        assert message._fields == task_message._fields
        assert make_app(enable_utc=False).amqp.as_task_v1("i", "t").body["utc"] is False

    def test_origin(self, app):
        import os
        import socket

        headers = app.amqp.as_task_v2("i", "t").headers
        assert headers["origin"] == f"gen{os.getpid()}@{socket.gethostname()}"

    def test_task_consumer(self, app):
        with app.connection_for_read() as connection:
            consumer = app.amqp.TaskConsumer(connection.default_channel)
            assert [queue.name for queue in consumer.queues] == ["celery"]
            assert consumer.accept == {"application/json"}
            consumer = app.amqp.TaskConsumer(
                connection.default_channel, queues=[Queue("x")], accept=["pickle"]
            )
            assert [queue.name for queue in consumer.queues] == ["x"]
            assert consumer.accept == {"application/x-python-serialize"}

    def test_utf8dict(self):
        assert utf8dict({b"a": 1, "b": 2}) == {"a": 1, "b": 2}


def test_a_warm_publish_takes_few_calls(app):
    """Routing, message and sending together; kombu's share is most of it."""
    import sys

    def call():
        options = app.amqp.router.route({}, "t", (1,), {})
        message = app.amqp.create_task_message("i", "t", (1,), {"k": "v"}, reply_to="r")
        with app.producer_or_acquire() as producer:
            app.amqp.send_task_message(producer, "t", message, **options)

    call(), call()
    calls = []

    def profile(frame, event, arg):
        if event == "call":
            calls.append(frame.f_code.co_filename)

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    ours = [name for name in calls if "/taskq/" in name and "/site-packages/" not in name]
    # The writer of JSON stands where json's own three calls would.
    ours = [name for name in ours if not name.endswith("/json_writing.py")]
    kombus = [name for name in calls if "/kombu/" in name]
    assert len(ours) <= 28
    assert len(ours) + len(kombus) <= 52
    assert len(set(ours)) <= 6
