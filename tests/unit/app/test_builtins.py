"""The celery.* tasks that every application has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kombu.transport.memory import Channel

from taskq.app.base import Celery
from taskq.canvas import group


@pytest.fixture
def app() -> Iterator[Celery]:
    Channel.queues.clear()  # the memory transport's queues are the process's
    with Celery("b", broker="memory://", backend="memory://", set_as_current=False) as app:
        yield app


@pytest.fixture
def add(app: Celery) -> Any:
    return app.task(name="add", shared=False)(lambda x, y=0: x + y)


def test_they_belong_to_each_app_alone(app: Celery) -> None:
    other = Celery("o", broker="memory://", set_as_current=False)
    assert app.tasks["celery.map"].app is app
    assert other.tasks["celery.map"].app is other


def test_backend_cleanup_cleans_the_backend(app: Celery) -> None:
    cleaned: list[bool] = []
    app.backend.cleanup = lambda: cleaned.append(True)  # type: ignore[method-assign]
    app.tasks["celery.backend_cleanup"]()
    assert cleaned == [True]


def test_map_and_starmap_run_all_items_in_one_task(app: Celery, add: Any) -> None:
    signature = dict(add.s())
    assert app.tasks["celery.map"](signature, [1, 2]) == [1, 2]
    assert app.tasks["celery.starmap"](signature, [[1, 2], [3, 4]]) == [3, 7]


def test_accumulate_gives_its_arguments_or_one(app: Celery) -> None:
    accumulate = app.tasks["celery.accumulate"]
    assert accumulate(1, 2) == (1, 2)
    assert accumulate(1, 2, index=0) == 1


def test_group_sends_its_members(app: Celery, add: Any) -> None:
    members = group(add.s(1), add.s(2))
    result = members.freeze()
    tasks = [dict(task) for task in members.tasks]
    outcome = app.tasks["celery.group"](tasks, result.as_tuple(), result.id, (10,))
    assert outcome == result.as_tuple()
    with app.connection_for_read() as connection:
        sent = [connection.default_channel.basic_get("celery") for _ in tasks]
    assert [message.headers["group"] for message in sent] == [result.id] * 2
    assert [message.headers["id"] for message in sent] == [child.id for child in result]
    assert [message.decode()[0] for message in sent] == [[10, 1], [10, 2]]


def test_chain_is_not_a_real_task(app: Celery) -> None:
    with pytest.raises(NotImplementedError):
        app.tasks["celery.chain"]()
