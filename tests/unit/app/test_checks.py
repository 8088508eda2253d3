"""Options of a call that make no sense are refused in the caller; the error says what to write."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import pytest
from kombu.exceptions import SerializerNotInstalled

from taskq import Celery
from taskq.exceptions import ImproperlyConfigured


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("checks", broker="memory://", backend=None, set_as_current=False)

    @app.task(name="add", lazy=False)
    def add(x: int, y: int) -> None: ...

    yield app
    app.close()


GIVEN = uuid.UUID(int=7)

#: Options of a call -> the error, and words of its text.
REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"link": 5}, TypeError, "link must be a signature or a list of signatures, not 5"),
    ({"link": "add"}, TypeError, "not 'add': write app.signature('add')"),
    ({"link": [["add"]]}, TypeError, "link must be a signature"),
    ({"link": [None]}, TypeError, "link must be a signature"),
    ({"link": print}, TypeError, "not <built-in function print>"),
    ({"link_error": 5}, TypeError, "link_error must be a signature"),
    ({"task_id": 5}, TypeError, "task_id must be text, not int: write str(5)"),
    ({"task_id": GIVEN}, TypeError, "task_id must be text, not UUID: write str(UUID("),
    ({"priority": "high"}, ValueError, "or 0 to 9 (Redis, the embedded broker), not 'high'"),
    ({"priority": [1]}, ValueError, "priority must be a whole number from 0 to 255"),
    ({"headers": ["x"]}, TypeError, "headers must be a mapping of names to values, not ['x']"),
    ({"headers": "x"}, TypeError, "headers must be a mapping of names to values, not 'x'"),
    ({"retry_policy": "x"}, TypeError, "retry_policy must be a mapping"),
    ({"retry_policy": {"max": 3}}, TypeError, "unknown key 'max' in a retry policy"),
    ({"queue": ["a"]}, ValueError, "['a'] cannot be the name of a queue: it is list, not text"),
    ({"eta": "tomorrow"}, ValueError, "eta: unable to parse date string 'tomorrow'"),
    ({"eta": 5}, TypeError, "eta must be a datetime or ISO 8601 text, not 5"),
    ({"countdown": "5"}, TypeError, "countdown must be a number of seconds, not str"),
    ({"countdown": float("nan")}, ValueError, "countdown=nan is no moment in the calendar"),
    ({"countdown": float("inf")}, OverflowError, "countdown=inf is no moment in the calendar"),
    ({"expires": float("nan")}, ValueError, "expires must be a number of seconds, not nan"),
    ({"expires": 1e15}, OverflowError, "expires=1000000000000000.0 is no moment"),
    ({"expires": timedelta(1)}, TypeError, "use .total_seconds()"),
]


@pytest.mark.parametrize(("options", "error", "text"), REFUSED, ids=lambda given: str(given)[:40])
def test_what_no_broker_and_no_worker_understands(
    app: Celery, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=re.escape(text)):
        app.tasks["add"].apply_async((1, 2), **options)


@pytest.mark.parametrize("option", ["link", "link_error"])
def test_a_task_is_no_signature(app: Celery, option: str) -> None:
    add = app.tasks["add"]
    for given in (add, [add]):
        with pytest.raises(TypeError, match=rf"{option} must be .*: write add\.s\(\)$"):
            add.apply_async((1, 2), **{option: given})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((1, 2), "task args must be a list or tuple, not int: for one argument write (1,)"),
        (("ab",), "task args must be a list or tuple, not str: for one argument write ('ab',)"),
        (([1, 2], [3]), "task keyword arguments must be a mapping, not list"),
        (([1],), "missing 1 required positional argument: 'y'"),
    ],
)
def test_arguments_that_are_no_list(app: Celery, arguments: Any, text: str) -> None:
    with pytest.raises(TypeError, match=re.escape(text)):
        app.tasks["add"].apply_async(*arguments)


def test_send_task_takes_a_name(app: Celery) -> None:
    with pytest.raises(TypeError, match=r"not <@task: add.*: write 'add', or call its apply_async"):
        app.send_task(app.tasks["add"], (1, 2))
    with pytest.raises(TypeError, match="send_task takes the name of a task, not None"):
        app.send_task(None)  # type: ignore[arg-type]  # what is tested


@pytest.mark.parametrize(
    "options",
    [
        {"priority": "5"}, {"priority": True}, {"priority": None}, {"link": ()}, {"link": {}},
        {"headers": [("a", 1)]}, {"eta": ""}, {"eta": "2030-01-01T00:00:00Z"}, {"countdown": -5},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_odd_but_understood(app: Celery, options: dict[str, Any]) -> None:
    app.tasks["add"].apply_async((1, 2), **options)


@pytest.mark.parametrize(
    ("routes", "error", "text"),
    [
        ("no.such.router", ModuleNotFoundError, "cannot be imported, 'no.such.router': No module"),
        ("os.nosuch", AttributeError, "task_routes names a router that cannot be imported"),
        (("a.*", None), Exception, "(pattern, route) pairs go into a list"),
        ({5: "q"}, ImproperlyConfigured, "expected the name of a task, a pattern or a compiled"),
        ([[("a", "q", 1)]], ImproperlyConfigured, "expected a pair of (pattern, route), got"),
        ([("bad.*",)], ImproperlyConfigured, "expected a pair of (pattern, route), got 'bad.*'"),
    ],
    ids=str,
)
def test_routes_that_cannot_be_read(
    app: Celery, routes: Any, error: type[Exception], text: str
) -> None:
    app.conf.task_routes = routes
    with pytest.raises(error, match=re.escape(text)):
        app.send_task("add", (1, 2))


@pytest.mark.parametrize(
    ("setting", "value", "text"),
    [
        ("accept_content", ["json", "jsno"], "accept_content names 'jsno'.*did you mean 'json'"),
        ("accept_content", [5], "accept_content names 5, which is not known here: known are json"),
        ("result_accept_content", ["auth"], "names 'auth'.*call app.setup_security"),
    ],
)
def test_a_worker_that_is_to_accept_what_nobody_can_read(
    app: Celery, setting: str, value: Any, text: str
) -> None:
    app.conf[setting] = value
    with (
        pytest.warns() if os.getuid() == 0 else nullcontext(),
        pytest.raises(SerializerNotInstalled, match=text),
    ):
        app.Worker(pool_cls="solo")
