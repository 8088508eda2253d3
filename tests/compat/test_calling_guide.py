"""The examples of the Calling guide, run as they stand there.

Only what an example leaves open (`task`, `numbers`, a tuple in place of `1, 2`) is filled in.
"""

from datetime import datetime, timedelta, timezone

import pytest
from celery import group
from celery.result import AsyncResult
from celery.utils.log import get_logger

pytest_plugins = ["servers.fixtures"]


@pytest.fixture
def add(app):
    @app.task
    def add(x, y):
        return x + y

    return add


@pytest.fixture
def other_task(app):
    @app.task
    def other_task(value):
        return [value]

    return other_task


def test_118_guide_three_ways(app, worker, sent):
    @app.task
    def task(arg1, arg2, kwarg1=None):
        return [arg1, arg2, kwarg1]

    arg1, arg2 = 1, 2
    results = [
        task.delay(arg1, arg2, kwarg1="x"),
        task.apply_async(args=[arg1, arg2], kwargs={"kwarg1": "x"}),
        task.s(arg1, arg2, kwarg1="x").apply_async(),
        app.send_task(task.name, (arg1, arg2), {"kwarg1": "x"}),
    ]
    for result in results:
        assert worker.finish(result).get() == [1, 2, "x"]
    assert task(arg1, arg2, kwarg1="x") == [1, 2, "x"]
    assert len(sent) == 4


def test_136_guide_cheat_sheet(add, sent):
    now = datetime.now(timezone.utc)
    arg = 1
    add.delay(arg, y=2)
    add.apply_async((arg,), {"y": 2})
    add.apply_async((2, 2), countdown=10)
    add.apply_async((2, 2), eta=now + timedelta(seconds=10))
    add.apply_async((2, 2), countdown=60, expires=120)
    add.apply_async((2, 2), expires=now + timedelta(days=2))
    assert [(bool(m.headers["eta"]), bool(m.headers["expires"])) for m in sent] == [
        (False, False), (False, False), (True, False), (True, False), (True, True), (False, True),
    ]  # fmt: skip


def test_126_guide_link(add, worker):
    result = add.apply_async((2, 2), link=add.s(16))
    assert worker.finish(result).get() == 4
    assert worker.finish(result.children[0]).get() == 20


def test_127_guide_links(add, other_task, worker):
    result = worker.finish(add.apply_async((2, 2), link=[add.s(16), other_task.s()]))
    found = [worker.finish(child) for child in result.children]
    # On one side they are children, on the other a group of them; either way both have run.
    values = [each.get() for each in found]
    assert values in ([20, [4]], [[20, [4]]])


def test_130_guide_error_handler(app, worker, capsys, eventually):
    @app.task
    def add(x, y):
        raise KeyError("broken")

    seen = []

    @app.task
    def error_handler(uuid):
        result = AsyncResult(uuid)
        exc = result.get(propagate=False, disable_sync_subtasks=False)
        seen.append((uuid, repr(exc), "broken" in result.traceback))

    result = worker.finish(add.apply_async((2, 2), link_error=error_handler.s()))
    eventually(lambda: seen, "the error handler has run")
    assert seen == [(result.id, "KeyError('broken')", True)]


def test_136_guide_countdown(add, worker, sent):
    before = datetime.now(timezone.utc)
    result = add.apply_async((2, 2), countdown=0.2)
    assert worker.finish(result).get() == 4
    assert datetime.now(timezone.utc) - before >= timedelta(seconds=0.2)
    tomorrow = datetime.now(timezone.utc).replace(tzinfo=None) + timedelta(days=1)
    add.apply_async((2, 2), eta=tomorrow)
    assert sent[-1].headers["eta"] == tomorrow.isoformat()


def test_140_guide_expires(add, sent):
    kwargs = {}
    add.apply_async((10, 10), expires=60)
    add.apply_async((10, 10), kwargs, expires=datetime.now() + timedelta(days=1))
    assert all(message.headers["expires"] for message in sent)


def test_145_guide_retry(add, sent):
    add.apply_async((2, 2), retry=False)
    add.apply_async(
        (2, 2),
        retry=True,
        retry_policy={
            "max_retries": 3,
            "interval_start": 0,
            "interval_step": 0.2,
            "interval_max": 0.2,
        },
    )
    assert len(sent) == 2


def test_148_guide_connection_errors(app, add, caplog):
    logger = get_logger(__name__)
    app.conf.update(broker_url="redis://127.0.0.1:1/0", task_publish_retry=False)
    try:
        add.delay(2, 2)
    except add.OperationalError as exc:
        logger.exception("Sending task raised: %r", exc)
    assert "Sending task raised: OperationalError(" in caplog.text


def test_150_guide_serializer(add, worker):
    assert worker.finish(add.apply_async((10, 10), serializer="json")).get() == 20


def test_155_guide_compression(add, worker):
    assert worker.finish(add.apply_async((2, 2), compression="zlib")).get() == 4


def test_156_guide_connections(add, worker):
    numbers = [(2, 2), (4, 4)]
    results = []
    with add.app.pool.acquire(block=True) as connection:
        # `add.get_publisher(connection)` of the guide is gone from 5.7.
        publisher = add.app.amqp.Producer(connection)
        for args in numbers:
            res = add.apply_async(args, publisher=publisher)
            results.append(res)
    assert [worker.finish(res).get() for res in results] == [4, 8]


def test_156_guide_group(add, worker):
    worker.start()
    numbers = [(2, 2), (4, 4), (8, 8), (16, 16)]
    res = group(add.s(i, j) for i, j in numbers).apply_async()
    assert res.get(timeout=30) == [4, 8, 16, 32]


def test_158_guide_queue(add, sent):
    add.apply_async((2, 2), queue="priority.high")
    assert sent[0].routing_key == "priority.high"


def test_161_guide_ignore_result(add, worker):
    result = add.apply_async((1, 2), ignore_result=True)
    assert result.get() is None
    result = add.apply_async((1, 2), ignore_result=False)
    assert worker.finish(result).get() == 3
    # As printed in the guide the arguments are no list; both say so.
    with pytest.raises(TypeError):
        add.apply_async(1, 2, ignore_result=True)
