"""Groups: every member is sent, in order, with the group's id and its index."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from kombu.transport.memory import Channel

from taskq import _state
from taskq.app.base import Celery
from taskq.canvas import Signature, group, signature


@pytest.fixture
def app() -> Iterator[Celery]:
    Channel.queues.clear()  # the memory transport's queues are the process's
    with Celery("g", broker="memory://", backend="memory://", set_as_current=False) as app:
        yield app


@pytest.fixture
def add(app: Celery) -> Any:
    return app.task(name="m.add", shared=False)(lambda x, y=0: x + y)


def take_all(app: Celery, queue: str = "celery") -> list[Any]:
    messages = []
    with app.connection_for_read() as connection:
        while (message := connection.default_channel.basic_get(queue)) is not None:
            message.decode()
            messages.append(message)
    return messages


def test_building(add: Any) -> None:
    two = group(add.s(1, 1), add.s(2, 2))
    assert (two.task, two.subtask_type, len(two)) == ("celery.group", "group", 2)
    assert two.tasks == (add.s(1, 1), add.s(2, 2))
    assert group(add.s(i) for i in range(3)).tasks == [add.s(0), add.s(1), add.s(2)]
    assert group(two).tasks == two.tasks
    assert group(add.s(1)).tasks == [add.s(1)]
    assert type(group([dict(add.s(1))]).tasks[0]) is Signature
    assert group(add.s(1), countdown=3).options == {"countdown": 3}
    assert repr(two) == "group((m.add(1, 1), add(2, 2)))"
    assert repr(group()) == "group(<empty>)"
    with pytest.raises(TypeError):
        group(3)


def test_members_are_sent_in_order_with_id_and_index(app: Celery, add: Any) -> None:
    result = group(add.s(1), add.s(2)).apply_async((10,), queue="q", countdown=5)
    messages = take_all(app, "q")
    assert [message.payload[0] for message in messages] == [[10, 1], [10, 2]]
    assert [message.headers["group"] for message in messages] == [result.id] * 2
    assert [message.headers["group_index"] for message in messages] == [0, 1]
    assert [message.headers["id"] for message in messages] == [child.id for child in result]
    assert all(message.headers["eta"] for message in messages)
    assert all(message.headers["root_id"] == message.headers["id"] for message in messages)


def test_applying_twice_gives_new_ids(app: Celery, add: Any) -> None:
    two = group(add.s(1), add.s(2))
    first, second = two.apply_async(), two()
    assert first.id != second.id
    assert not {child.id for child in first} & {child.id for child in second}
    assert [task.id for task in two.tasks] == [None, None]


def test_inner_groups_are_flat_and_counted_through(app: Celery, add: Any) -> None:
    inner = group(add.s(2), add.s(3)).set(priority=5)
    result = group(add.s(1), inner, add.s(4, 4) | add.s(5)).apply_async()
    messages = take_all(app)
    assert [message.payload[0] for message in messages] == [[1], [2], [3], [4, 4]]
    assert [message.headers["group_index"] for message in messages[:3]] == [0, 1, 2]
    assert [message.properties["priority"] for message in messages[1:3]] == [5, 5]
    (last,) = messages[3].payload[2]["chain"]
    assert messages[3].headers["group"] is None
    assert (last["options"]["group_id"], last["options"]["group_index"]) == (result.id, 3)
    assert [child.id for child in result] == [
        *(message.headers["id"] for message in messages[:3]),
        last["options"]["task_id"],
    ]


def test_an_empty_group_gives_an_empty_result(app: Celery) -> None:
    for result in (group(app=app).apply_async(), group([], app=app)(), group(app=app).apply()):
        assert result.results == []
    assert take_all(app) == []


def test_links_of_the_call_are_refused(add: Any) -> None:
    with pytest.raises(TypeError, match="use a chord"):
        group(add.s(1)).apply_async(link=add.s(1))
    with pytest.raises(TypeError, match="individual tasks"):
        group(add.s(1)).apply_async(link_error=add.s(1))


def test_link_is_for_the_first_member_and_link_error_for_all(add: Any) -> None:
    two = group(add.s(1), add.s(2))
    two.link(add.s(3))
    assert two.link_error(add.s(9)) == (add.s(9), add.s(9))
    first, second = two.tasks
    assert first.options["link"][0].immutable
    assert "link" not in second.options
    assert first.options["link_error"] == second.options["link_error"] == [add.s(9)]


def test_freeze_fixes_ids_of_later_calls(app: Celery, add: Any) -> None:
    two = group(add.s(1), group(add.s(2), add.s(3)))
    result = two.freeze("ID", root_id="R", parent_id="P")
    assert (result.id, two.id, two.root_id, two.parent_id) == ("ID", "ID", "R", "P")
    assert [task.options["group_index"] for task in two.tasks] == [0, 1, 2]
    assert [task.root_id for task in two.tasks] == ["R"] * 3
    again = two.apply_async()
    assert (again.id, [c.id for c in again]) == ("ID", [c.id for c in result])
    assert [message.headers["group"] for message in take_all(app)] == ["ID"] * 3


def test_frozen_as_a_part_of_another_group(add: Any) -> None:
    two = group(add.s(1), add.s(2))
    two.freeze(group_id="outer", group_index=4)
    assert (two.options["group_id"], two.options["group_index"]) == ("outer", 4)
    assert [task.options["group_id"] for task in two.tasks] == ["outer", "outer"]


def test_a_group_sent_by_a_run_is_one_child_of_it(app: Celery, add: Any) -> None:
    task = app.tasks[add.name]
    _state.push_current_task(task)
    task.push_request(id="me", root_id="root", called_directly=False)
    try:
        result = group(add.s(1), add.s(2)).apply_async()
        assert task.request.children == [result]
        assert {m.headers["parent_id"] for m in take_all(app)} == {"me"}
        group(add.s(1)).apply_async(add_to_parent=False)
        assert len(task.request.children) == 1
    finally:
        task.pop_request()
        _state.pop_current_task()


def test_skew_sets_growing_countdowns(add: Any) -> None:
    three = group(add.s(i) for i in range(3)).skew(start=1, stop=2)
    assert [task.options["countdown"] for task in three.tasks] == [1.0, 2.0, 2.0]


def test_eager_application(app: Celery, add: Any) -> None:
    result = group(add.s(1), add.s(2)).apply((10,))
    assert result.get() == [11, 12]
    app.conf.task_always_eager = True
    assert group(add.s(1), add.s(2)).apply_async((5,)).get() == [6, 7]


def test_set_immutable_and_clone(add: Any) -> None:
    two = group(add.s(1), add.s(2))
    twin = two.clone((5,), {}, queue="q")
    assert [task.args for task in twin.tasks] == [(5, 1), (5, 2)]
    assert twin.options == {"queue": "q"}
    two.set_immutable(True)
    assert [task.immutable for task in two.tasks] == [True, True]


def test_from_its_encoding(app: Celery, add: Any) -> None:
    two = group(add.s(1), add.s(2) | add.s(3)).set(queue="q")
    again = signature(json.loads(json.dumps(two)), app=app)
    assert type(again) is group
    assert json.dumps(again) == json.dumps(two)
    assert again.app is app
