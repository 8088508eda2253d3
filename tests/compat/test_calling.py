"""The Calling guide: calling a task, by itself and by name, and with links. Numbers 118 to 135."""

import logging
import threading

import pytest
from amqp.exceptions import RecoverableConnectionError
from celery import signals, signature
from celery.exceptions import ImproperlyConfigured
from celery.result import AsyncResult
from kombu.exceptions import OperationalError
from kombu.transport.memory import Channel

pytest_plugins = ["servers.fixtures"]


def test_118_delay_takes_no_options(app, sent):
    @app.task
    def any(*args, **kwargs): ...

    any.delay(1, 2, countdown=60, queue="x", expires=1)
    any.apply_async((1, 2), {"countdown": 60, "queue": "x", "expires": 1})
    first, second = sent
    assert (first.args, first.kwargs) == (second.args, second.kwargs)
    assert list(first.args) == [1, 2]
    assert first.kwargs == {"countdown": 60, "queue": "x", "expires": 1}
    for message in sent:
        assert message.headers["eta"] is message.headers["expires"] is None
        assert message.routing_key == "celery"


def test_119_a_call_runs_here(app, sent):
    @app.task
    def add(x, y):
        return x + y

    assert add(2, 3) == add(2, y=3) == 5
    assert sent == []


def test_120_apply_async_answers_at_once(app):
    @app.task
    def add(x, y): ...

    results = [add.apply_async((2, 3)) for _ in range(20)]
    assert all(isinstance(result, AsyncResult) for result in results)
    assert {result.state for result in results} == {"PENDING"}
    assert len({result.id for result in results}) == 20


def test_121_task_id_is_the_id(app, sent, worker):
    @app.task(bind=True)
    def who(self):
        return self.request.id

    result = who.apply_async(task_id="the one")
    assert result.id == sent[0].headers["id"] == sent[0].properties["correlation_id"] == "the one"
    assert worker.finish(result).get() == "the one"


def test_122_send_task_needs_no_task_here(app, sent, worker):
    first = app.send_task("far.add", (2, 3), {"z": 4})
    app.send_task("far.add", [2, 3], countdown=600, queue="elsewhere", task_id="x")

    @app.task(name="far.add")
    def add(x, y, z):
        return x + y + z

    assert worker.finish(first).get() == 9
    assert [message.name for message in sent] == ["far.add", "far.add"]
    assert sent[1].headers["id"] == "x"
    assert sent[1].headers["eta"]
    assert sent[1].routing_key == "elsewhere"


def test_123_send_task_takes_the_options_of_a_task_it_knows(app, sent):
    @app.task(
        name="known", priority=3, time_limit=30, soft_time_limit=20, expires=600,
        ignore_result=True, serializer="pickle", compression="zlib",
    )  # fmt: skip
    def known(): ...

    app.finalize()
    app.send_task("known")
    app.send_task("known", priority=5, time_limit=60, expires=None, ignore_result=False)
    known.delay()
    first, second, third = sent
    for message in (first, third):
        assert message.headers["timelimit"] == [30, 20]
        assert message.headers["expires"]
        assert message.properties["priority"] == 3
    assert second.headers["timelimit"] == [60, 20]
    assert second.headers["expires"] is None
    assert second.headers["ignore_result"] is False
    assert second.properties["priority"] == 5
    with app.connection_for_read() as connection:
        kinds = [connection.default_channel.basic_get("celery", no_ack=True) for _ in sent]
    assert [kind.content_type for kind in kinds] == ["application/x-python-serialize"] * 3
    assert [kind.headers["compression"] for kind in kinds] == ["application/x-gzip"] * 3


def test_124_a_signature_needs_no_task_here(app, sent):
    unknown = signature("nowhere.run", args=(1,), kwargs={"k": 2}, options={"queue": "q"}, app=app)
    unknown.apply_async(task_id="one")
    unknown.delay(5)
    assert [(each.name, list(each.args), each.kwargs, each.routing_key) for each in sent] == [
        ("nowhere.run", [1], {"k": 2}, "q"),
        ("nowhere.run", [5, 1], {"k": 2}, "q"),
    ]
    assert sent[0].headers["id"] == "one"


