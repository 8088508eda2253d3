"""Text is cut, filled and shown without failing."""

from __future__ import annotations

import uuid

import pytest

from taskq.utils import text
from taskq.utils.text import saferepr


class Broken:
    def __repr__(self) -> str:
        raise ValueError("no repr")


class Long:
    def __repr__(self) -> str:
        return "L" * 3000


@pytest.mark.parametrize(
    "value",
    [
        (),
        (1, "a", None, 2.5, True, b"x"),
        {"a": 1, "b": [1, 2], "c": {"d": (1,)}},
        [1, {2}, frozenset({3}), set(), frozenset(), {}],
        "it's",
        {(1, 2): "key"},
    ],
)
def test_small_values_are_shown_as_python_does(value: object) -> None:
    assert saferepr(value, maxlen=1024) == repr(value)


@pytest.mark.parametrize(
    ("value", "maxlen", "shown"),
    [
        ("x" * 2000, 20, "'xxxxxxxxxxxxxxxxxxxx...'"),
        (("x" * 2000,), 20, "('xxxxxxxxxxxxxxxxxxx...',)"),
        (["x" * 10] * 10, 30, "['xxxxxxxxxx', 'xxxxxxxxxx', 'x...', ...]"),
        (b"a" * 100, 20, "b'aaaaaaaaaaaaaaaaaaaa...'"),
        ({"k": "x" * 50}, 20, "{'k': 'xxxxxxxxxxxxxx...'}"),
    ],
)
def test_large_values_are_cut_and_closed(value: object, maxlen: int, shown: str) -> None:
    assert saferepr(value, maxlen=maxlen) == shown


def test_the_limit_holds_for_any_number_of_items() -> None:
    shown = saferepr(list(range(1_000_000)), maxlen=1024)
    assert shown.startswith("[0, 1, 2")
    assert shown.endswith(", ...]")
    assert len(shown) < 1100
    assert len(saferepr((Long(), Long()), maxlen=100)) < 120
    assert len(saferepr({i: i for i in range(10_000)}, maxlen=100)) < 120


def test_the_limit_holds_at_any_depth() -> None:
    deep: list[object] = []
    for _ in range(10_000):
        deep = [deep]
    assert saferepr(deep) == "[[[[...]]]]"
    assert saferepr([1, [2, [3]]], maxlevels=1) == "[1, [...]]"
    assert saferepr([[[[[1]]]]], maxlevels=0) == "[[[[[1]]]]]"
    assert saferepr((((((1,),),),),)) == "((((...,),),),)"


def test_recursion_is_shown() -> None:
    loop: list[object] = [1]
    loop.append(loop)
    assert saferepr(loop) == f"[1, <Recursion on list with id={id(loop)}>]"
    twice = [1]
    assert saferepr([twice, twice]) == "[[1], [1]]"


def test_a_broken_repr_breaks_nothing() -> None:
    assert saferepr((Broken(),), maxlen=2000).startswith("(<Unrepresentable")
    assert saferepr({Broken(): 1}).startswith("{<Unrepresentable")


def test_a_container_with_a_repr_of_its_own_keeps_it() -> None:
    class Money(tuple):
        def __repr__(self) -> str:
            return "EUR 5"

    assert saferepr(Money((5,))) == "EUR 5"


@pytest.mark.parametrize(
    ("name", "candidate"),
    [("redsi", "redis"), ("PREFROK", "prefork"), ("zzz", None)],
)
def test_closest(name: str, candidate: str | None) -> None:
    assert text.closest(name, ["redis", "rpc", "prefork"]) == candidate


def test_simple_format_fills_in_and_teaches() -> None:
    keys = {"h": "host", "n": lambda: "name"}
    assert text.simple_format("%n@%h 100%%", keys) == "name@host 100%"
    assert text.simple_format("", keys) == ""
    assert text.simple_format(None, keys) is None
    with pytest.raises(ValueError, match=r"%q.*known are .*%h"):
        text.simple_format("%q", keys)


def test_abbreviations() -> None:
    assert text.abbr("hello world", 8) == "hello..."
    assert text.abbr("hello world", 8, None) == "hello wo"
    assert text.abbr(None, 3) == "???"
    assert text.abbrtask("proj.tasks.module.add", 12) == "proj.t[.]add"
    assert text.abbrtask("add", 12) == "add"
    assert text.truncate("a b c d e", 5) == "a b..."
    assert text.truncate("abc") == "abc"


def test_layout() -> None:
    assert text.dedent("    a\n        b") == "a\n    b"
    assert text.indent("a\nb", 2) == "  a\n  b"
    assert text.join(["a", None, "", "b"]) == "a\nb"
    assert text.ensure_newlines("a") == "a\n\n"
    assert text.ensure_sep("-", "a-", 2) == "a--"
    assert text.fill_paragraphs("a b c\nd", 3) == "a b\nc\nd"
    assert text.pluralize(1, "task") == "task"
    assert text.pluralize(2, "task") == "tasks"
    assert text.str_to_list("a,b") == ["a", "b"]
    assert text.str_to_list(["a"]) == ["a"]
    assert text.pretty({"a": 1}) == "\n 'a': 1}"
    assert text.remove_repeating_from_task("proj.add", "proj.add(proj.x)") == "proj.add(x)"


def test_task_ids_are_random_uuids() -> None:
    ids = {text.build_task_id() for _ in range(200)}
    assert len(ids) == 200
    for id in ids:
        parsed = uuid.UUID(id)
        assert (str(parsed), parsed.version, parsed.variant) == (id, 4, uuid.RFC_4122)
