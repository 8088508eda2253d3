"""This file is the worker inside any program: settings and options in, steps out, start and stop.

`worker/program.py` adds what the command line needs: banner, logging, signals, exit codes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from typing import Any, ClassVar

from kombu.exceptions import OperationalError
from kombu.utils.compat import detect_environment

from taskq.app import trace as tracing
from taskq.bootsteps import RUN, TERMINATE
from taskq.bootsteps import Blueprint as BaseBlueprint
from taskq.concurrency import get_implementation
from taskq.exceptions import ImproperlyConfigured, WorkerTerminate
from taskq.platforms import EX_FAILURE, LockFailed, create_pidlock
from taskq.signals import celeryd_init, worker_init, worker_shutdown
from taskq.utils.imports import reload_from_cwd
from taskq.utils.log import get_logger, mlevel
from taskq.utils.nodenames import default_nodename, worker_direct
from taskq.utils.processors import count_processors
from taskq.utils.text import str_to_list
from taskq.utils.threads import default_socket_timeout
from taskq.worker import state

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment] # not on Windows

__all__ = ("WorkController",)

#: Seconds a socket may take while the worker shuts down.
SHUTDOWN_SOCKET_TIMEOUT = 5.0

#: Seconds between two looks at whether a soft shutdown is over.
LOOK_S = 0.05

SELECT_UNKNOWN_QUEUE = """
Trying to select queue subset of {0!r}, but queue {1} isn't
defined in the `task_queues` setting.

