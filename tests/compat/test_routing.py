"""The Routing guide: which queue a call goes to. Numbers 249 to 261."""

import re
import sys
import types

import pytest
from celery.exceptions import QueueNotFound
from kombu import Exchange, Queue, binding
from kombu.common import Broadcast

pytest_plugins = ["servers.fixtures"]


@pytest.fixture
def where(app, sent):
    """Send a task by name; (exchange, routing key) it was sent to."""

    def where(name, *args, **options):
        app.send_task(name, args, **options)
        exchange = sent[-1].exchange
        return getattr(exchange, "name", exchange), sent[-1].routing_key

    return where


def mail(name, args, kwargs, options, task=None, **more):
    return {"queue": "mail"} if name.startswith("mail.") else None


class Router:
    def route_for_task(self, task, args=None, kwargs=None):
        return {"queue": "by-class"} if task == "one" else None


ROUTES = {
    "dict": {"mail.*": {"queue": "mail"}},
    "dict of names": {"mail.send": "mail"},
    "pairs": ([("feed.*", "feeds"), ("mail.*", {"queue": "mail"})],),
    "tuple of pairs": ((("mail.*", "mail"),),),
    "regex": {re.compile(r"(mail|video)\..*"): {"queue": "mail"}},
    "regex in pairs": [[(re.compile(r"mail\.s"), "mail")]],
    "callable": mail,
    "list of callables": (lambda *args, **kwargs: None, mail),
    "path": "routes_of_test.mail",
    "list of paths and dicts": [{"x": "y"}, "routes_of_test.mail"],
    "list of lists": [[("mail.*", "mail")]],
    "question mark": {"mail.sen?": "celery", "mail.s*": "mail"},
}


@pytest.mark.parametrize("form", ROUTES)
def test_249_forms_of_task_routes(app, where, monkeypatch, form):
    module = types.ModuleType("routes_of_test")
    module.mail = mail
    monkeypatch.setitem(sys.modules, "routes_of_test", module)
    app.conf.task_routes = ROUTES[form]
    assert where("mail.send") == ("", "mail")
    assert where("other") == ("", "celery")
    assert where("a.mail.send") == ("", "celery")


def test_249_patterns_match_whole_names(app, where):
    app.conf.task_routes = {"mail.*": "mail", "one": "first"}
    assert where("mail.a.b.c") == ("", "mail")
    assert where("one") == ("", "first")
    assert where("one.two") == ("", "celery")
    assert where("mailbox") == ("", "celery")


def test_250_the_first_answer_wins_and_the_call_over_it(app, sent, where):
    app.conf.task_queues = [Queue("a", Exchange("ax", "topic"), routing_key="a.key")]
    app.conf.task_routes = (
        lambda *args, **kwargs: None,
        {"one": {"queue": "a", "priority": 3}},
        {"one": {"queue": "b"}},
    )
    assert where("one") == ("ax", "a.key")
    assert sent[-1].properties["priority"] == 3
    assert where("one", priority=7, routing_key="a.other") == ("ax", "a.other")
    assert sent[-1].properties["priority"] == 7
    assert where("one", queue="c") == ("", "c")
    assert sent[-1].properties["priority"] == 3


def test_251_what_a_router_is_called_with(app, where):
    calls = []

    @app.task(name="known")
    def known(x, y): ...

    def route(name, args, kwargs, options, task=None, **more):
        calls.append((name, list(args), kwargs, options.get("priority"), task))
        return "by-name" if name == "known" else {"queue": "by-dict"}

    app.conf.task_routes = (route,)
    app.finalize()
    known.apply_async((1,), {"y": 2}, priority=4)
    assert calls == [("known", [1], {"y": 2}, 4, known)]
    assert where("known", 1, 2)[1] == "by-name"
    assert where("unknown") == ("", "by-dict")
    assert calls[-1][0] == "unknown"
    assert calls[-1][4] is None


@pytest.mark.parametrize("router", [Router(), (Router(),)])
def test_252_an_object_with_route_for_task(app, where, router):
    app.conf.task_routes = router
    assert where("one") == ("", "by-class")
    assert where("two") == ("", "celery")


def test_253_routes_are_read_again(app, where):
    app.conf.update(task_routes={"one": "first"})
    assert where("one") == ("", "first")
    app.conf.update(task_routes={"one": "second"})
    assert where("one") == ("", "second")
    app.conf.update(task_routes=None)
    assert where("one") == ("", "celery")


def test_254_a_missing_queue_is_created(app, where):
    app.conf.task_queues = [Queue("known", Exchange("known"), "known")]
    app.conf.task_routes = {"one": {"queue": "made"}}
    where("one")
    made = app.amqp.queues["made"]
    assert (made.name, made.exchange.name, made.exchange.type) == ("made", "made", "direct")
    assert made.routing_key == "made"


