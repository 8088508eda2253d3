"""This file is the prefork pool: tasks run in child processes, which a crash or a limit may end.

Step 7 of the journey hands it tasks; `process_pool.py` gives them to children. What users hook
into is here: the initializer and the destructor of children, with their signals.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from taskq.app import trace as tracing
from taskq.concurrency.base import BasePool
from taskq.concurrency.heritage import Heritage, set_up_log
from taskq.concurrency.process_pool import ProcessPool
from taskq.exceptions import ImproperlyConfigured
from taskq.platforms import IS_WINDOWS, set_mp_process_title, signals
from taskq.signals import worker_process_init, worker_process_shutdown
from taskq.utils.log import get_logger
from taskq.worker import state

__all__ = ("TaskPool", "process_destructor", "process_initializer")

#: Signals of the worker that mean nothing to a child.
WORKER_SIGRESET = {"SIGTERM", "SIGHUP", "SIGTTIN", "SIGTTOU", "SIGUSR1"}
WORKER_SIGIGNORE = {"SIGINT"}

logger = get_logger(__name__)


def process_initializer(app: Any, hostname: str) -> None:
    """Make a new child ready to run the tasks of `app`."""
    app.set_current()
    signals.reset(*WORKER_SIGRESET)
    signals.ignore(*WORKER_SIGIGNORE)
    set_mp_process_title("celeryd", hostname=hostname)
    app.loader.init_worker()
    app.loader.init_worker_process()
    if "%i" in os.environ.get("CELERY_LOG_FILE", "").lower():
        # A file for each child.
        set_up_log(app, hostname)
    tracing.setup_worker_optimizations(app, hostname)
    # The parent's tracers hold the parent's result backends.
    _build_tracers(app, hostname)
    worker_process_init.send(sender=None)


def spawned_process_initializer(heritage: Heritage, hostname: str) -> None:
    """Make a child ready that is a new interpreter."""
    process_initializer(heritage.take_over(hostname), hostname)


def _build_tracers(app: Any, hostname: str) -> None:
    for name, task in app.tasks.items():
        task.__trace__ = tracing.build_tracer(name, task, app.loader, hostname, app=app)


def process_destructor(pid: int, exitcode: int) -> None:
    """A child is about to end."""
    worker_process_shutdown.send(sender=None, pid=pid, exitcode=exitcode)


class TaskPool(BasePool):
    """Child processes, each running one task at a time."""

    Pool = ProcessPool
    BlockingPool = ProcessPool

    uses_semaphore = True
    write_stats = None

    _hub: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Prepare the pool; ImproperlyConfigured where processes cannot be forked."""
        super().__init__(*args, **kwargs)
        if IS_WINDOWS or not hasattr(os, "fork"):
            raise ImproperlyConfigured(
                "the prefork pool needs fork(), which this platform does not have; "
                "use the threads pool instead: -P threads"
            )

    def on_start(self) -> None:
        """Start the children."""
        options = self.options
        initializer: Any = process_initializer
        app, *others = initargs = options.get("initargs") or (None,)
        start_method = options.get("start_method") or "fork"
        if app is not None and start_method == "spawn":
            initializer, initargs = spawned_process_initializer, (Heritage(app), *others)
        elif app is not None:
            # What every child would load for itself is loaded once, and its memory shared.
            _build_tracers(*initargs)
        conf = self.app.conf if self.app is not None else None
        pool = self._pool = self.Pool(
            int(self.limit or 1),
            initializer=None if app is None else initializer,
            initargs=initargs,
            on_exit=process_destructor,
            max_tasks=options.get("maxtasksperchild"),
            max_memory=options.get("max_memory_per_child"),
            soft_timeout=options.get("soft_timeout"),
            timeout=options.get("timeout"),
            alive_within=conf.worker_proc_alive_timeout if conf is not None else 4.0,
            propagate=tuple(self.callbacks_propagate or ()),
            start_method=start_method,
        )
        pool.start()
        if options.get("threads", True):
            pool.did_start_ok()
            pool.drive_by_thread()

    def apply_async(
        self,
        target: Callable[..., Any],
        args: Any = None,
        kwargs: Any = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[Any], Any] | None = None,
        accept_callback: Callable[[int, float], Any] | None = None,
        timeout_callback: Callable[..., Any] | None = None,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        correlation_id: str | None = None,
        discard_if: Callable[[], Any] | None = None,
        **_: Any,
    ) -> Any:
        """Give a task to a child.

        Every option by its name, and no `on_apply` in between: handing on what `**` gathers costs
        more than the rest of the way.
        """
        args, kwargs = args or (), kwargs or {}
        if self._does_debug:
            self._log_call(target, args, kwargs)
        return self._pool.apply_async(
            target,
            args,
            kwargs,
            callback,
            error_callback,
            accept_callback,
            timeout_callback,
            soft_timeout,
            timeout,
            correlation_id,
            discard_if,
            # What the tracer runs differs by the task's name.
            args[0] if target in _TRACERS else target,
        )

    def on_apply(self, *args: Any, **options: Any) -> Any:
        """Give a task to a child; `apply_async` is the same."""
        return self.apply_async(*args, **options)

    def did_start_ok(self) -> bool:
        """Wait until the children are up; False when one cannot be started."""
        return bool(self._pool.did_start_ok())

    def register_with_event_loop(self, loop: Any) -> None:
        """Have the worker's loop make the pool move."""
        self._hub = loop
        self._pool.watch_with(loop)

    def _fire_timers(self) -> None:
        # The loop turns no more, but the broker wants heartbeats until the last task is done.
        if self._hub is not None:
            self._hub.fire_timers()

    def grow(self, n: int = 1) -> None:
        """Add children."""
        self._pool.grow(n)

    def shrink(self, n: int = 1) -> None:
        """Retire idle children; ValueError when there are not so many."""
        self._pool.shrink(n)

    def terminate_job(self, pid: int, signal: Any = None) -> None:
        """End what runs in this child."""
        if self._pool is not None:
            self._pool.terminate_job(pid, signal)

    def flush(self) -> None:
        """Forget the tasks that have not started; their messages come again."""
        if self._pool is not None:
            self._pool.flush()

    def restart(self) -> None:
        """Replace the children, each when it has nothing to do."""
        self._pool.restart()

    def on_close(self) -> None:
        """Take no more tasks."""
        if self._pool is not None:
            self._pool.close()

    def on_stop(self) -> None:
        """Finish what runs, unless a cold shutdown is asked for meanwhile; end the children."""
        if self._pool is not None:
            self._pool.close()
            self._pool.join(gives_up=_is_shutdown_cold, on_turn=self._fire_timers)
            self._pool = None

    def on_terminate(self) -> None:
        """End the children whatever they run."""
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None

    @property
    def num_processes(self) -> int | None:
        """How many children there are to be."""
        return self.limit if self._pool is None else self._pool.processes

    def _get_info(self) -> dict[str, Any]:
        pool = self._pool
        return {
            **super()._get_info(),
            "max-concurrency": self.limit,
            "processes": [] if pool is None else pool.pids(),
            "max-tasks-per-child": self.options.get("maxtasksperchild") or "N/A",
            "put-guarded-by-semaphore": self.putlocks,
            "timeouts": (
                self.options.get("soft_timeout") or 0,
                self.options.get("timeout") or 0,
            ),
            "writes": "N/A",
        }


_TRACERS = frozenset({tracing.fast_trace_task, tracing.trace_task_ret})


def _is_shutdown_cold() -> bool:
    return state.should_terminate is not None and state.should_terminate is not False
