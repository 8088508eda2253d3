"""What a worker knows about its requests, and whether it is to stop."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from contract.workers import forget

from taskq.exceptions import WorkerShutdown, WorkerTerminate
from taskq.worker import state


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    forget()
    yield
    forget()
    state.revoked.clear()


class Request(SimpleNamespace):
    __hash__ = object.__hash__


def test_a_request_moves_and_is_gone() -> None:
    request = Request(id="a", name="add")
    state.task_scheduled(request)
    assert request in state.scheduled_requests
    state.task_reserved(request)
    assert request in state.reserved_requests
    assert request not in state.scheduled_requests
    state.task_accepted(request)
    assert request in state.active_requests
    assert state.total_count == {"add": 1}
    assert state.all_total_count == [1]
    state.task_ready(request, successful=True)
    assert not (state.requests or state.active_requests or state.reserved_requests)
    assert "a" in state.successful_requests


def test_maybe_shutdown_raises_what_was_asked_for() -> None:
    state.maybe_shutdown()
    state.should_stop = 0
    with pytest.raises(WorkerShutdown) as stopped:
        state.maybe_shutdown()
    assert stopped.value.code == 0
    state.should_terminate = 1
    with pytest.raises(WorkerTerminate) as ended:
        state.maybe_shutdown()
    assert ended.value.code == 1


def test_revoked_ids_of_others_are_taken_over() -> None:
    state.merge_revoked(["a", "b"])
    state.merge_revoked(["b", "c"])
    assert set(state.revoked) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("name", "value", "ends"),
    [
        ("CELERY_WORKER_REVOKES_MAX", "7", "7 10800.0"),
        ("TASKQ_WORKER_REVOKE_EXPIRES", "5", "50000 5.0"),
        ("CELERY_WORKER_REVOKES_MAX", "many", "CELERY_WORKER_REVOKES_MAX must be a number"),
    ],
)
def test_limits_come_from_the_environment(name: str, value: str, ends: str) -> None:
    code = "from taskq.worker import state as s; print(s.revoked.maxlen, s.revoked.expires)"
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, name: value},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ends in ran.stdout + ran.stderr
