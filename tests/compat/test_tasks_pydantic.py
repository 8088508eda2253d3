"""Behaviours 61 to 71: arguments and results that are pydantic models."""

from __future__ import annotations

import sys
from typing import List, Optional, Union  # noqa: UP035  # the spellings under test

import pytest
from celery.exceptions import ImproperlyConfigured
from kombu.exceptions import EncodeError
from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator


class Arg(BaseModel):
    value: int


class More(Arg):
    extra: int = 0


class Other(BaseModel):
    text: str


class Choosy(BaseModel):
    """Hides what it is told about its validation in a list."""

    value: int

    @field_validator("value")
    @classmethod
    def _note(cls, value: int, info: ValidationInfo) -> int:
        CONTEXTS.append(info.context)
        return value


CONTEXTS: list = []


class Hiding(BaseModel):
    value: int
    secret: str = Field(default="", exclude=True)


class Stepping(BaseModel):
    """Validating its own dump gives another one."""

    value: int

    @field_validator("value")
    @classmethod
    def _step(cls, value: int) -> int:
        return value + 1


def seen_by(app, annotation, **options):
    """A task with one annotated argument, and the list of what it gets."""
    seen = []

    def task(arg):
        seen.append(arg)

    task.__annotations__["arg"] = annotation
    return app.task(pydantic=True, name=f"takes-{annotation!r}", **options)(task), seen


def test_061_arguments_are_models(app, worker):
    seen = []

    @app.task(pydantic=True)
    def task(arg: Arg, *, named: Arg):
        seen.append((arg, named))

    worker.finish(task.delay({"value": "1"}, named={"value": 2}))
    assert seen == [(Arg(value=1), Arg(value=2))]


@pytest.mark.parametrize("annotation", [Optional[Arg], Arg | None, None | Arg])  # noqa: UP045
def test_061_optional(app, annotation):
    task, seen = seen_by(app, annotation)
    task({"value": 1})
    task(None)
    assert seen == [Arg(value=1), None]


def test_061_none_is_no_model(app):
    task, seen = seen_by(app, Arg)
    with pytest.raises(ValidationError):
        task(None)
    assert seen == []


def test_061_bound_and_default(app, worker):
    seen = []

    @app.task(pydantic=True, bind=True)
    def task(self, arg: Arg, other: Arg = "default"):
        seen.append((self.name, arg, other))

    worker.finish(task.delay({"value": 1}))
    assert seen == [(task.name, Arg(value=1), "default")]


def test_061_errors_fail_the_task(app, worker):
    task, seen = seen_by(app, Arg)
    result = worker.finish(task.delay({"value": "x"}))
    assert result.state == "FAILURE"
    assert type(result.result) is Exception
    assert "ValidationError" in str(result.result)
    assert "unable to parse string as an integer" in result.traceback
    assert seen == []


def test_061_errors_are_autoretried(app, worker):
    retries = []

    class Base(app.Task):
        def on_retry(self, exc, *arguments):
            retries.append(type(exc))

    task, _ = seen_by(
        app, Arg, base=Base, autoretry_for=(ValidationError,),
        retry_kwargs={"max_retries": 2, "countdown": 0},
    )  # fmt: skip
    worker.finish(task.delay({}))
    assert retries == [ValidationError] * 2


@pytest.mark.parametrize("annotation", [int, dict, Union[Arg, Other], List[Arg], dict[str, Arg]])  # noqa: UP006
def test_062_other_annotations(app, annotation):
    task, seen = seen_by(app, annotation)
    task({"value": 1})
    assert seen == [{"value": 1}]


def test_062_names_that_cannot_be_resolved(app):
    task, seen = seen_by(app, "Nowhere")
    task({"value": 1})
    assert seen == [{"value": 1}]


def test_063_the_result_is_dumped(app, worker):
    @app.task(pydantic=True)
    def task(value) -> Arg:
        return Arg(value=value)

    @app.task(pydantic=True)
    def maybe(value) -> Optional[Arg]:  # noqa: UP045
        return None if value is None else More(value=value)

    assert task(1) == {"value": 1}
    assert worker.finish(task.delay(2)).get() == {"value": 2}
    assert maybe(None) is None
    assert maybe(3) == {"value": 3, "extra": 0}


def test_064_a_result_of_another_type_stays(app):
    @app.task(pydantic=True)
    def task() -> Arg:
        return Other(text="x")

    assert task() == Other(text="x")


def test_065_strict(app):
    lax, seen = seen_by(app, Arg)
    lax({"value": "1"})
    assert seen == [Arg(value=1)]
    strict, seen = seen_by(app, Optional[Arg], pydantic_strict=True)  # noqa: UP045
    strict({"value": 1})
    with pytest.raises(ValidationError):
        strict({"value": "1"})
    assert seen == [Arg(value=1)]


