"""A context holds what came with the message, and defaults for the rest."""

from __future__ import annotations

import pytest

from taskq.context import Context

MESSAGE = {
    "lang": "py",
    "task": "proj.add",
    "id": "t1",
    "root_id": "t1",
    "parent_id": None,
    "group": "g1",
    "retries": 2,
    "timelimit": [30, 20],
    "argsrepr": "(1,)",
    "kwargsrepr": "{}",
    "origin": "gen1@host",
    "reply_to": "oid",
    "callbacks": [{"task": "cb"}],
    "tenant": "acme",
}


def test_fields_of_the_message_are_attributes() -> None:
    context = Context(MESSAGE, hostname="w@h")
    assert (context.id, context.retries, context.hostname) == ("t1", 2, "w@h")
    assert context.chord is None
    assert context.called_directly is True
    assert context.get("tenant") == "acme"
    assert context.get("nothing", 5) == 5
    with pytest.raises(AttributeError):
        context.nothing


def test_custom_fields_are_the_headers() -> None:
    assert Context(MESSAGE).headers == {"tenant": "acme"}
    assert Context(id="t1").headers is None
    assert Context(MESSAGE, headers={"own": 1}).headers == {"own": 1}
    assert Context(MESSAGE, headers={}).headers == {}


@pytest.mark.parametrize(
    ("timelimit", "hard", "soft"),
    [
        ([30, 20], 30, 20),
        ((None, 5), None, 5),
        ([], None, None),
        (None, None, None),
        (3, None, None),
    ],
)
def test_time_limits_mirror_the_pair(timelimit: object, hard: object, soft: object) -> None:
    context = Context(timelimit=timelimit)
    assert (context.time_limit, context.soft_time_limit) == (hard, soft)


def test_update_and_clear() -> None:
    context = Context(MESSAGE)
    context.update({"timelimit": [3, 2]}, note="x")
    assert (context.time_limit, context.note) == (3, "x")
    context.clear()
    assert context.id is None
    assert vars(context) == {}


def test_children_are_a_list_of_its_own() -> None:
    first, second = Context(), Context()
    first.children.append("r1")
    assert first.children == ["r1"]
    assert second.children == []


def test_execution_options_send_the_same_call_again() -> None:
    context = Context(
        MESSAGE, headers={"x-death": [1], "x-first-death-queue": "q", "tenant": "acme"}
    )
    options = context.as_execution_options()
    assert options["task_id"] == "t1"
    assert options["group_id"] == "g1"
    assert (options["time_limit"], options["soft_time_limit"]) == (30, 20)
    assert options["link"] == [{"task": "cb"}]
    assert options["headers"] == {"tenant": "acme"}
    assert options["retries"] == 2
    assert Context().as_execution_options()["headers"] is None
