"""Signatures: what they hold, how they are derived, sent and encoded."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from kombu.transport.memory import Channel

from taskq.app.base import Celery
from taskq.canvas import (
    Signature,
    group,
    maybe_signature,
    maybe_subtask,
    maybe_unroll_group,
    signature,
    subtask,
    task_name_from,
)
from taskq.exceptions import NotRegistered
from taskq.utils.abstract import CallableSignature
from taskq.utils.serialization import pickle_dumps, pickle_loads


@pytest.fixture
def app() -> Iterator[Celery]:
    Channel.queues.clear()  # the memory transport's queues are the process's
    with Celery("s", broker="memory://", backend="memory://", set_as_current=False) as app:
        yield app


@pytest.fixture
def add(app: Celery) -> Any:
    return app.task(name="proj.add", shared=False)(lambda x, y=0: x + y)


def take(app: Celery, queue: str = "celery") -> Any:
    with app.connection_for_read() as connection:
        return connection.default_channel.basic_get(queue)


def test_it_is_a_dict_with_the_keys_of_the_wire(add: Any) -> None:
    sig = add.signature((1,), {"y": 2}, countdown=3)
    assert json.loads(json.dumps(sig)) == {
        "task": "proj.add",
        "args": [1],
        "kwargs": {"y": 2},
        "options": {"countdown": 3},
        "subtask_type": None,
        "immutable": False,
    }
    assert list(sig) == ["task", "args", "kwargs", "options", "subtask_type", "immutable"]
    assert (sig.task, sig.name, sig.args, sig.kwargs) == ("proj.add", "proj.add", (1,), {"y": 2})
    assert (sig.options, sig.subtask_type, sig.immutable) == ({"countdown": 3}, None, False)
    assert (sig.id, sig.parent_id, sig.root_id) == (None, None, None)
    assert isinstance(sig, CallableSignature)


def test_attributes_write_through(add: Any) -> None:
    sig = add.s(1)
    sig.args, sig.id = (7,), "me"
    assert sig["args"] == (7,)
    assert sig["options"] == {"task_id": "me"}
    assert Signature.args.__doc__ and Signature.id.__doc__


def test_signature_takes_tasks_names_dicts_and_signatures(app: Celery, add: Any) -> None:
    assert signature(add, (1,)).type == app.tasks["proj.add"]
    named = signature("far.away", args=(1,), kwargs={"a": 2}, countdown=3, immutable=True, app=app)
    assert (named.args, named.options, named.immutable) == ((1,), {"countdown": 3}, True)
    assert signature("x", (1,), {}, {"a": 1}, b=2).options == {"a": 1, "b": 2}
    decoded = signature({"task": "proj.add"}, app=app)
    assert (decoded.args, decoded.kwargs, decoded.options) == ((), {}, {})
    assert decoded.type is app.tasks["proj.add"]
    again = signature(named)
    assert again == named
    assert again is not named
    assert subtask is signature
    assert maybe_subtask is maybe_signature
    assert task_name_from(add) == task_name_from("proj.add") == "proj.add"


def test_maybe_signature(app: Celery, add: Any) -> None:
    sig = add.s(1)
    assert maybe_signature(None) is None
    assert maybe_signature(sig) is sig
    assert maybe_signature(sig, clone=True) is not sig
    assert maybe_signature({"task": "x"}, app=app).app is app


def test_clone_puts_arguments_first_and_new_options_win(add: Any) -> None:
    sig = add.signature((1,), {"a": 1, "b": 1}, queue="one", priority=1)
    twin = sig.clone((5,), {"b": 2}, queue="two")
    assert (twin.args, twin.kwargs) == ((5, 1), {"a": 1, "b": 2})
    assert twin.options == {"queue": "two", "priority": 1}
    assert sig.options == {"queue": "one", "priority": 1}
    assert sig.partial((5,)).args == (5, 1)
    assert twin._type is sig._type


def test_an_immutable_one_takes_options_only(add: Any) -> None:
    twin = add.si(1).clone((5,), {"y": 2}, countdown=2)
    assert (twin.args, twin.kwargs, twin.options) == ((1,), {}, {"countdown": 2})


def test_replace_and_set(add: Any) -> None:
    sig = add.s(1).set(queue="q")
    assert sig.replace(args=(3,)).args == (3,)
    assert sig.replace(kwargs={"y": 1}, options={}).options == {}
    assert sig.args == (1,)
    assert sig.set(immutable=True, countdown=1) is sig
    assert (sig.immutable, sig.options) == (True, {"queue": "q", "countdown": 1})


def test_links(add: Any) -> None:
    sig = add.s(1)
    assert sig.link(add.s(2)) == add.s(2)
    sig.link(add.s(2))
    sig.link(add.s(3))
    assert sig.on_error(add.s(9)) is sig
    assert sig.link_error(add.s(9)) == add.s(9)
    assert sig.options == {"link": [add.s(2), add.s(3)], "link_error": [add.s(9)]}
    twin = sig.clone()
    twin.link(add.s(4))
    assert len(sig.options["link"]) == 2
    sig.options["link"][0].link(add.s(7))
    assert [s.args for s in sig.flatten_links()] == [(1,), (2,), (7,), (3,)]
    sig.extend_list_option("link", [add.s(3)])
    assert len(sig.options["link"]) == 3


def test_a_link_given_as_one_signature_becomes_a_list(add: Any) -> None:
    sig = add.s(1).set(link=add.s(2))
    sig.link(add.s(3))
    assert sig.options["link"] == [add.s(2), add.s(3)]


def test_freeze_decides_the_id_and_the_place_in_a_workflow(app: Celery, add: Any) -> None:
    sig = add.s(1)
    result = sig.freeze(
        "ID", group_id="G", chord=add.s(3), root_id="R", parent_id="P", group_index=4
    )
    assert (result.id, sig.id) == ("ID", "ID")
    assert result.app is app
    assert sig.options == {
        "task_id": "ID",
        "root_id": "R",
        "parent_id": "P",
        "reply_to": app.thread_oid,
        "group_id": "G",
        "chord": add.s(3),
        "group_index": 4,
    }
    assert add.s(1).set(task_id="mine", group_id="X").freeze("ID", group_id="G").id == "mine"
    assert sig.apply_async().id == "ID"


def test_apply_async_of_a_registered_and_of_an_unknown_task(app: Celery, add: Any) -> None:
    result = add.s(1).apply_async((2,), queue="celery", priority=3)
    message = take(app)
    assert message.headers["id"] == result.id
    assert message.headers["ignore_result"] is False
    assert message.decode()[0] == [2, 1]
    unknown = app.signature("far.away", (1,))
    unknown.delay(5)
    message = take(app)
    assert message.headers["task"] == "far.away"
    assert message.decode()[0] == [5, 1]
    assert unknown.AsyncResult is app.AsyncResult
    with pytest.raises(NotRegistered):
        unknown()
    with pytest.raises(NotRegistered):
        unknown.apply()


def test_wrong_arguments_are_found_when_a_signature_is_sent(add: Any) -> None:
    with pytest.raises(TypeError):
        add.s(1, 2, 3).apply_async()


def test_calling_applying_and_inverting(app: Celery, add: Any) -> None:
    assert add.s(1)(4) == 5
    assert add.s(1).apply((4,)).get() == 5
    app.conf.task_always_eager = True
    assert ~add.s(1, 2) == 3


def test_a_frozen_group_id_is_not_changed_by_a_call(app: Celery, add: Any) -> None:
    sig = add.s(1)
    sig.freeze(group_id="first")
    sig.apply_async(group_id="second")
    assert take(app).headers["group"] == "first"


def test_stamps_given_as_options_are_carried_through(app: Celery, add: Any) -> None:
    sig = add.s(1).set(stamped_headers=["a"], a=1)
    sig.apply_async(stamped_headers=["b", "a"], b=2)
    headers = take(app).headers
    assert headers["stamped_headers"] == ["a", "b"]
    assert headers["stamps"] == {"a": 1, "b": 2}


def test_copies_and_pickles(add: Any) -> None:
    sig = add.s(1, [2])
    for whole in (sig, sig | add.s(3), group([sig, sig])):
        back = pickle.loads(pickle.dumps(whole))
        assert type(back) is type(whole)
        assert back == whole
        data = pickle_dumps(whole)
        assert b"celery.canvas:signature" in data
        assert b"taskq." not in data
        assert pickle_loads(data) == whole
    assert type(copy.deepcopy(sig)) is dict
    assert signature(copy.deepcopy(sig)) == sig
    shallow = copy.copy(sig)
    assert type(shallow) is Signature
    assert shallow._type is sig._type
    assert sig.__json__() == dict(sig)


def test_text(add: Any) -> None:
    assert repr(add.s(1, y=2)) == "proj.add(1, y=2)"
    assert add.si(1).reprcall(4) == "proj.add(4, 1)"


def test_or_with_something_else_is_a_type_error(add: Any) -> None:
    with pytest.raises(TypeError):
        add.s(1) | 3


def test_types_are_registered_by_name() -> None:
    assert set(Signature.TYPES) >= {"chain", "group"}

    @Signature.register_type("custom")
    class Custom(Signature):
        @classmethod
        def from_dict(cls, d: Any, app: Any = None) -> Custom:
            return cls(d, app=app)

    try:
        assert type(maybe_signature({"task": "x", "subtask_type": "custom"})) is Custom
    finally:
        del Signature.TYPES["custom"]


def test_maybe_unroll_group(add: Any) -> None:
    from taskq.canvas import group

    assert maybe_unroll_group(group(add.s(1))) == add.s(1)
    two = group(add.s(1), add.s(2))
    assert maybe_unroll_group(two) is two
