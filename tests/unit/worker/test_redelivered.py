"""A message that comes again while its run goes on here, or has ended, is not run twice."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from contract.workers import forget, memory_app
from kombu.message import Message

from taskq import Celery
from taskq.worker import state, strategy


class Delivery(Message):
    """A message as a transport gives it out; what settles it is noted in `settled`."""

    def __init__(
        self,
        channel: Any,
        tag: int,
        *,
        redelivered: bool = False,
        retries: int = 0,
        eta: str | None = None,
    ) -> None:
        super().__init__(
            body=b"[[], {}, {}]",
            delivery_tag=tag,
            content_type="application/json",
            content_encoding="utf-8",
            delivery_info={"redelivered": redelivered},
            headers={"task": "late", "id": "1", "retries": retries, "eta": eta},
            channel=channel,
        )
        self.is_back = False
        self.settled: list[str] = []

    def settle(self, *args: Any) -> None:
        self.settled.append("ack")


@pytest.fixture
def app() -> Iterator[Celery]:
    app = memory_app("redelivered")
    app.task(name="late", acks_late=True)(lambda: None)
    yield app
    app.close()
    forget()


@pytest.fixture
def deliver(app: Celery) -> Any:
    runs: list[Any] = []
    consumer = SimpleNamespace(
        event_dispatcher=None, pool=None, hostname="w", connection_errors=(),
        task_buckets={"late": None}, on_task_request=runs.append,
    )  # fmt: skip
    handle = strategy.default(app.tasks["late"], app, consumer)

    def deliver(delivery: Delivery) -> list[Any]:
        handle(delivery, None, delivery.settle, delivery.settle, ())
        return runs

    return deliver


def lose(request: Any) -> None:
    request.message.channel.connection = None
    request.outlive_connection()


def channel() -> SimpleNamespace:
    return SimpleNamespace(connection="open")


def test_while_it_runs_the_new_delivery_is_settled_in_place_of_the_lost_one(deliver: Any) -> None:
    lost, again = Delivery(channel(), 1), Delivery(channel(), 1, redelivered=True)
    (request,) = deliver(lost)
    lose(request)
    assert deliver(again) == [request]
    assert again.settled == []
    request.acknowledge()
    assert (lost.settled, again.settled) == ([], ["ack"])


def test_after_it_has_ended_the_new_delivery_is_settled_at_once(deliver: Any) -> None:
    lost, again = Delivery(channel(), 1), Delivery(channel(), 1, redelivered=True)
    (request,) = deliver(lost)
    lose(request)
    request.acknowledge()
    state.task_ready(request)
    assert deliver(again) == [request]
    assert (lost.settled, again.settled) == ([], ["ack"])


def test_what_was_acknowledged_before_is_acknowledged_again(deliver: Any) -> None:
    first, again = Delivery(channel(), 1), Delivery(channel(), 1, redelivered=True)
    (request,) = deliver(first)
    request.acknowledge()
    deliver(again)
    assert (first.settled, again.settled) == (["ack"], ["ack"])


def test_what_was_acknowledged_as_the_connection_broke_is_not_run_again(deliver: Any) -> None:
    first, again = Delivery(channel(), 1), Delivery(channel(), 1, redelivered=True)
    (request,) = deliver(first)
    request.acknowledge()
    lose(request)
    state.task_ready(request)
    assert deliver(again) == [request]
    assert (first.settled, again.settled) == (["ack"], ["ack"])


def test_a_second_message_of_the_same_call_is_not_run_beside_the_first(deliver: Any) -> None:
    shared = channel()
    first, copy = Delivery(shared, 1), Delivery(shared, 2, redelivered=True)
    (request,) = deliver(first)
    assert deliver(copy) == [request]
    assert (first.settled, copy.settled) == ([], ["ack"])


@pytest.mark.parametrize("options", [{"redelivered": True, "retries": 1}, {"redelivered": False}])
def test_another_run_of_the_same_id_is_run(deliver: Any, options: dict[str, Any]) -> None:
    deliver(Delivery(channel(), 1))
    assert len(deliver(Delivery(channel(), 2, **options))) == 2


@pytest.mark.parametrize("redelivered", [True, False])
def test_a_copy_of_what_was_being_parked_when_its_worker_died(
    deliver: Any, redelivered: bool
) -> None:
    shared, eta = channel(), "2020-01-01T00:00:00+00:00"
    first = Delivery(shared, 1, redelivered=redelivered, eta=eta)
    copy = Delivery(shared, 2, eta=eta)
    copy.is_back = True
    (request,) = deliver(first)
    request.acknowledge()
    state.task_ready(request)
    # Not redelivered: no worker can have died with it, so somebody has sent the same call again.
    assert len(deliver(copy)) == (1 if redelivered else 2)
    assert (first.settled, copy.settled) == (["ack"], ["ack"] if redelivered else [])