@pytest.mark.parametrize("args", [5, "ab", {"a": 1}, {1, 2}])
def test_125_args_are_a_list_or_tuple(app, sent, args):
    @app.task(typing=False)
    def any(*args, **kwargs): ...

    with pytest.raises(TypeError, match="args must be a list or tuple"):
        any.apply_async(args)
    with pytest.raises(TypeError, match="args must be a list or tuple"):
        app.send_task("far", args)
    assert sent == []


@pytest.mark.parametrize("kwargs", [5, "ab", [1], (("a", 1),)])
def test_125_kwargs_are_a_mapping(app, sent, kwargs):
    with pytest.raises(TypeError, match="keyword arguments must be a mapping"):
        app.send_task("far", (), kwargs)
    assert sent == []


# -- links


def test_126_a_link_runs_with_what_its_parent_returned(app, worker):
    @app.task
    def add(x, y):
        return x + y

    result = add.apply_async((2, 2), link=add.s(16))
    assert worker.finish(result).get() == 4
    assert worker.finish(result.children[0]).get() == 20
    result = add.apply_async((2, 2), link=add.si(1, 2))
    assert worker.finish(worker.finish(result).children[0]).get() == 3


def test_127_a_list_of_links_runs_all_in_order(app, worker, eventually):
    seen = []

    @app.task
    def four():
        return 4

    @app.task
    def note(value, name):
        seen.append((name, value))

    names = ["a", "b", "c"]
    worker.finish(four.apply_async(link=[note.s(name) for name in names]))
    eventually(lambda: len(seen) == 3, "three callbacks")
    assert seen == [(name, 4) for name in names]


def test_128_errbacks_run_on_failure_alone(app, worker, sent):
    seen = []

    @app.task
    def work(fail):
        if fail:
            raise KeyError("x")

    @app.task
    def failed(request, exc, traceback):
        seen.append((request.id, repr(exc), "KeyError" in str(traceback)))

    worker.finish(work.apply_async((False,), link_error=failed.s()))
    result = worker.finish(work.apply_async((True,), link_error=failed.s(), link=failed.s()))
    assert seen == [(result.id, "KeyError('x')", True)]
    assert {message.name for message in sent} == {work.name}


def test_129_an_errback_of_several_arguments_is_called_directly(app, worker, sent, eventually):
    seen = []

    @app.task(name="boom")
    def boom():
        raise ValueError("no")

    @app.task(name="three")
    def three(request, exc, traceback):
        seen.append(("three", request.id, type(exc).__name__))

    @app.task(name="star")
    def star(*args):
        seen.append(("star", args[0].id, len(args)))

    @app.task(name="more")
    def more(request, exc, traceback, extra=None):
        seen.append(("more", request.id, extra))

    errbacks = [three.s(), star.s(), more.s(extra=1)]
    result = worker.finish(boom.apply_async(link_error=errbacks))
    eventually(lambda: len(seen) == 3, "three errbacks")
    assert seen == [
        ("three", result.id, "ValueError"),
        ("star", result.id, 3),
        ("more", result.id, 1),
    ]
    assert [message.name for message in sent] == ["boom"]


def test_130_other_errbacks_are_sent_with_the_id(app, worker, sent, eventually):
    seen = []

    @app.task(name="boom")
    def boom():
        raise ValueError("no")

    @app.task(name="one")
    def one(task_id):
        seen.append(("one", task_id))

    @app.task(name="bound", bind=True)
    def bound(self, task_id): ...

    errbacks = [one.s(), signature("elsewhere", queue="other", app=app)]
    result = worker.finish(boom.apply_async(link_error=errbacks))
    eventually(lambda: seen, "the errback")
    assert seen == [("one", result.id)]
    messages = {message.name: list(message.args) for message in sent if message.name != "boom"}
    assert messages == {"one": [result.id], "elsewhere": [result.id]}
    result = worker.finish(boom.apply_async(link_error=bound.s()))
    eventually(lambda: sent[-1].name == "bound", "the bound errback is sent")
    assert list(sent[-1].args) == [result.id]


