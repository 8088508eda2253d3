"""Messages sent together: when, which, and what is known when it fails."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import amqp
import pytest
from kombu.exceptions import EncodeError, OperationalError
from kombu.transport import memory

from taskq import Celery, chain, group
from taskq.exceptions import BatchPublishError
from taskq.signals import after_task_publish, before_task_publish

QUEUE = "together"


@pytest.fixture(params=["memory", "sqlite"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Celery]:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/q.db"
    app = make_app(url)
    yield app
    app.close()


def make_app(url: str, **settings: Any) -> Celery:
    app = Celery("together", broker=url, backend=None, set_as_current=False)
    app.conf.update(task_default_queue=QUEUE, **settings)

    @app.task(name="add", lazy=False)
    def add(x: int, y: int) -> int:
        return x + y

    return app


def arrived(app: Celery) -> list[tuple[str, list[Any]]]:
    """(id, args) of the messages in the queue, which is empty afterwards."""
    found = []
    with app.connection_for_read() as connection:
        queue = app.amqp.queues[QUEUE](connection.default_channel)
        queue.declare()
        while (message := queue.get(no_ack=True)) is not None:
            found.append((message.headers["id"], message.decode()[0]))
    return found


def test_everything_leaves_at_the_end_of_the_block_in_order(app: Celery) -> None:
    add = app.tasks["add"]
    with app.pipeline() as pipeline:
        results = [add.delay(n, 0) for n in range(3)]
        results.append(app.send_task("add", (3, 0)))
        results.append(add.s(4, 0).apply_async())
        assert len(pipeline) == 5
        assert arrived(app) == []
    assert arrived(app) == [(result.id, [n, 0]) for n, result in enumerate(results)]


def test_an_error_in_the_block_sends_nothing(app: Celery) -> None:
    with pytest.raises(ZeroDivisionError), app.pipeline():
        app.tasks["add"].delay(1, 1)
        raise ZeroDivisionError
    app.tasks["add"].delay(2, 2)
    assert [args for _, args in arrived(app)] == [[2, 2]]


def test_an_inner_block_joins_the_outer_one(app: Celery) -> None:
    add = app.tasks["add"]
    with app.pipeline():
        add.delay(0, 0)
        with app.pipeline():
            add.delay(1, 0)
        with pytest.raises(ZeroDivisionError), app.pipeline():
            add.delay(99, 0)
            raise ZeroDivisionError
        group(add.s(2, 0), add.s(3, 0)).apply_async()
        assert arrived(app) == []
    assert [args[0] for _, args in arrived(app)] == [0, 1, 2, 3]


def test_what_cannot_be_written_fails_where_it_is_called(app: Celery) -> None:
    with app.pipeline():
        app.tasks["add"].delay(1, 0)
        with pytest.raises(EncodeError):
            app.tasks["add"].delay(object(), 0)
    assert len(arrived(app)) == 1


def test_arguments_are_those_of_the_call(app: Celery) -> None:
    argument = [1]
    with app.pipeline():
        app.tasks["add"].delay(argument, 0)
        argument.append(2)
    assert arrived(app)[0][1] == [[1], 0]


def test_one_call_of_its_own_producer_is_sent_at_once(app: Celery) -> None:
    with app.producer_or_acquire() as producer, app.pipeline():
        app.tasks["add"].apply_async((1, 0), producer=producer)
        assert len(arrived(app)) == 1


def test_a_pipeline_with_a_producer_sends_with_it(app: Celery) -> None:
    with app.producer_or_acquire() as producer, app.pipeline(), app.pipeline(producer):
        app.tasks["add"].delay(1, 0)
    assert len(arrived(app)) == 1


def test_other_threads_and_empty_blocks(app: Celery) -> None:
    with app.pipeline():
        pass
    with app.pipeline():
        app.tasks["add"].delay(1, 0)
    assert len(arrived(app)) == 1


def test_signals_are_sent_for_each_message_when_it_is_sent(app: Celery) -> None:
    events: list[tuple[str, int]] = []

    def before(body: Any, **_: Any) -> None:
        events.append(("before", body[0][0]))

    def after(body: Any, **_: Any) -> None:
        events.append(("after", body[0][0]))

    before_task_publish.connect(before)
    after_task_publish.connect(after)
    try:
        with app.pipeline():
            app.tasks["add"].delay(1, 0)
            app.tasks["add"].delay(2, 0)
            assert events == [("before", 1), ("before", 2)]
    finally:
        before_task_publish.disconnect(before)
        after_task_publish.disconnect(after)
    assert events[2:] == [("after", 1), ("after", 2)]


class TestDelayMany:
    def test_sends_each_item_as_arguments(self, app: Celery) -> None:
        results = app.tasks["add"].delay_many(((n, 0) for n in range(5)), priority=3)
        assert arrived(app) == [(result.id, [n, 0]) for n, result in enumerate(results)]

    def test_an_item_that_is_no_tuple_sends_nothing(self, app: Celery) -> None:
        with pytest.raises(TypeError, match="tuples of arguments, not 'xy'"):
            app.tasks["add"].delay_many([(1, 2), "xy"])
        assert arrived(app) == []

    def test_arguments_are_checked(self, app: Celery) -> None:
        with pytest.raises(TypeError):
            app.tasks["add"].delay_many([(1, 2), (1, 2, 3)])
        assert arrived(app) == []

    def test_eager(self) -> None:
        app = make_app("memory://", task_always_eager=True)
        results = app.tasks["add"].delay_many([(1, 2), (3, 4)])
        assert [result.get() for result in results] == [3, 7]


def test_a_group_with_chains_and_links_is_one_batch(app: Celery) -> None:
    add = app.tasks["add"]
    linked = add.s(1, 0)
    linked.link(add.s(5))
    result = group(linked, chain(add.s(2, 0), add.s(1))).apply_async()
    assert [args[0] for _, args in arrived(app)] == [1, 2]
    assert len(result.results) == 2


def test_sqlite_stores_a_pipeline_in_one_transaction(tmp_path: Path) -> None:
    app = make_app(f"sqlite:///{tmp_path}/q.db")
    app.tasks["add"].delay(0, 0)
    watcher = sqlite3.connect(tmp_path / "q.db")
    versions = set()

    def look(**_: Any) -> None:
        versions.add(watcher.execute("PRAGMA data_version").fetchone()[0])

    after_task_publish.connect(look)
    look()
    try:
        app.tasks["add"].delay_many([(n, 0) for n in range(50)])
    finally:
        after_task_publish.disconnect(look)
        watcher.close()
    assert len(versions) == 2
    assert len(arrived(app)) == 51
    app.close()


def test_a_transport_without_batches_says_which_were_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app("memory://", task_publish_retry=False)
    put = memory.Channel._put
    sent: list[Any] = []

    def put_three(self: Any, *args: Any, **kwargs: Any) -> Any:
        if len(sent) == 3:
            raise amqp.ConnectionError("cut")
        sent.append(args)
        return put(self, *args, **kwargs)

    ids = [f"id{n}" for n in range(5)]
    announced: list[str] = []

    def after(headers: Any, **_: Any) -> None:
        announced.append(headers["id"])

    after_task_publish.connect(after)
    monkeypatch.setattr(memory.Channel, "_put", put_three)
    try:
        with pytest.raises(BatchPublishError, match="3 calls were sent") as caught, app.pipeline():
            for id in ids:
                app.tasks["add"].apply_async((1, 0), task_id=id)
    finally:
        after_task_publish.disconnect(after)
    assert isinstance(caught.value, OperationalError)
    assert caught.value.sent_ids == announced == ids[:3]
    assert caught.value.unknown_ids == ids[3:4]
    app.close()
