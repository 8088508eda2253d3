"""Chains: built flat, sent as their first step with the others on board."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from kombu.transport.memory import Channel

from taskq.app.base import Celery
from taskq.canvas import Signature, _chain, chain, group, signature


@pytest.fixture
def app() -> Iterator[Celery]:
    Channel.queues.clear()  # the memory transport's queues are the process's
    with Celery("c", broker="memory://", backend="memory://", set_as_current=False) as app:
        yield app


@pytest.fixture
def add(app: Celery) -> Any:
    return app.task(name="m.add", shared=False)(lambda x, y=0, **_: x + y)


def take(app: Celery, queue: str = "celery") -> Any:
    with app.connection_for_read() as connection:
        message = connection.default_channel.basic_get(queue)
        if message is not None:
            message.decode()
        return message


def test_building(add: Any) -> None:
    steps = chain(add.s(1, 1), add.s(2), add.s(3))
    assert isinstance(steps, _chain)
    assert steps == (add.s(1, 1) | add.s(2) | add.s(3)) == chain([add.s(1, 1), add.s(2), add.s(3)])
    assert json.loads(json.dumps(steps))["kwargs"]["tasks"][1]["args"] == [2]
    assert (steps.task, steps.subtask_type, steps.args) == ("celery.chain", "chain", ())
    assert chain(add.s(i) for i in range(3)).tasks == [add.s(0), add.s(1), add.s(2)]
    assert repr(steps) == "m.add(1, 1) | add(2) | add(3)"
    assert chain(add.s(1), add.s(2), task_id="x").options == {"task_id": "x"}


def test_one_step_is_that_step_and_none_does_nothing(add: Any) -> None:
    assert chain(add.s(1)) == chain([add.s(1)]) == add.s(1)
    assert type(chain(add.s(1))) is Signature
    empty = chain()
    assert repr(empty).startswith("<chain@0x")
    assert [empty(), empty.apply_async(), empty.apply(), empty.freeze()] == [None] * 4
    assert (empty | add.s(1)) == add.s(1)


def test_nested_chains_are_flat(add: Any) -> None:
    inner = add.s(2) | add.s(3)
    assert repr(chain(add.s(1), inner, add.s(4))) == "m.add(1) | add(2) | add(3) | add(4)"
    assert repr(inner | inner) == "m.add(2) | add(3) | add(2) | add(3)"
    inner.on_error(add.s(9))
    inner.link(add.s(8))
    flat = add.s(1) | inner
    assert [step.options for step in flat.tasks] == [
        {},
        {"link_error": [add.s(9)]},
        {"link": [add.s(8)], "link_error": [add.s(9)]},
    ]


def test_operators_make_copies(add: Any) -> None:
    first, second = add.s(1), add.s(2)
    both = first | second
    longer = both | add.s(3)
    both.tasks[0].set(queue="q")
    assert (first.options, len(both.tasks), len(longer.tasks)) == ({}, 2, 3)
    assert longer.tasks[0].options == {}


def test_what_is_no_signature_is_a_type_error(add: Any) -> None:
    with pytest.raises(TypeError):
        chain(add.s(1), 3)
    with pytest.raises(TypeError):
        (add.s(1) | add.s(2)) | 3


def test_groups_of_one_are_unrolled_and_empty_ones_left_out(app: Celery, add: Any) -> None:
    assert (add.s(1) | group(add.s(2))) == (add.s(1) | add.s(2))
    assert repr(add.s(1) | group(add.s(2), add.s(3))) == "m.add(1) | group((add(2), add(3)))"
    assert repr(chain(add.s(1), group(), add.s(2))) == "m.add(1) | add(2)"
    result = (add.s(1, 1) | group(app=app)).apply_async()
    assert take(app).headers["id"] == result.id


def test_only_the_first_step_is_sent_with_the_others_in_reverse(app: Celery, add: Any) -> None:
    result = chain(add.s(1, 2), add.s(3), add.s(4)).apply_async()
    message = take(app)
    assert take(app) is None
    args, kwargs, embed = message.payload
    assert (args, kwargs) == ([1, 2], {})
    assert [step["args"] for step in embed["chain"]] == [[4], [3]]
    last, middle = embed["chain"]
    assert last["options"] == {"task_id": result.id, "reply_to": app.thread_oid}
    assert middle["options"]["task_id"] == result.parent.id
    assert message.headers["id"] == result.parent.parent.id == message.headers["root_id"]
    assert result.parent.parent.parent is None


def test_arguments_and_options_of_a_call(app: Celery, add: Any) -> None:
    steps = add.s(1) | add.s(2)
    result = steps.apply_async(
        (5,),
        {"extra": 1},
        task_id="last",
        queue="q",
        countdown=9,
        link=add.s(8),
        link_error=add.s(9),
        root_id="root",
        parent_id="parent",
        group_id="G",
        group_index=2,
    )
    assert result.id == "last"
    message = take(app, "q")
    args, kwargs, embed = message.payload
    assert (args, kwargs) == ([5, 1], {"extra": 1})
    assert message.headers["eta"]
    assert (message.headers["root_id"], message.headers["parent_id"]) == ("root", "parent")
    assert message.headers["group"] is None
    assert embed["callbacks"] is None
    assert [sig["args"] for sig in embed["errbacks"]] == [[9]]
    options = embed["chain"][0]["options"]
    assert (options["task_id"], options["group_id"], options["group_index"]) == ("last", "G", 2)
    assert [sig["args"] for sig in options["link"]] == [[8]]
    assert [sig["args"] for sig in options["link_error"]] == [[9]]
    assert options["root_id"] == "root"
    assert "parent_id" not in options
    assert "queue" not in options


def test_the_chain_s_own_options_are_for_the_first_step(app: Celery, add: Any) -> None:
    (add.s(1, 1).set(queue="a") | add.s(2)).set(queue="b").apply_async(priority=3)
    message = take(app, "b")
    assert message.properties["priority"] == 3
    steps = add.s(1, 1) | add.s(2)
    steps.link(add.s(8))
    steps.link_error(add.s(9))
    steps.apply_async()
    embed = take(app).payload[2]
    assert [sig["args"] for sig in embed["errbacks"]] == [[9]]
    assert [sig["args"] for sig in embed["chain"][0]["options"]["link"]] == [[8]]


def test_applying_twice_gives_new_ids_and_leaves_the_chain_alone(app: Celery, add: Any) -> None:
    steps = add.s(1, 1) | add.s(2)
    before = json.dumps(steps)
    assert steps.apply_async().id != steps.apply_async().id
    assert json.dumps(steps) == before


def test_freeze_fixes_the_ids_of_later_calls(app: Celery, add: Any) -> None:
    steps = add.s(1, 1) | (add.s(2) | add.s(3))
    result = steps.freeze("ID", group_id="G", root_id="R", parent_id="P", group_index=4)
    assert (result.id, steps.id) == ("ID", "ID")
    assert [step.id for step in steps.tasks] == [result.parent.parent.id, result.parent.id, "ID"]
    assert [step.options.get("group_id") for step in steps.tasks] == [None, None, "G"]
    assert [step.root_id for step in steps.tasks] == ["R"] * 3
    again = steps.apply_async()
    assert (again.id, again.parent.id) == ("ID", result.parent.id)
    assert take(app).headers["id"] == result.parent.parent.id


def test_steps_a_caller_passes_on_run_after_ours(app: Celery, add: Any) -> None:
    (add.s(1, 1) | add.s(2)).apply_async(chain=[dict(add.s(7)), dict(add.s(6))])
    assert [step["args"] for step in take(app).payload[2]["chain"]] == [[7], [6], [2]]


def test_a_group_at_the_end(app: Celery, add: Any) -> None:
    result = (add.s(1, 1) | group(add.s(2), add.s(3) | add.s(4))).apply_async()
    message = take(app)
    assert result.parent.id == message.headers["id"]
    (encoded,) = message.payload[2]["chain"]
    assert encoded["subtask_type"] == "group"
    assert encoded["options"] == {"task_id": result.id, "root_id": None, "parent_id": None}
    members = encoded["kwargs"]["tasks"]
    assert [member["options"].get("group_index") for member in members] == [0, None]
    assert [child.id for child in result] == [
        members[0]["options"]["task_id"],
        members[1]["options"]["task_id"],
    ]


def test_a_group_before_another_step_needs_a_chord(add: Any) -> None:
    with pytest.raises(NotImplementedError, match="chord"):
        add.s(1) | group(add.s(1), add.s(2)) | add.s(3)


def test_calling_sends_with_arguments(app: Celery, add: Any) -> None:
    result = (add.s(1) | add.s(2))(5)
    message = take(app)
    assert message.payload[0] == [5, 1]
    assert result.parent.id == message.headers["id"]


def test_protocol_1_nests_the_steps_as_callbacks(app: Celery, add: Any) -> None:
    app.conf.task_protocol = 1
    chain(add.s(1, 1), add.s(2), add.s(3)).apply_async()
    (callback,) = take(app).payload["callbacks"]
    assert callback["args"] == [2]
    assert [sig["args"] for sig in callback["options"]["link"]] == [[3]]


def test_eager_application(app: Celery, add: Any) -> None:
    result = (add.s() | add.s(3) | add.si(1, 1)).apply((5,), {"y": 2}, task_id="last")
    assert (result.id, result.get(), result.parent.get(), result.parent.parent.get()) == (
        "last",
        2,
        10,
        7,
    )
    app.conf.task_always_eager = True
    assert (add.s(1, 1) | add.s(2)).apply_async().get() == 4
    assert (add.s(1, 1) | group(add.s(2), add.s(3))).apply_async().get() == [4, 5]


def test_an_eager_chain_stops_at_the_error_of_a_step(app: Celery, add: Any) -> None:
    fail = app.task(name="fail", shared=False)(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        (fail.s() | add.si(1, 1)).apply()


def test_from_its_encoding(app: Celery, add: Any) -> None:
    steps = (add.s(1, 1) | add.s(2)).set(queue="q")
    again = signature(json.loads(json.dumps(steps)), app=app)
    assert type(again) is _chain
    assert [type(step) for step in again.tasks] == [Signature, Signature]
    assert json.dumps(again) == json.dumps(steps)
    assert again.app is app


def test_clone_gives_arguments_to_the_first_step(add: Any) -> None:
    steps = add.s(1) | add.s(2)
    twin = steps.clone((5,), {"y": 1}, queue="q")
    assert (twin.tasks[0].args, twin.tasks[0].kwargs) == ((5, 1), {"y": 1})
    assert twin.options == {"queue": "q"}
    assert steps.tasks[0].args == (1,)
    assert [step.args for step in steps.unchain_tasks()] == [(1,), (2,)]
