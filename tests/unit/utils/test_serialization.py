"""Exceptions and pickles cross process borders under Celery's names, in both directions."""

from __future__ import annotations

import base64
import pickle
import pickletools
import sys
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.message import Message
from kombu.serialization import registry

from taskq.context import Context
from taskq.exceptions import MaxRetriesExceededError, Retry, TaskRevokedError
from taskq.utils import serialization
from taskq.utils.serialization import (
    UnpickleableExceptionWrapper,
    get_pickleable_exception,
    pickle_dumps,
    pickle_loads,
    wire_module,
)

#: Written by Celery 5.7.0: [Retry('m', KeyError(1), 3),
#: MaxRetriesExceededError('a', task_args=(1,)), TaskRevokedError('gone'), Retry]
FROM_CELERY = (
    "gAJdcQAoY2NlbGVyeS5leGNlcHRpb25zClJldHJ5CnEBWAEAAABtcQJjZXhjZXB0aW9ucwpLZXlFcnJv"
    "cgpxA0sBhXEEUnEFSwOHcQZScQdjY2VsZXJ5LmV4Y2VwdGlvbnMKTWF4UmV0cmllc0V4Y2VlZGVkRXJy"
    "b3IKcQhYAQAAAGFxCYVxClJxC31xDChYCQAAAHRhc2tfYXJnc3ENSwGFcQ5YCwAAAHRhc2tfa3dhcmdz"
    "cQ99cRB1YmNjZWxlcnkuZXhjZXB0aW9ucwpUYXNrUmV2b2tlZEVycm9yCnERWAQAAABnb25lcRKFcRNS"
    "cRRoAWUu"
)


class OfUser(MaxRetriesExceededError):
    """A user's exception on top of one of ours."""


