"""This file grows the pool while tasks wait for it, and shrinks it when they no longer do.

A step of the worker beside the pool: it looks when a task is received and again every
`AUTOSCALE_KEEPALIVE` seconds. Shrinking waits for that long after the last growing, and only
slots that have nothing to do retire.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from taskq.bootsteps import StartStopStep
from taskq.exceptions import ImproperlyConfigured
from taskq.utils.log import get_logger
from taskq.utils.threads import bgThread
from taskq.worker import state

__all__ = ("AUTOSCALE_KEEPALIVE", "Autoscaler", "WorkerComponent", "read_autoscale")


def _read_keepalive() -> float:
    text = os.environ.get("AUTOSCALE_KEEPALIVE") or "30"
    try:
        return float(text)
    except ValueError:
        raise ImproperlyConfigured(
            f"the environment variable AUTOSCALE_KEEPALIVE must be seconds, not {text!r}"
        ) from None


#: Seconds between the last growing of the pool and its first shrinking.
AUTOSCALE_KEEPALIVE = _read_keepalive()

#: Seconds between two looks of the thread, where there is no event loop.
LOOK_S = 1.0

CANNOT_SCALE = (
    "the {name} pool cannot grow and shrink; use --autoscale with the prefork pool, "
    "or give a fixed --concurrency"
)

logger = get_logger(__name__)


def read_autoscale(value: Any) -> tuple[int, int] | None:
    """Give (most, least) slots for "MAX,MIN", "MAX" or a pair, in whatever order; None for none.

    Raises ValueError when it is not that.
    """
    if not value:
        return None
    parts = value.split(",") if isinstance(value, str) else list(value)
    if not 1 <= len(parts) <= 2:
        raise ValueError(
            f"Expected two comma separated integers or one integer. Got {len(parts)} instead."
        )
    try:
        numbers = sorted(int(part) for part in parts)
    except (TypeError, ValueError):
        raise ValueError(f"Expected an integer. Got {parts!r} instead.") from None
    least, most = numbers if len(numbers) == 2 else (0, numbers[0])
    if least < 0 or most < 1:
        raise ValueError(f"Expected MAX,MIN with a MAX of at least 1 and no MIN below 0: {value!r}")
    return most, least


class WorkerComponent(StartStopStep):
    """The autoscaler, when `--autoscale` asks for one."""

    label = "Autoscaler"
    conditional = True
    requires = ("celery.worker.components:Pool",)

    def __init__(self, w: Any, **kwargs: Any) -> None:
        self.enabled = bool(kwargs.get("autoscale"))
        w.autoscaler = None
        super().__init__(w, **kwargs)

    def create(self, w: Any) -> Any:
        """Make it; ImproperlyConfigured when the pool has a fixed size."""
        if not hasattr(w.pool, "grow") and not _grows_when_started(w.pool):
            name = type(w.pool).__module__.rpartition(".")[2]
            raise ImproperlyConfigured(CANNOT_SCALE.format(name=name))
        w.autoscaler = self.instantiate(
            w.autoscaler_cls,
            w.pool,
            w.max_concurrency,
            w.min_concurrency,
            worker=w,
            mutex=nullcontext() if w.use_eventloop else None,
        )
        # With an event loop no thread is needed.
        return None if w.use_eventloop else w.autoscaler

    def start(self, w: Any) -> None:
        """Without an event loop: look also when a task is received, and start the thread."""
        if not w.use_eventloop:
            w.consumer.on_task_message.add(w.autoscaler.maybe_scale)
            super().start(w)

    def register_with_event_loop(self, w: Any, hub: Any) -> None:
        """Look when a task is received, and from time to time."""
        w.consumer.on_task_message.add(w.autoscaler.maybe_scale)
        hub.call_repeatedly(w.autoscaler.keepalive, w.autoscaler.maybe_scale)

    def info(self, w: Any) -> dict[str, Any]:
        """Facts for `inspect stats`."""
        return {"autoscaler": w.autoscaler.info()}


def _grows_when_started(pool: Any) -> bool:
    """Tell whether the pool gets its `grow` when it is started."""
    return "grow" in getattr(type(pool), "__annotations__", ())


class Autoscaler(bgThread):
    """Keeps the number of slots between `min_concurrency` and `max_concurrency`."""

    def __init__(
        self,
        pool: Any,
        max_concurrency: int,
        min_concurrency: int = 0,
        worker: Any = None,
        keepalive: float = AUTOSCALE_KEEPALIVE,
        mutex: AbstractContextManager[Any] | None = None,
    ) -> None:
        super().__init__()
        self.pool = pool
        self.mutex = mutex or threading.Lock()
        self.max_concurrency = max_concurrency
        self.min_concurrency = min_concurrency
        self.keepalive = keepalive
        self.worker = worker
        self._last_scale_up: float | None = None

    def body(self) -> None:
        """Look, and wait until it is time to look again or to end."""
        self.maybe_scale()
        self._shutdown_requested.wait(LOOK_S)

    def maybe_scale(self, req: Any = None) -> bool | None:
        """Grow or shrink the pool to what is wanted now; True if there was anything to do."""
        with self.mutex:
            wanted = max(self.min_concurrency, min(self.qty, self.max_concurrency))
            missing = wanted - self.processes
            if missing > 0:
                self.scale_up(missing)
            elif missing < 0:
                self.scale_down(-missing)
            else:
                return None
            self.pool.maintain_pool()
            return True

    def on_task_received(self, req: Any) -> None:
        """A task has been received."""
        self.maybe_scale(req)

    def update(self, max: int | None = None, min: int | None = None) -> tuple[int, int]:
        """Change the bounds; gives both as they are now. ValueError when they cannot be."""
        with self.mutex:
            most = self.max_concurrency if max is None else max
            least = self.min_concurrency if min is None else min
            if not (isinstance(most, int) and isinstance(least, int) and 0 <= least <= most):
                raise ValueError(f"Expected 0 <= min <= max, two integers. Got {least!r}, {most!r}")
            self.max_concurrency, self.min_concurrency = most, least
            if self.processes > most:
                self._shrink(self.processes - most)
            elif self.processes < least:
                self._grow(least - self.processes)
            return most, least

    def scale_up(self, n: int) -> None:
        """Add `n` slots."""
        self._last_scale_up = time.monotonic()
        self._grow(n)

    def scale_down(self, n: int) -> None:
        """Retire up to `n` idle slots, unless the pool has grown not long ago."""
        since = self._last_scale_up
        if since is None or time.monotonic() - since > self.keepalive:
            self._shrink(n)

    def _grow(self, n: int) -> None:
        logger.info("Scaling up %s processes.", n)
        self.pool.grow(n)

    def _shrink(self, n: int) -> None:
        logger.info("Scaling down %s processes.", n)
        try:
            self.pool.shrink(n)
        except ValueError:
            logger.debug("Autoscaler won't scale down: all processes busy.")

    def info(self) -> dict[str, Any]:
        """Facts for `inspect stats`."""
        return {
            "max": self.max_concurrency,
            "min": self.min_concurrency,
            "current": self.processes,
            "qty": self.qty,
        }

    @property
    def qty(self) -> int:
        """How many tasks run or could."""
        return len(state.reserved_requests)

    @property
    def processes(self) -> int:
        """How many slots the pool has."""
        return int(self.pool.num_processes or 0)
