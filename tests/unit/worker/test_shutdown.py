"""Which worker has something to finish when it is told to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from contract.workers import forget

from taskq.worker import shutdown, state

HOUR_S = 3600.0


@pytest.fixture
def worker() -> Iterator[Any]:
    """A worker whose tasks have an hour left after QUIT."""
    kept = signal.getsignal(signal.SIGALRM), signal.getsignal(signal.SIGINT)
    conf = SimpleNamespace(
        worker_soft_shutdown_timeout=HOUR_S, worker_enable_soft_shutdown_on_idle=False
    )
    yield SimpleNamespace(app=SimpleNamespace(conf=conf), is_in_soft_shutdown=False)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, kept[0])
    signal.signal(signal.SIGINT, kept[1])
    forget()


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="there is no SIGALRM here")
@pytest.mark.parametrize("held", ["active_requests", "reserved_requests", None])
def test_a_worker_that_holds_a_task_has_time_left(worker: Any, held: str | None) -> None:
    if held:
        getattr(state, held).add(object())
    shutdown.on_cold_shutdown(worker)
    assert worker.is_in_soft_shutdown is bool(held)
