"""How an exception travels."""

from __future__ import annotations

import json
from typing import Any

import pytest

from taskq.backends.error_coding import pack_exception, unpack_exception
from taskq.exceptions import Retry, SecurityError


def packed(exc: BaseException) -> Any:
    return json.loads(json.dumps(pack_exception(exc, "json", json.dumps)))


class Outer:
    class Inner(Exception):
        pass


@pytest.mark.parametrize("empty", [None, {}, "", 0, False, []])
def test_nothing(empty: Any) -> None:
    assert unpack_exception(empty) is None


def test_an_exception_is_itself() -> None:
    exc = ValueError(1)
    assert unpack_exception(exc) is exc


def test_arguments_that_cannot_travel_become_text() -> None:
    marker = object()
    assert packed(KeyError("x", marker, (1, 2)))["exc_message"] == ["x", repr(marker), [1, 2]]


def test_nested_classes_are_found() -> None:
    back = unpack_exception(packed(Outer.Inner("x")))
    assert type(back) is Outer.Inner


@pytest.mark.parametrize("message", ["text", ["text"], ("text",)])
def test_messages(message: Any) -> None:
    stored = {"exc_type": "ValueError", "exc_message": message, "exc_module": "builtins"}
    back = unpack_exception(stored)
    assert isinstance(back, ValueError)
    assert back.args == ("text",)
    del stored["exc_message"]
    assert str(unpack_exception(stored)) == ""


@pytest.mark.parametrize(
    ("module", "home"),
    [
        (None, "taskq.backends.base"),
        ("no.such", "taskq.exceptions"),
        ("builtins", "taskq.exceptions"),
    ],
)
def test_unknown_classes_are_made_up(module: Any, home: str) -> None:
    back = unpack_exception({"exc_type": "Odd.Error", "exc_message": ["x"], "exc_module": module})
    assert (type(back).__name__, type(back).__module__) == ("Odd.Error", home)
    assert type(back).__mro__[1] is Exception


def test_reading_imports_nothing() -> None:
    import sys

    assert "this" not in sys.modules
    unpack_exception({"exc_type": "X", "exc_message": [], "exc_module": "this"})
    assert "this" not in sys.modules


@pytest.mark.parametrize("module", ["celery.exceptions", "taskq.exceptions"])
def test_celerys_names_are_ours(module: str) -> None:
    stored = {"exc_type": "Retry", "exc_message": ["m", "ValueError()", 3], "exc_module": module}
    back = unpack_exception(stored)
    assert type(back) is Retry
    assert packed(back)["exc_module"] == "celery.exceptions"


@pytest.mark.parametrize("name", ["system", "path.join", "__class__", "environ"])
def test_only_exceptions_are_called(name: str) -> None:
    with pytest.raises(SecurityError, match=f"got os.{name} with payload"):
        unpack_exception({"exc_type": name, "exc_message": ["x"], "exc_module": "os"})


class Described(Exception):
    """Has a text, and no arguments."""

    def __init__(self, *, told: str = "") -> None:
        self.told = told

    def __str__(self) -> str:
        return self.told


class Refusing(Described):
    def __init__(self, *, told: str) -> None:
        self.told = told


def test_what_has_no_arguments_is_built_without() -> None:
    packed = pack_exception(Described(told="lost"), "json", json.dumps)
    assert packed["exc_message"] == ()
    assert type(unpack_exception(packed)) is Described


def test_what_cannot_be_built_keeps_its_text() -> None:
    packed = pack_exception(Refusing(told="what went wrong"), "json", json.dumps)
    assert "what went wrong" in str(unpack_exception(packed))
    pydantic = pytest.importorskip("pydantic")
    with pytest.raises(pydantic.ValidationError) as error:
        pydantic.RootModel[int].model_validate("x")
    packed = json.loads(json.dumps(pack_exception(error.value, "json", json.dumps)))
    assert "should be a valid integer" in str(unpack_exception(packed))


def test_a_constructor_that_refuses() -> None:
    stored = {"exc_type": "UnicodeDecodeError", "exc_message": ["1"], "exc_module": "builtins"}
    back = unpack_exception(stored)
    assert type(back) is Exception
    assert str(back) == "<class 'UnicodeDecodeError'>(['1'])"
    assert isinstance(back.__cause__, TypeError)


@pytest.mark.parametrize(
    ("nonsense", "error", "about"),
    [
        ("text", TypeError, "Instead got: 'text'"),
        ([1, 2], TypeError, "must be a dictionary"),
        ({"exc_message": ["1"]}, ValueError, "must include the exception type"),
        ({"exc_type": 3}, TypeError, "name of an exception class"),
    ],
)
def test_nonsense(nonsense: Any, error: type[Exception], about: str) -> None:
    with pytest.raises(error, match=about):
        unpack_exception(nonsense)