def test_130_an_errback_may_be_the_name_of_a_task(app, worker, eventually):
    seen = []

    @app.task
    def boom():
        raise ValueError("no")

    @app.task(name="three")
    def three(request, exc, traceback):
        seen.append((request.id, repr(exc)))

    @app.task(name="one")
    def one(task_id):
        seen.append(task_id)

    result = worker.finish(boom.apply_async(link_error=["three", "one"]))
    eventually(lambda: len(seen) == 2, "both errbacks")
    assert seen == [(result.id, "ValueError('no')"), result.id]
    assert isinstance(result.result, ValueError)


def test_131_an_errback_that_fails_stops_no_other(app, worker, caplog, eventually):
    seen = []

    @app.task
    def boom():
        raise ValueError("no")

    @app.task
    def bad(request, exc, traceback):
        raise RuntimeError("the errback is broken")

    @app.task
    def good(request, exc, traceback):
        seen.append(request.id)

    with caplog.at_level(logging.ERROR):
        result = worker.finish(boom.apply_async(link_error=[bad.s(), good.s()]))
        eventually(lambda: seen == [result.id], "the second errback")
    assert result.state == "FAILURE"
    assert repr(result.result) == "ValueError('no')"
    assert "the errback is broken" in caplog.text


def test_132_children_are_there_when_the_result_is(app, worker):
    seen = []

    @app.task
    def work():
        return 1

    @signals.after_task_publish.connect(sender="callback")
    def look(headers, **kwargs):
        seen.append((headers["id"], app.AsyncResult(headers["parent_id"]).state))

    link = signature("callback", queue="other", app=app)
    result = worker.finish(work.apply_async(link=[link]))
    assert seen == [(result.children[0].id, "PENDING")]


@pytest.mark.filterwarnings("ignore:Exception raised outside body")
@pytest.mark.parametrize(
    ("options", "attempts"),
    [
        ({"retry_policy": {"max_retries": 2, "interval_start": 0, "interval_step": 0}}, 3),
        ({"retry": False}, 1),
    ],
)
def test_133_a_callback_that_cannot_be_sent(app, worker, monkeypatch, options, attempts):
    """It is tried as its own policy says; then the task fails."""
    tried = []
    put = Channel._put

    def refuse(self, queue, message, **kwargs):
        if queue == "refused":
            tried.append(queue)
            raise RecoverableConnectionError("the broker says no")
        return put(self, queue, message, **kwargs)

    monkeypatch.setattr(Channel, "_put", refuse)

    @app.task
    def work():
        return 1

    link = signature("callback", queue="refused", app=app).set(**options)
    result = worker.finish(work.apply_async(link=link))
    assert result.state == "FAILURE"
    assert isinstance(result.result, OperationalError)
    assert len(tried) == attempts


# -- on_message


def test_134_on_message_sees_every_document(app, worker, redis_url):
    app.conf.result_backend = redis_url
    received = threading.Event()

    @app.task(bind=True)
    def hello(self, a, b):
        while not received.wait(0.01):
            self.update_state(state="PROGRESS", meta={"progress": 50})
        return f"hello world: {a + b}"

    seen = []

    def on_raw_message(body):
        seen.append(body)
        received.set()

    worker.start()
    result = hello.apply_async((1, 1))
    answer = result.get(on_message=on_raw_message, propagate=False, timeout=30)
    assert answer == "hello world: 2"
    states = [(each["status"], each["result"]) for each in seen]
    assert states[0] == ("PROGRESS", {"progress": 50})
    assert states[-1] == ("SUCCESS", "hello world: 2")
    for document in seen:
        assert document["task_id"] == result.id
        assert {"children", "traceback"} <= set(document)


def test_135_on_message_needs_a_backend_that_is_told(app):
    @app.task
    def any(): ...

    with pytest.raises(ImproperlyConfigured, match="does not support on_message"):
        any.delay().get(on_message=print, timeout=0.01)
