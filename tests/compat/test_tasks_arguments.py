"""Behaviours 30 to 35: arguments are checked in the caller, and shown shortened or hidden."""

from __future__ import annotations

import logging

import pytest
from celery.app import trace


@pytest.fixture
def add(app):
    @app.task(name="add")
    def add(x, y):
        return x + y

    return add


@pytest.mark.parametrize("args", [(), (8,), (1, 2, 3)])
def test_030_too_few_or_too_many(add, sent, args):
    with pytest.raises(TypeError, match=r"\badd\(\)"):
        add.delay(*args)
    with pytest.raises(TypeError):
        add.apply_async(args)
    with pytest.raises(TypeError):
        add.s(*args).apply_async()
    assert sent == []
    add.delay(8, 8)
    assert [each.args for each in sent] == [(8, 8)]


def test_031_unknown_keywords(add, sent):
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        add.delay(1, z=2)
    with pytest.raises(TypeError, match="multiple values for argument 'x'"):
        add.apply_async((1,), {"x": 2})
    assert sent == []


def test_032_typing_off_for_a_task(app, worker, sent):
    @app.task(typing=False)
    def add(x, y):
        return x + y

    result = worker.finish(add.delay(8))
    assert (len(sent), result.state) == (1, "FAILURE")
    assert isinstance(result.result, TypeError)
    assert "missing 1 required positional argument: 'y'" in str(result.result)


def test_032_typing_off_for_an_app(app, worker):
    app.strict_typing = False

    @app.task
    def add(x, y):
        return x + y

    @app.task(typing=True)
    def strict(x, y):
        return x + y

    assert worker.finish(add.delay(8)).state == "FAILURE"
    with pytest.raises(TypeError):
        strict.delay(8)


def test_033_the_functions_signature(app, sent):
    @app.task
    def full(a, b=2, *rest, c, d=4, **more):
        pass

    @app.task(bind=True)
    def bound(self, a, *, only=None):
        pass

    @app.task
    def positional(a, b, /, c=3):
        pass

    fitting = [
        (full, (1,), {"c": 3}),
        (full, (1, 2, 3, 4), {"c": 3, "d": 4, "e": 5}),
        (full, (), {"a": 1, "c": 3}),
        (bound, (1,), {"only": 2}),
        (positional, (1, 2), {"c": 3}),
    ]
    refused = [
        (full, (1,), {}),
        (full, (), {"c": 3}),
        (bound, (), {}),
        (bound, (1, 2), {}),
        (bound, (1,), {"self": 2}),
    ]
    for task, args, kwargs in fitting:
        task.apply_async(args, kwargs)
    for task, args, kwargs in refused:
        with pytest.raises(TypeError):
            task.apply_async(args, kwargs)
    assert len(sent) == len(fitting)


def test_034_hidden_arguments(app, add, worker, sent, caplog):
    with caplog.at_level(logging.INFO, "celery"):
        first = worker.finish(add.apply_async((2, 3), argsrepr="(<secret-x>, <secret-y>)"))
        signature = add.s(2, y=4).set(kwargsrepr=repr({"y": "****"}))
        second = worker.finish(signature.delay())
        worker.stop()
    assert (first.result, second.result) == (5, 6)
    shown = [("(<secret-x>, <secret-y>)", "{}"), ("(2,)", "{'y': '****'}")]
    assert [(each.headers["argsrepr"], each.headers["kwargsrepr"]) for each in sent] == shown
    told = {"celery.worker.strategy": [], "celery.app.trace": []}
    for record in caplog.records:
        if record.name in told:
            told[record.name].append((record.data["args"], record.data["kwargs"]))
    assert told == {"celery.worker.strategy": shown, "celery.app.trace": shown}


def test_034_but_not_in_an_extended_result(app, add, worker):
    app.conf.result_extended = True
    result = worker.finish(add.apply_async((2, 3), argsrepr="(hidden)", kwargsrepr="{hidden}"))
    assert (result.args, result.kwargs) == ([2, 3], {})


def test_034_hidden_in_the_log_of_a_failure(app, worker, caplog):
    @app.task
    def fails(secret):
        raise ValueError("no")

    text, trace.LOG_FAILURE = trace.LOG_FAILURE, "%(name)s failed with %(args)s %(kwargs)s"
    try:
        with caplog.at_level(logging.ERROR, "celery"):
            worker.finish(fails.apply_async(("hunter2",), argsrepr="('***',)"))
            worker.stop()
    finally:
        trace.LOG_FAILURE = text
    logged = [each.data for each in caplog.records if each.name == "celery.app.trace"]
    assert [(each["args"], each["kwargs"]) for each in logged] == [("('***',)", "{}")]


@pytest.mark.parametrize(
    ("args", "kwargs", "argsrepr", "kwargsrepr"),
    [
        ((1, "two", None), {"k": 2.5}, "(1, 'two', None)", "{'k': 2.5}"),
        (([[[[1]]]],), {}, "([[[...]]],)", "{}"),
        ([1], {"a": [[[[2]]]]}, "[1]", "{'a': [[[...]]]}"),
        (({"a": {"b": {"c": 1}}},), {}, "({'a': {'b': {...}}},)", "{}"),
        (("x" * 2000,), {}, f"('{'x' * 1023}...',)", "{}"),
        ((), {"k": "z" * 2000}, "()", "{'k': '" + "z" * 1018 + "...'}"),
    ],
)
def test_035_default_representation(app, sent, args, kwargs, argsrepr, kwargsrepr):
    @app.task(typing=False)
    def take(*args, **kwargs):
        pass

    take.apply_async(args, kwargs)
    headers = sent[0].headers
    assert headers["argsrepr"] == argsrepr
    assert headers["kwargsrepr"] == kwargsrepr


def test_035_many_items_end_in_dots(app, sent):
    @app.task
    def take(items):
        pass

    take.delay(list(range(2000)))
    text = sent[0].headers["argsrepr"]
    assert text.startswith("([0, 1, 2, 3,") and text.endswith("..., ...],)")
    assert 1024 <= len(text) <= 1024 + len("..., ...],)")
