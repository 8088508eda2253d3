"""Small tools on objects, classes, colours and warnings."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from patience import PATIENCE_S

from taskq import utils
from taskq.exceptions import CDeprecationWarning, CPendingDeprecationWarning
from taskq.utils import debug, deprecated
from taskq.utils.abstract import CallableSignature, CallableTask
from taskq.utils.objects import Bunch, FallbackContext, getitem_property, mro_lookup
from taskq.utils.term import colored


def test_names_answered_by_the_package() -> None:
    for name in utils.__all__:
        assert getattr(utils, name) is not None
    assert utils.gen_unique_id is utils.uuid
    with pytest.raises(AttributeError):
        utils.nothing


def test_bunch() -> None:
    assert Bunch(a=1).a == 1


def test_mro_lookup_finds_where_something_is_defined() -> None:
    class Base:
        def hook(self) -> None: ...

    class Child(Base): ...

    assert mro_lookup(Child, "hook") is Base
    assert mro_lookup(Child, "nothing") is None
    assert mro_lookup(Child, "hook", stop={Base}) is None
    assert mro_lookup(Child, "hook", stop={Base}, monkey_patched={"elsewhere"}) is Base
    assert mro_lookup(Child, "hook", stop={Base}, monkey_patched={__name__}) is None


def test_fallback_context() -> None:
    events: list[str] = []

    @contextmanager
    def fallback(name: str) -> Iterator[str]:
        events.append("opened")
        yield name
        events.append("closed")

    with FallbackContext("given", fallback, "made") as value:
        assert value == "given"
    assert events == []
    with FallbackContext(None, fallback, "made") as value:
        assert value == "made"
    assert events == ["opened", "closed"]


def test_items_as_attributes() -> None:
    class Signature(dict[str, Any]):
        task = getitem_property("task", "Name.")
        chord = getitem_property("options.chord")

    made = Signature(task="add", options={})
    made.chord = "body"
    assert (made.task, made.chord, made["options"]) == ("add", "body", {"chord": "body"})
    assert Signature.task.__doc__ == "Name."


def test_what_counts_as_a_task_or_signature() -> None:
    class LikeATask:
        def __call__(self) -> None: ...
        def delay(self) -> None: ...
        def apply(self) -> None: ...
        def apply_async(self) -> None: ...

    assert issubclass(LikeATask, CallableTask)
    assert not issubclass(LikeATask, CallableSignature)
    assert not isinstance(print, CallableTask)


def test_colours() -> None:
    c = colored()
    assert str(c.red("a")) == "\x1b[1;31ma\x1b[0m"
    assert str(c.blue("a", c.red("b"))) == "\x1b[1;34ma\x1b[1;31mb\x1b[0m\x1b[0m"
    assert str(colored(enabled=False).red("a", c.reset(" b"))).startswith("a")
    assert (c.red("a", c.blue("b")).no_color(), len(c.bold("abc"))) == ("ab", 3)
    assert c.red("a").embed() == "\x1b[1;31ma"
    assert c.red("a") + "b" == "\x1b[1;31ma\x1b[0mb"
    assert repr(c.ired("a")) == "'a'"


def test_deprecated_names_warn() -> None:
    @deprecated.Callable(deprecation="5.8", removal="6.0", alternative="Use new().")
    def old() -> int:
        return 1

    class Thing:
        @deprecated.Property(removal="6.0")
        def x(self) -> int:
            return 2

    with pytest.warns(CPendingDeprecationWarning, match=r"old is scheduled .* 5\.8 .* Use new"):
        assert old() == 1
    with pytest.warns(CDeprecationWarning, match="x is deprecated") as caught:
        assert Thing().x == 2
    assert caught[0].filename == __file__


def test_stacks_of_all_threads() -> None:
    ready, end = threading.Event(), threading.Event()

    def wait_here() -> None:
        ready.set()
        end.wait()

    thread = threading.Thread(target=wait_here, name="waiting-thread")
    thread.start()
    ready.wait()
    text = debug.cry()
    end.set()
    thread.join()
    assert "waiting-thread" in text
    assert "wait_here" in text


def test_memory_and_blocks() -> None:
    assert [debug.humanbytes(n) for n in (0, 5000, 2**20)] == ["0b", "4.8828KB", "1MB"]
    assert list(debug.sample(list(range(100)), 5)) == [0, 20, 40, 60, 80]
    with debug.blockdetection(60):
        pass
    with pytest.raises(RuntimeError, match="blocking detection"), debug.blockdetection(0.01):
        threading.Event().wait(PATIENCE_S)
    with debug.blockdetection(None):
        pass