def test_066_context(app):
    CONTEXTS.clear()
    task, _ = seen_by(
        app, Choosy, pydantic_context={"tenant": "acme", "celery_task_name": "not this"}
    )
    task({"value": 1})
    assert [{"tenant": "acme", "celery_app": app, "celery_task_name": task.name}] == CONTEXTS


def test_067_dump_kwargs(app):
    @app.task(pydantic=True, pydantic_dump_kwargs={"exclude": {"value"}})
    def short() -> More:
        return More(value=1, extra=2)

    class Binary(BaseModel):
        data: bytes

    assert short() == {"extra": 2}

    def body():
        return Binary(data=b"x")

    body.__annotations__["return"] = Binary
    assert app.task(pydantic=True, name="json")(body)() == {"data": "x"}
    python = app.task(pydantic=True, name="python", pydantic_dump_kwargs={"mode": "python"})(body)
    assert python() == {"data": b"x"}


def test_068_models_as_arguments(app, sent):
    @app.task(pydantic=True, bind=True)
    def task(self, arg: Arg, *, named: Optional[Arg] = None):  # noqa: UP045
        pass

    task.delay(Arg(value=1), named=Arg(value=2))
    task.apply_async([], {"arg": Arg(value=3)})
    task.s(Arg(value=4)).delay()
    calls = [(list(each.args), each.kwargs) for each in sent]
    assert calls == [
        ([{"value": 1}], {"named": {"value": 2}}),
        ([], {"arg": {"value": 3}}),
        ([{"value": 4}], {}),
    ]
    shown = [each.headers["argsrepr"] for each in sent]
    assert shown == ["({'value': 1},)", shown[1], "({'value': 4},)"]


def test_068_they_arrive(app, worker):
    task, seen = seen_by(app, Arg)
    worker.finish(task.delay(Arg(value=1)))
    assert seen == [Arg(value=1)]


def test_068_as_eager_too(app):
    app.conf.task_always_eager = True
    task, seen = seen_by(app, Arg)
    task.delay(Arg(value=1))
    with pytest.raises(EncodeError):
        task.delay(More(value=1))
    assert seen == [Arg(value=1)]


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Arg, More(value=1)),
        (Arg, Other(text="x")),
        (int, Arg(value=1)),
        (Hiding, Hiding(value=1, secret="x")),
        (Stepping, Stepping(value=1)),
    ],
)
def test_068_but_only_if_an_equal_one_arrives(app, annotation, value):
    task, _ = seen_by(app, annotation)
    with pytest.raises(EncodeError):
        task.delay(value)


def test_068_not_for_other_tasks(app):
    @app.task
    def task(arg: Arg):
        pass

    with pytest.raises(EncodeError):
        task.delay(Arg(value=1))


def test_068_nor_for_a_wrong_call(app, sent):
    task, _ = seen_by(app, Arg)
    with pytest.raises(EncodeError):
        task.delay(Arg(value=1), 2)
    task.delay()
    assert list(sent[-1].args) == []


def test_069_models_elsewhere_are_not_dumped(app):
    @app.task(pydantic=True)
    def task(arg: Arg, rest: list = (), **more):
        pass

    model = Arg(value=1)
    calls = [
        lambda: task.delay({}, [model]),
        lambda: task.delay({}, more=model),
        lambda: task.apply_async(({},), link=task.s(model)),
        lambda: task.apply_async(({},), link_error=task.s(model)),
        lambda: (task.s({}) | task.si(model)).delay(),
        lambda: app.send_task(task.name, (model,)),
    ]
    for call in calls:
        with pytest.raises(EncodeError):
            call()


def test_069_but_in_the_first_step_of_a_chain(app, sent):
    task, _ = seen_by(app, Arg)
    (task.s(Arg(value=1)) | task.s()).delay()
    assert list(sent[0].args) == [{"value": 1}]


def test_070_pickle(app, worker, sent):
    app.conf.accept_content = ["pickle", "json"]
    task, seen = seen_by(app, Arg, serializer="pickle")
    worker.finish(task.delay(More(value=1, extra=2)))
    task.apply_async((Arg(value=1),), serializer="json")
    assert list(sent[0].args) == [More(value=1, extra=2)]
    assert seen[0] == More(value=1, extra=2)
    assert list(sent[1].args) == [{"value": 1}]


def test_071_without_pydantic(app, monkeypatch):
    task, _ = seen_by(app, Arg)
    # What is not there cannot be imported.
    for name in [name for name in sys.modules if name.split(".")[0] == "pydantic"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImproperlyConfigured, match="pydantic"):
        task({"value": 1})