class NeedsTwo(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__("text")


class HoldsALambda(KeyError):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.secret = lambda: 1


def texts_in(data: bytes) -> list[str]:
    return [str(value) for _, value, _ in pickletools.genops(data) if isinstance(value, str)]


def test_what_leaves_names_no_module_of_ours() -> None:
    data = pickle_dumps(
        [Retry("m", ValueError(1), 3), TaskRevokedError("x"), Retry, Context(id="t"), wire_module]
    )
    names = texts_in(data)
    assert not [name for name in names if "taskq" in name]
    assert "celery.exceptions:Retry" in names
    assert "celery.app.task:Context" in names
    # Any peer can read it: all else in it is Python's and kombu's.
    assert {name.split()[0] for name in names if name.endswith("symbol_by_name")} == {
        "kombu.utils.imports"
    }


def test_what_left_comes_back_as_ours() -> None:
    errors = [Retry("m", ValueError(1), 3), MaxRetriesExceededError("a", task_args=(1,)), Retry]
    retry, exceeded, cls = pickle_loads(pickle_dumps(errors))
    assert (retry.message, retry.when, cls) == ("m", 3, Retry)
    assert type(exceeded) is MaxRetriesExceededError
    assert exceeded.task_args == (1,)


def test_what_celery_wrote_is_read_as_ours() -> None:
    known = "celery" in sys.modules
    retry, exceeded, revoked, cls = pickle_loads(base64.b64decode(FROM_CELERY))
    assert type(retry) is cls is Retry
    assert (retry.message, repr(retry.exc), retry.when) == ("m", "KeyError(1)", 3)
    assert (type(exceeded), exceeded.task_args) == (MaxRetriesExceededError, (1,))
    assert type(revoked) is TaskRevokedError
    assert ("celery" in sys.modules) is known


def test_ordinary_objects_are_pickled_as_always() -> None:
    value = {"a": [1, (2, 3)], "when": datetime(2026, 1, 1), "set": {1}, "cls": timedelta}
    assert pickle_loads(pickle_dumps(value)) == value
    assert pickle.loads(pickle_dumps(value)) == value
    error = pickle_loads(pickle_dumps(OfUser("a", task_args=[1])))
    assert (type(error), error.task_args) == (OfUser, [1])


@pytest.mark.parametrize(
    ("module", "on_the_wire"),
    [
        ("taskq.exceptions", "celery.exceptions"),
        ("taskq", "celery"),
        ("taskq.canvas.chains", "celery.canvas"),
        ("taskq.context", "celery.app.task"),
        ("taskqueue.errors", "taskqueue.errors"),
        ("builtins", "builtins"),
    ],
)
def test_wire_module(module: str, on_the_wire: str) -> None:
    assert wire_module(module) == on_the_wire


def test_exceptions_are_sent_as_near_to_themselves_as_can_be() -> None:
    error = ValueError("x")
    assert get_pickleable_exception(error) is error
    nearest = get_pickleable_exception(HoldsALambda("k"))
    assert type(nearest) is KeyError
    wrapped = get_pickleable_exception(NeedsTwo(1, 2))
    assert isinstance(wrapped, UnpickleableExceptionWrapper)
    assert serialization.get_pickled_exception(error) is error


def test_a_wrapped_exception_is_restored_by_name() -> None:
    wrapped = UnpickleableExceptionWrapper.from_exception(NeedsTwo(1, 2))
    restored = serialization.get_pickled_exception(pickle_loads(pickle_dumps(wrapped)))
    assert type(restored).__name__ == "NeedsTwo"
    assert type(restored).__module__ == __name__
    assert restored.args == ("text",)
    assert str(wrapped) == "NeedsTwo('text')"


def test_arguments_that_cannot_be_pickled_are_shown() -> None:
    wrapped = UnpickleableExceptionWrapper("m", "C", [1, lambda: 2])
    assert wrapped.exc_args[0] == 1
    assert "lambda" in wrapped.exc_args[1]


def test_nearest_picklable_class() -> None:
    stand_in = serialization.create_exception_cls("Gone", "no.such", KeyError)
    assert (stand_in.__name__, stand_in.__module__, stand_in.__bases__) == (
        "Gone",
        "no.such",
        (KeyError,),
    )
    assert serialization.get_pickleable_etype(stand_in) is KeyError
    assert serialization.find_pickleable_exception(NeedsTwo(1, 2)) is None


def test_raise_with_context() -> None:
    with pytest.raises(KeyError) as caught:
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            serialization.raise_with_context(KeyError("k"))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(KeyError) as caught:
        serialization.raise_with_context(KeyError("k"))
    assert caught.value.__cause__ is None
    with pytest.raises(KeyError) as caught:
        try:
            raise KeyError("same")
        except KeyError as exc:
            serialization.raise_with_context(exc)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(("term", "value"), [("yes", True), ("OFF", False), ("0", False), (3, 3)])
def test_strtobool(term: Any, value: Any) -> None:
    assert serialization.strtobool(term) is value


def test_strtobool_says_what_it_knows() -> None:
    with pytest.raises(TypeError, match=r"'maybe'.*expected one of 0, 1, false"):
        serialization.strtobool("maybe")


def test_jsonify() -> None:
    value = {
        "moment": datetime(2026, 1, 1, 1, 1, 1, 500000, tzinfo=timezone.utc),
        "day": date(2026, 1, 1),
        "tuple": (1, None),
        "delta": timedelta(hours=1),
        "_hidden": 1,
    }
    assert serialization.jsonify(value, keyfilter=lambda key: key[0] != "_") == {
        "moment": "2026-01-01T01:01:01.500Z",
        "day": "2026-01-01",
        "tuple": [1, None],
        "delta": "1:00:00",
    }
    assert serialization.jsonify({"x": {1}}, unknown_type_filter=list) == {"x": [1]}
    with pytest.raises(ValueError, match="parent: x"):
        serialization.jsonify({"x": object()})


def test_base64() -> None:
    assert serialization.b64decode(serialization.b64encode(b"\x00a")) == b"\x00a"
    assert serialization.b64encode("abc") == "YWJj"


class TestReadPayload:
    """A message's body, read the short way and kombu's."""

    PLAIN = b'[[1, "\xc3\xa4"], {"a": null}, {"chord": null}]'
    TYPED = b'[[{"__type__": "datetime", "__value__": "2026-01-02T03:04:05+00:00"}], {}, {}]'

    def message(self, body: Any, accept: str = "application/json") -> Message:
        return Message(
            body=body, content_type="application/json", content_encoding="utf-8", accept={accept}
        )

    @pytest.mark.parametrize("body", [PLAIN, PLAIN.decode(), TYPED, b"null", b"[]"])
    def test_it_is_what_kombu_gives_and_kept(self, body: Any) -> None:
        message = self.message(body)
        read = serialization.read_payload(message)
        assert read == self.message(body).payload
        assert message.payload == read

    @pytest.mark.parametrize(
        "body", [b"[1", b"\xff", b"[" * 100_000], ids=["cut", "not text", "deep"]
    )
    def test_what_is_wrong_is_said_as_kombu_says_it(self, body: bytes) -> None:
        with pytest.raises(DecodeError):
            serialization.read_payload(self.message(body))

    def test_what_is_not_accepted_is_not_read(self) -> None:
        with pytest.raises(ContentDisallowed):
            serialization.read_payload(self.message(self.PLAIN, "application/x-yaml"))

    def test_another_reader_of_json_is_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(registry._decoders, "application/json", lambda body: ["other"])
        assert serialization.read_payload(self.message(self.PLAIN)) == ["other"]
