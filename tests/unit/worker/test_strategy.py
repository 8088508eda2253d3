"""What becomes of a delivery."""

from __future__ import annotations

import inspect
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from contract.workers import forget, memory_app
from kombu.message import Message

from taskq.worker.request import Request
from taskq.worker.strategy import REQUEST_PARAMETERS, Decision, decide, default

NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)
SOON = NOW + timedelta(seconds=1)
BEFORE = NOW - timedelta(seconds=1)


@pytest.mark.parametrize(
    ("eta", "expires", "revoked", "limited", "decision"),
    [
        (None, None, False, False, Decision.RUN),
        (BEFORE, None, False, False, Decision.RUN),
        (NOW, None, False, False, Decision.RUN),
        (SOON, None, False, False, Decision.WAIT_FOR_ETA),
        (SOON, None, False, True, Decision.WAIT_FOR_ETA),
        (BEFORE, None, False, True, Decision.WAIT_FOR_RATE),
        (None, None, False, True, Decision.WAIT_FOR_RATE),
        (None, SOON, False, False, Decision.RUN),
        (None, NOW, False, False, Decision.RUN),
        (None, BEFORE, False, False, Decision.NEVER),
        (SOON, BEFORE, False, True, Decision.NEVER),
        (None, None, True, False, Decision.NEVER),
        (SOON, None, True, True, Decision.NEVER),
    ],
)
def test_decision(
    eta: datetime | None,
    expires: datetime | None,
    revoked: bool,
    limited: bool,
    decision: Decision,
) -> None:
    assert decide(eta, expires, revoked, limited, NOW) is decision


def test_zones_do_not_matter() -> None:
    elsewhere = SOON.astimezone(timezone(timedelta(hours=9)))
    assert decide(elsewhere, None, False, False, NOW) is Decision.WAIT_FOR_ETA


class Named(Request):
    """A request that takes its options by name only, as classes of users may."""

    def __init__(self, message: Any, **named: Any) -> None:
        self.named = named
        super().__init__(message, **named)


@pytest.mark.parametrize("cls", [Request, Named])
def test_a_request_class_may_have_a_constructor_of_its_own(cls: type[Request]) -> None:
    app = memory_app("strategy")
    taken: list[Any] = []
    try:
        task = app.task(name="named", Request=cls)(lambda: None)
        consumer = SimpleNamespace(
            event_dispatcher=None, pool=None, hostname="w@here", connection_errors=(OSError,),
            task_buckets={"named": None}, on_task_request=taken.append,
        )  # fmt: skip
        message = Message(
            body=b"[[1], {}, {}]", content_type="application/json", content_encoding="utf-8",
            headers={"task": "named", "id": "1"},
        )  # fmt: skip
        default(app.tasks["named"], app, consumer)(message, None, len, repr, ())
        (request,) = taken
        assert isinstance(request, cls)
        assert (request.message, request.on_ack, request.on_reject) == (message, len, repr)
        assert (request.app, request.task, request.hostname) == (app, task, "w@here")
        assert (request.args, request.connection_errors) == ([1], (OSError,))
        if cls is Named:
            assert tuple(request.named) == REQUEST_PARAMETERS
    finally:
        forget()
        app.close()


def test_requests_are_given_their_options_in_order() -> None:
    parameters = tuple(inspect.signature(Request).parameters)
    assert parameters[: len(REQUEST_PARAMETERS) + 1] == ("message", *REQUEST_PARAMETERS)
