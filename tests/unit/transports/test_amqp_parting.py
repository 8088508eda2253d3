"""What is open to RabbitMQ when a process ends is closed, one after another, and not for ever."""

from __future__ import annotations

import os
from weakref import WeakSet

import pytest

from taskq.exceptions import CeleryWarning
from taskq.transports import amqp_parting
from taskq.transports.amqp_parting import close_at_exit


class Connection:
    def __init__(self, error: Exception | None = None, connected: bool = True) -> None:
        self.error, self.connected, self.closed = error, connected, 0

    def close(self) -> None:
        self.closed += 1
        if self.error is not None:
            raise self.error
        self.connected = False


@pytest.fixture(autouse=True)
def _nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amqp_parting, "_open", WeakSet())


def open_some(*connections: Connection) -> tuple[Connection, ...]:
    for connection in connections:
        close_at_exit(connection)
    return connections


def test_each_is_closed_once() -> None:
    first, second = open_some(Connection(), Connection())
    close_at_exit(first)
    amqp_parting._close_all()
    amqp_parting._close_all()
    assert (first.closed, second.closed) == (1, 1)


def test_what_is_closed_or_gone_is_left_alone() -> None:
    (closed,) = open_some(Connection(connected=False))
    close_at_exit(Connection())
    amqp_parting._close_all()
    assert closed.closed == 0


def test_a_goodbye_without_answer_is_said_of() -> None:
    first, second = open_some(Connection(TimeoutError("late")), Connection(TimeoutError("late")))
    with pytest.warns(CeleryWarning, match="last messages of this process: late"):
        amqp_parting._close_all()
    assert (first.closed, second.closed) == (1, 1)


def test_an_end_is_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amqp_parting, "PARTING_S", -1.0)
    late, later = open_some(Connection(), Connection())
    with pytest.warns(CeleryWarning, match="no time left"):
        amqp_parting._close_all()
    assert (late.closed, later.closed) == (0, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_has_nothing_to_close() -> None:
    kept = open_some(Connection())
    child = os.fork()
    if not child:
        os._exit(len(amqp_parting._open))
    assert os.waitpid(child, 0)[1] == 0
    assert list(amqp_parting._open) == list(kept)