If you want to automatically declare unknown queues you can
enable the `task_create_missing_queues` setting.
"""

DESELECT_UNKNOWN_QUEUE = """
Trying to deselect queue subset of {0!r}, but queue {1} isn't
defined in the `task_queues` setting.
"""

logger = get_logger("taskq.worker")


class WorkController:
    """A worker: `WorkController(app).start()` returns when it has stopped, with `exitcode` set."""

    app: Any = None
    pidlock: Any = None
    blueprint: Any = None
    pool: Any = None
    semaphore: Any = None
    hub: Any = None
    timer: Any = None
    consumer: Any = None
    autoscaler: Any = None
    #: The file of revoked ids, if there is one.
    persistence: Any = None
    #: (most, least) slots, with an autoscaler.
    autoscale: tuple[int, int] | None = None
    #: True while running tasks have time left before a cold shutdown.
    is_in_soft_shutdown: bool = False
    #: What the process should exit with, once it is known.
    exitcode: int | None = None

    class Blueprint(BaseBlueprint):
        """The steps of a worker, in order."""

        name = "Worker"
        default_steps: ClassVar[list[str]] = [
            "celery.worker.components:Timer",
            "celery.worker.components:Hub",
            "celery.worker.components:Pool",
            "celery.worker.components:StateDB",
            "celery.worker.autoscale:WorkerComponent",
            "celery.worker.components:Consumer",
        ]

    def __init__(self, app: Any = None, hostname: str | None = None, **kwargs: Any) -> None:
        """Prepare a worker; `kwargs` are the options of `setup_defaults` and `setup_instance`."""
        self.app = app or self.app
        self.hostname = default_nodename(hostname)
        self.startup_time = datetime.now(timezone.utc)
        self.app.loader.init_worker()
        self.on_before_init(**kwargs)
        # A wrong setting is to be found now, not by the first task that needs it.
        self.app.conf.finalize()
        self.setup_defaults(**kwargs)
        self.on_after_init(**kwargs)
        self.setup_instance(**self.prepare_args(**kwargs))

    # --- options ----------------------------------------------------------------------------

    def setup_defaults(
        self,
        concurrency: Any = None,
        loglevel: int | str = "WARN",
        logfile: str | None = None,
        task_events: bool | None = None,
        pool: Any = None,
        consumer_cls: Any = None,
        timer_cls: Any = None,
        timer_precision: float | None = None,
        autoscaler_cls: Any = None,
        pool_putlocks: bool | None = None,
        pool_restarts: bool | None = None,
        optimization: str | None = None,
        O: str | None = None,  # noqa: E741 - the name of Celery's option
        statedb: str | None = None,
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
        scheduler: Any = None,
        pool_cls: Any = None,
        state_db: str | None = None,
        task_time_limit: float | None = None,
        task_soft_time_limit: float | None = None,
        scheduler_cls: Any = None,
        schedule_filename: str | None = None,
        max_tasks_per_child: int | None = None,
        prefetch_multiplier: int | None = None,
        disable_rate_limits: bool | None = None,
        worker_lost_wait: float | None = None,
        max_memory_per_child: int | None = None,
        pool_start_method: str | None = None,
        **_kw: Any,
    ) -> None:
        """Settle every option: what was given, or else the setting."""
        either = self.app.either
        self.loglevel = mlevel(loglevel)
        self.logfile = logfile
        self.concurrency = either("worker_concurrency", concurrency)
        self.task_events = either("worker_send_task_events", task_events)
        self.pool_cls = either("worker_pool", pool, pool_cls)
        self.consumer_cls = either("worker_consumer", consumer_cls)
        self.timer_cls = either("worker_timer", timer_cls)
        self.timer_precision = either("worker_timer_precision", timer_precision)
        self.optimization = optimization or O
        self.autoscaler_cls = either("worker_autoscaler", autoscaler_cls)
        self.pool_putlocks = either("worker_pool_putlocks", pool_putlocks)
        self.pool_restarts = either("worker_pool_restarts", pool_restarts)
        self.pool_start_method = either("worker_pool_start_method", pool_start_method)
        self.statedb = either("worker_state_db", statedb, state_db)
        self.schedule_filename = either("beat_schedule_filename", schedule_filename)
        self.scheduler = either("beat_scheduler", scheduler, scheduler_cls)
        self.time_limit = either("task_time_limit", time_limit, task_time_limit)
        self.soft_time_limit = either("task_soft_time_limit", soft_time_limit, task_soft_time_limit)
        self.max_tasks_per_child = either("worker_max_tasks_per_child", max_tasks_per_child)
        self.max_memory_per_child = either("worker_max_memory_per_child", max_memory_per_child)
        self.prefetch_multiplier = int(either("worker_prefetch_multiplier", prefetch_multiplier))
        self.disable_rate_limits = either("worker_disable_rate_limits", disable_rate_limits)
        self.worker_lost_wait = either("worker_lost_wait", worker_lost_wait)

    def setup_instance(
        self,
        queues: Any = None,
        ready_callback: Callable[[Any], Any] | None = None,
        pidfile: str | None = None,
        include: Any = None,
        use_eventloop: bool | None = None,
        exclude_queues: Any = None,
        **kwargs: Any,
    ) -> None:
        """Choose queues and modules and make the steps."""
        self._check_numbers()
        self.pidfile = pidfile
        self.setup_queues(queues, exclude_queues)
        self.setup_includes(str_to_list(include))
        if not self.concurrency or self.concurrency == "auto":
            self.concurrency = count_processors()
        self.ready_callback = ready_callback or self.on_consumer_ready
        self._conninfo = self.app.connection_for_read()
        self.pool_cls = get_implementation(self.pool_cls)
        self.use_eventloop = self.should_use_eventloop() if use_eventloop is None else use_eventloop
        self.options = kwargs
        worker_init.send(sender=self)
        self.steps: list[Any] = []
        self.on_init_blueprint()
        # After logging is set up: it settles whether success is logged at all.
        tracing.setup_worker_optimizations(self.app, self.hostname)
        self.blueprint = self.Blueprint(
            steps=self.app.steps["worker"],
            on_start=self.on_start,
            on_close=self.on_close,
            on_stopped=self.on_stopped,
        )
        self.blueprint.apply(self, **kwargs)

    def _check_numbers(self) -> None:
        for name in ("prefetch_multiplier", "max_tasks_per_child", "max_memory_per_child"):
            if (getattr(self, name) or 0) < 0:
                raise ImproperlyConfigured(
                    f"worker_{name} (--{name.replace('_', '-')}) must not be below 0; "
                    f"it is {getattr(self, name)}"
                )

    def setup_queues(self, include: Any, exclude: Any = None) -> None:
        """Choose the queues to consume from.

        Raises ImproperlyConfigured when one is not known and may not be made.
        """
        queues = self.app.amqp.queues
        include, exclude = str_to_list(include), str_to_list(exclude)
        try:
            queues.select(include)
        except KeyError as exc:
            raise ImproperlyConfigured(SELECT_UNKNOWN_QUEUE.strip().format(include, exc)) from exc
        try:
            queues.deselect(exclude)
        except KeyError as exc:
            raise ImproperlyConfigured(DESELECT_UNKNOWN_QUEUE.strip().format(exclude, exc)) from exc
        if self.app.conf.worker_direct:
            queues.select_add(worker_direct(self.hostname))

    def setup_includes(self, includes: Iterable[str] | None) -> None:
        """Import the modules that define tasks."""
        previous = tuple(self.app.conf.include or ())
        if includes:
            self.app.conf.include = (*previous, *includes)
            for module in includes:
                self.app.loader.import_task_module(module)
        self.include = includes
        modules = {task.__class__.__module__ for task in self.app.tasks.values()}
        self.app.conf.include = tuple(set(previous) | modules | set(includes or ()))

    def should_use_eventloop(self) -> bool:
        """True when the broker can join kombu's hub, and nothing else owns the waiting."""
        return bool(
            detect_environment() == "default"
            and self._conninfo.transport.implements.asynchronous
            and not self.app.IS_WINDOWS
        )

    def prepare_args(self, **kwargs: Any) -> dict[str, Any]:
        """Hook: change the options before the worker is set up."""
        return kwargs

    def on_before_init(self, **kwargs: Any) -> None:
        """Hook: before any option is settled."""
        celeryd_init.send(sender=self.hostname, instance=self, conf=self.app.conf, options=kwargs)

    def on_after_init(self, **kwargs: Any) -> None:
        """Hook: all options are settled."""

    def on_init_blueprint(self) -> None:
        """Hook: the steps are about to be made."""

    # --- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Run until the worker stops."""
        try:
            self.blueprint.start(self)
        except WorkerTerminate as exc:
            self.exitcode = _as_exitcode(exc.code)
            self.terminate()
        except (ImproperlyConfigured, OperationalError) as exc:
            # Their messages say what is wrong and what to do; a traceback would bury it.
            logger.critical("Unrecoverable error: %s", exc)
            logger.debug("Where the error came from", exc_info=exc)
            self.stop(exitcode=EX_FAILURE)
        except Exception as exc:
            # The loop's edge: whatever it was, messages must go back and the process must end.
            logger.critical("Unrecoverable error: %r", exc, exc_info=exc)
            self.stop(exitcode=EX_FAILURE)
        except SystemExit as exc:
            self.stop(exitcode=_as_exitcode(exc.code))
        except KeyboardInterrupt:
            self.stop(exitcode=EX_FAILURE)

    def stop(self, in_sighandler: bool = False, exitcode: int | None = None) -> None:
        """Finish what runs and stop."""
        if exitcode is not None:
            self.exitcode = exitcode
        if self.blueprint.state == RUN:
            self.signal_consumer_close()
            if not in_sighandler or self.pool.signal_safe:
                self._shutdown(warm=True)
        self._send_worker_shutdown()

    def terminate(self, in_sighandler: bool = False) -> None:
        """Stop at once."""
        if self.blueprint.state != TERMINATE:
            self.signal_consumer_close()
            if not in_sighandler or self.pool.signal_safe:
                self._shutdown(warm=False)
        self._send_worker_shutdown()

    def _shutdown(self, warm: bool = True) -> None:
        # Half a shutdown is worse than none: nothing in it may wait for ever.
        with default_socket_timeout(SHUTDOWN_SOCKET_TIMEOUT):
            self.blueprint.stop(self, terminate=not warm)
            self.blueprint.join()
        self.is_in_soft_shutdown = False
        if state.is_cold():
            self.exitcode = _as_exitcode(state.should_terminate)

    def give_up_running(self) -> None:
        """Note what a cold shutdown makes of running tasks: those not acknowledged come again."""
        for request in list(state.active_requests):
            reason = "The worker was stopped before this task had ended"
            request.give_up(reason if request.acknowledged else None)

    def wait_for_soft_shutdown(self) -> None:
        """Wait until the time is up that a soft shutdown leaves, also when nothing runs."""
        if self.app.conf.worker_enable_soft_shutdown_on_idle:
            while self.is_in_soft_shutdown:
                time.sleep(LOOK_S)

    def _send_worker_shutdown(self) -> None:
        worker_shutdown.send(sender=self)

    def signal_consumer_close(self) -> None:
        """Let the loop know that it is over."""
        if self.consumer is not None and self.consumer.blueprint.state == RUN:
            self.consumer.blueprint.close(self.consumer)

    def on_start(self) -> None:
        """Hook: the steps are about to start."""
        if self.pidfile:
            self.pidlock = self._lock_pidfile(self.pidfile)

    def _lock_pidfile(self, path: str) -> Any:
        try:
            return create_pidlock(path)
        except LockFailed as exc:
            raise ImproperlyConfigured(
                f"the pid file {path!r} cannot be written: {exc.__cause__}. Name a file "
                "(--pidfile) in a directory that exists and may be written to."
            ) from exc

    def on_consumer_ready(self, consumer: Any) -> None:
        """Hook: messages flow."""

    def on_close(self) -> None:
        """The worker takes on no more."""
        self.app.loader.shutdown_worker()

    def on_stopped(self) -> None:
        """The steps have stopped: give up what they shared."""
        self.timer.stop()
        self.consumer.shutdown()
        if self.persistence:
            self.persistence.save()
        if self.pidlock:
            self.pidlock.release()

    def register_with_event_loop(self, hub: Any) -> None:
        """Let every step join the event loop."""
        self.blueprint.send_all(
            self, "register_with_event_loop", args=(hub,), description="hub.register"
        )

    def reload(self, modules: Any = None, reload: bool = False, reloader: Any = None) -> None:
        """Import modules (again, with reload=True) and restart the pool."""
        for module in modules if modules is not None else self.app.loader.task_modules:
            if module not in sys.modules:
                self.app.loader.import_from_cwd(module)
            elif reload:
                reload_from_cwd(sys.modules[module], reloader)
        if self.consumer:
            self.consumer.update_strategies()
            self.consumer.reset_rate_limits()
        self.pool.restart()

    # --- what others ask --------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """Facts about this process."""
        uptime = datetime.now(timezone.utc) - self.startup_time
        return {
            "total": self.state.total_count,
            "pid": os.getpid(),
            "clock": str(self.app.clock),
            "uptime": round(uptime.total_seconds()),
        }

    def rusage(self) -> dict[str, Any]:
        """Resources this process has used; NotImplementedError where it is not known."""
        if resource is None:
            raise NotImplementedError("rusage not supported by this platform")
        usage = resource.getrusage(resource.RUSAGE_SELF)
        names = [name.removeprefix("ru_") for name in dir(usage) if name.startswith("ru_")]
        return {name: getattr(usage, f"ru_{name}") for name in names}

    def stats(self) -> dict[str, Any]:
        """Everything `inspect stats` tells."""
        facts = self.info()
        facts.update(self.blueprint.info(self))
        facts.update(self.consumer.blueprint.info(self.consumer))
        try:
            facts["rusage"] = self.rusage()
        except NotImplementedError:
            facts["rusage"] = "N/A"
        return facts

    @property
    def state(self) -> Any:
        """The module that knows this process's requests."""
        return state

    def __repr__(self) -> str:
        where = self.blueprint.human_state() if self.blueprint else "INIT"
        return f"<Worker: {self.hostname} ({where})>"

    __str__ = __repr__


def _as_exitcode(code: Any) -> int:
    """Read the code of a SystemExit: none is success, text is a failure."""
    if code is None or code is False:
        return 0
    return code if isinstance(code, int) else EX_FAILURE
