"""This file runs tasks one at a time in the worker's own thread: the pool without a pool."""

from __future__ import annotations

import os
from typing import Any

from taskq.app.coroutines import LOOP_THREAD, close_home, set_home
from taskq.concurrency.base import BasePool, apply_target
from taskq.signals import worker_process_init

__all__ = ("TaskPool",)


class TaskPool(BasePool):
    """One slot, in the caller: `apply_async` returns when the task is done."""

    body_can_be_buffer = True
    runs_in_caller = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Prepare the one slot; the worker's own process is its child process."""
        super().__init__(*args, **kwargs)
        # An instance attribute saves a call and the bound method for every task.
        self.on_apply = apply_target  # type: ignore[method-assign] # one call less per task
        self.limit = 1
        _, hostname = self.options.get("initargs") or (None, None)
        worker_process_init.send(sender=hostname)

    def on_start(self) -> None:
        """Have coroutines run on a loop in a thread: it turns while the worker does."""
        set_home(LOOP_THREAD)

    def on_stop(self) -> None:
        """End the loop."""
        close_home()

    on_terminate = on_stop

    def _get_info(self) -> dict[str, Any]:
        return {
            **super()._get_info(),
            "processes": [os.getpid()],
            "max-tasks-per-child": None,
            "put-guarded-by-semaphore": self.putlocks,
            "timeouts": (),
        }