def test_254_unless_that_is_off(app, where):
    app.conf.task_create_missing_queues = False
    app.conf.task_queues = [Queue("known", Exchange("known"), "known")]
    app.conf.task_routes = {"one": {"queue": "made"}}
    with pytest.raises(QueueNotFound, match="made"):
        where("one")
    app.conf.task_routes = None
    assert where("two", queue="known") == ("", "known")


def test_254_of_the_type_that_is_set(app):
    app.conf.task_create_missing_queue_type = "quorum"
    app.conf.task_create_missing_queue_exchange_type = "topic"
    made = app.amqp.queues["made"]
    assert made.queue_arguments == {"x-queue-type": "quorum"}
    assert made.exchange.type == "topic"


def test_255_defaults_are_named_as_the_default_queue(app):
    app.conf.task_default_queue = "first"
    queue = app.amqp.queues["first"]
    assert (queue.exchange.name, queue.routing_key) == ("first", "first")


def test_255_or_as_they_are_set(app, where):
    app.conf.update(
        task_default_queue="first", task_default_exchange="ex", task_default_routing_key="rk",
        task_default_exchange_type="topic",
    )  # fmt: skip
    queue = app.amqp.queues["first"]
    assert (queue.exchange.name, queue.exchange.type, queue.routing_key) == ("ex", "topic", "rk")
    assert where("any") == ("ex", "rk")


def test_256_a_queue_fills_in_what_is_missing(app, where):
    media = Exchange("media", "topic")
    app.conf.task_queues = [
        Queue("celery", Exchange("celery"), "celery"),
        Queue("video", media, "media.video"),
        Queue("all", Exchange("fan", "fanout")),
        Queue("plain"),
    ]
    assert where("any", queue="video") == ("media", "media.video")
    assert where("any", queue="video", routing_key="media.x") == ("media", "media.x")
    assert where("any", queue="all")[0] == "fan"
    assert where("any", queue="celery") == ("", "celery")


def test_257_a_broadcast_is_copied_to_every_consumer(app, sent, eventually):
    got = []
    with app.connection_for_read() as connection:
        channels = [connection.channel() for _ in range(3)]
        for number, channel in enumerate(channels):
            # Every worker has settings, and so a queue, of its own.
            queue = Broadcast("all", on_declared=None)
            consumer = app.amqp.TaskConsumer(
                channel, queues=[queue],
                on_message=lambda message, n=number: (got.append(n), message.ack()),
            )  # fmt: skip
            consumer.consume()
        app.conf.task_queues = [Broadcast("all")]
        app.send_task("any", queue="all")

        def turn():
            connection.drain_events(timeout=5)
            return len(got) == 3

        eventually(turn, "three copies")
    assert sorted(got) == [0, 1, 2]
    names = {Broadcast("all").name for _ in range(3)}
    assert len(names) == 3


def test_258_the_default_queue(app, where):
    assert app.conf.task_default_queue == "celery"
    assert where("any") == ("", "celery")
    assert list(app.amqp.queues) == ["celery"]


def test_258_under_another_name(app, where, worker):
    app.conf.task_default_queue = "other"

    @app.task
    def one():
        return 1

    result = one.delay()
    assert where("any") == ("", "other")
    assert list(app.amqp.queues) == ["other"]
    assert worker.finish(result).get() == 1


def test_259_a_route_sets_the_priority(app, sent, where):
    app.conf.task_routes = {"one": {"queue": "q", "priority": 6}}
    assert where("one") == ("", "q")
    assert sent[-1].properties["priority"] == 6
    where("one", priority=2)
    assert sent[-1].properties["priority"] == 2


def test_259_and_the_settings_where_nothing_does(app, sent, where):
    app.conf.task_default_priority = 5

    @app.task(name="one")
    def one(): ...

    one.delay()
    assert sent[-1].properties["priority"] == 5
    one.apply_async(priority=1)
    assert sent[-1].properties["priority"] == 1


def test_260_priority_steps_are_lists_on_redis(app, redis_url):
    redis = pytest.importorskip("redis")
    app.conf.broker_url = redis_url
    for priority in (0, 1, 3, 5, 6, 8, 9, None):
        app.send_task("any", queue="steps", priority=priority)
    with redis.Redis.from_url(redis_url) as client:
        lengths = {key: client.llen(key) for key in client.keys("steps*")}
    assert lengths == {
        b"steps": 3,
        b"steps\x06\x163": 2,
        b"steps\x06\x166": 2,
        b"steps\x06\x169": 1,
    }


def test_261_by_name_alone_through_the_anonymous_exchange(app, where):
    app.conf.task_queues = [
        Queue("direct", Exchange("ex", "direct"), "some.key"),
        Queue("several", [binding(Exchange("a"), "x"), binding(Exchange("b"), "y")]),
    ]
    assert where("any", queue="direct") == ("", "direct")
    assert where("any", queue="unknown") == ("", "unknown")
    assert where("any", queue=Queue("object")) == ("", "object")
