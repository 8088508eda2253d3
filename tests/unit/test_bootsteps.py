"""Programs made of steps."""

from __future__ import annotations

import io
from typing import Any

import pytest

from taskq import bootsteps


class Parent:
    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.said: list[str] = []


class Loud(bootsteps.StartStopStep):
    def start(self, parent: Any) -> None:
        parent.said.append(f"start {self.alias}")

    def stop(self, parent: Any) -> None:
        parent.said.append(f"stop {self.alias}")

    def close(self, parent: Any) -> None:
        parent.said.append(f"close {self.alias}")


class First(Loud):
    pass


class Second(Loud):
    requires = (First,)


class Third(Loud):
    requires = (Second,)


class End(Loud):
    last = True


class Off(Loud):
    enabled = False


def build(*steps: Any, **kwargs: Any) -> tuple[bootsteps.Blueprint, Parent]:
    parent, blueprint = Parent(), bootsteps.Blueprint(steps, name="Test", **kwargs)
    blueprint.apply(parent)
    return blueprint, parent


def test_steps_come_after_what_they_require_and_last_comes_last() -> None:
    blueprint, _ = build(End, Third, First, Second)
    assert [step.alias for step in blueprint.order] == ["First", "Second", "Third", "End"]


def test_what_is_required_is_part_of_the_program() -> None:
    blueprint, _ = build(Third)
    assert [step.alias for step in blueprint.order] == ["First", "Second", "Third"]


def test_a_circle_is_refused() -> None:
    class A(bootsteps.Step):
        requires: Any = ()

    class B(bootsteps.Step):
        requires = (A,)

    A.requires = (B,)
    with pytest.raises(ValueError, match="circle"):
        build(A, B)


def test_it_starts_in_order_and_stops_in_reverse() -> None:
    blueprint, parent = build(First, Second, Off)
    assert blueprint.human_state() == "initializing"
    blueprint.start(parent)
    assert blueprint.state == bootsteps.RUN
    blueprint.stop(parent)
    assert blueprint.state == bootsteps.TERMINATE
    assert parent.said == [
        "start First", "start Second", "close First", "close Second", "stop Second", "stop First",
    ]  # fmt: skip
    blueprint.join(timeout=0)
    blueprint.stop(parent)
    assert len(parent.said) == 6


def test_what_is_half_started_is_not_stopped() -> None:
    class Broken(Loud):
        requires = (First,)

        def start(self, parent: Any) -> None:
            raise OSError("no")

    blueprint, parent = build(First, Broken, End)
    with pytest.raises(OSError):
        blueprint.start(parent)
    blueprint.stop(parent)
    assert parent.said == ["start First"]
    assert blueprint.human_state() == "terminating"


def test_hooks_are_called() -> None:
    said: list[str] = []
    blueprint, parent = build(
        First,
        on_start=lambda: said.append("start"),
        on_close=lambda: said.append("close"),
        on_stopped=lambda: said.append("stopped"),
    )
    blueprint.start(parent)
    blueprint.stop(parent)
    assert said == ["start", "close", "stopped"]


def test_an_error_while_stopping_does_not_keep_the_others_from_it() -> None:
    class Broken(Loud):
        requires = (First,)

        def stop(self, parent: Any) -> None:
            raise OSError("no")

    blueprint, parent = build(First, Broken)
    blueprint.start(parent)
    blueprint.stop(parent)
    assert parent.said[-1] == "stop First"


def test_a_step_creates_starts_and_stops_its_object() -> None:
    class Engine:
        def __init__(self) -> None:
            self.said: list[str] = []

        def start(self) -> None:
            self.said.append("start")

        def stop(self) -> None:
            self.said.append("stop")

    class Starts(bootsteps.StartStopStep):
        def create(self, parent: Any) -> Engine:
            return Engine()

    blueprint, parent = build(Starts)
    blueprint.start(parent)
    engine = blueprint[Starts].obj
    blueprint.stop(parent, terminate=True)
    assert engine.said == ["start", "stop"]
    assert blueprint[Starts.name] is blueprint[Starts]


def test_names_are_spelled_as_celery_spells_them() -> None:
    assert bootsteps.Step.name == "celery.bootsteps.Step"
    assert bootsteps.ConsumerStep.name == "celery.bootsteps.ConsumerStep"
    assert First.name.endswith("test_bootsteps.First")


def test_blueprints_can_be_put_behind_each_other() -> None:
    one, _ = build(First, Second)
    other, _ = build(End)
    one.connect_with(other)
    assert Second in one.graph[End]


def test_the_graph_can_be_drawn() -> None:
    class Perhaps(bootsteps.Step):
        conditional = True
        label = "maybe"

    blueprint, _ = build(First, Perhaps, End)
    drawing = io.StringIO()
    blueprint.graph.to_dot(drawing)
    text = drawing.getvalue()
    assert blueprint.graph.formatter.__class__ is bootsteps.StepFormatter
    assert '"\u29c9End" -> "\u2218maybe"' in text
    assert '"\u29c9End" -> "First"' in text
    assert '"First" [' in text
