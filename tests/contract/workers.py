"""A worker inside the test's process: solo, in a thread, on the in-memory broker."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from patience import PATIENCE_S

from taskq import Celery
from taskq.app import trace
from taskq.worker import state
from taskq.worker.worker import WorkController


def memory_app(name: str = "tests", **settings: Any) -> Celery:
    """An application whose broker and results are in this process."""
    app = Celery(name, broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update({"broker_transport_options": {"polling_interval": 0.01}, **settings})
    return app


@contextmanager
def serving(app: Celery, **options: Any) -> Iterator[WorkController]:
    """A worker that takes messages until the block ends; then it has stopped."""
    forget()
    ready = threading.Event()
    worker = app.WorkController(
        pool="solo", ready_callback=lambda consumer: ready.set(), hostname="w@test", **options
    )
    thread = threading.Thread(target=worker.start, name="worker")
    thread.start()
    try:
        assert ready.wait(PATIENCE_S), "the worker does not come up"
        yield worker
    finally:
        # A message, not just a flag: it ends the wait for the broker at once.
        app.control.shutdown()
        thread.join(PATIENCE_S)
        forget()
        state.revoked.clear()
        state.revoked_stamps.clear()
        trace.reset_worker_optimizations(app)
        assert not thread.is_alive(), "the worker does not stop"


def forget() -> None:
    """Make the state of the process that of one that has seen no worker."""
    state.reset_state()
    state.should_stop = state.should_terminate = None
