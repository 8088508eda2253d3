"""This file lists what a worker starts and stops: timer, hub, pool, consumer.

Each step is one of Celery's graph, under its name there, and only makes the thing; the order is
held to the list in `worker/program.py` by a test.
"""

from __future__ import annotations

from typing import Any

from kombu.asynchronous import Hub as EventLoop
from kombu.asynchronous import get_event_loop, set_event_loop
from kombu.asynchronous.timer import Timer as LoopTimer

from taskq.bootsteps import StartStopStep, Step
from taskq.exceptions import ImproperlyConfigured
from taskq.utils.log import get_logger
from taskq.utils.nodenames import node_format
from taskq.worker import state
from taskq.worker.autoscale import read_autoscale
from taskq.worker.persistence import SAVE_INTERVAL_S, Persistent
from taskq.worker.request import build_task_runner

__all__ = ("Consumer", "Hub", "Pool", "StateDB", "Timer")

logger = get_logger("taskq.worker")


class Timer(Step):
    """What runs things later; the loop fires it, with or without a hub."""

    def create(self, w: Any) -> None:
        """Make the timer the pool or the setting `worker_timer` asks for."""
        if w.use_eventloop:
            w.timer = LoopTimer(max_interval=10.0)
        else:
            w.timer = self.instantiate(
                w.timer_cls or w.pool_cls.Timer,
                max_interval=w.timer_precision,
                on_error=self.on_timer_error,
                on_tick=self.on_timer_tick,
            )

    def on_timer_error(self, exc: Any) -> None:
        """A call made by the timer has failed."""
        logger.error("Timer error: %r", exc, exc_info=True)

    def on_timer_tick(self, delay: float) -> None:
        """The timer will look again in `delay` seconds."""
        logger.debug("Timer wake-up! Next ETA %s secs.", delay)


class Hub(StartStopStep):
    """kombu's event loop, when the broker can join one."""

    requires = (Timer,)

    def __init__(self, w: Any, **kwargs: Any) -> None:
        w.hub = None
        super().__init__(w, **kwargs)

    def include_if(self, w: Any) -> bool:
        """Only with an event loop."""
        return bool(w.use_eventloop)

    def create(self, w: Any) -> Hub:
        """Take the loop of this process, or make it."""
        w.hub = get_event_loop()
        if w.hub is None:
            w.hub = EventLoop(w.timer)
            set_event_loop(w.hub)
        else:
            w.timer = w.hub.timer
        return self

    def start(self, w: Any) -> None:
        """The consumer runs the loop."""

    def stop(self, w: Any) -> None:
        """Close the loop; what it was still asked to call is called."""
        w.hub.close()
        set_event_loop(None)

    def terminate(self, w: Any) -> None:
        """Close the loop."""
        self.stop(w)


class Pool(StartStopStep):
    """Where tasks run."""

    requires = (Hub,)

    def __init__(self, w: Any, autoscale: Any = None, **kwargs: Any) -> None:
        w.pool = None
        w.max_concurrency = None
        w.min_concurrency = w.concurrency
        try:
            w.autoscale = read_autoscale(autoscale)
        except ValueError as exc:
            raise ImproperlyConfigured(f"autoscale: {exc}") from exc
        if w.autoscale:
            w.max_concurrency, w.min_concurrency = w.autoscale
        super().__init__(w, **kwargs)

    def create(self, w: Any) -> Any:
        """Make the pool with the worker's concurrency and limits."""
        pool = w.pool = self.instantiate(
            w.pool_cls,
            w.min_concurrency,
            initargs=(w.app, w.hostname),
            maxtasksperchild=w.max_tasks_per_child,
            max_memory_per_child=w.max_memory_per_child,
            timeout=w.time_limit,
            soft_timeout=w.soft_time_limit,
            putlocks=w.pool_putlocks,
            lost_worker_timeout=w.worker_lost_wait,
            threads=not w.use_eventloop,
            allow_restart=w.pool_restarts,
            start_method=w.pool_start_method,
            app=w.app,
        )
        w.process_task = build_task_runner(pool)
        return pool

    def close(self, w: Any) -> None:
        """Take on no more tasks."""
        if w.pool:
            w.pool.close()

    def stop(self, w: Any) -> None:
        """Finish what runs, unless a cold shutdown is asked for meanwhile."""
        super().stop(w)
        w.wait_for_soft_shutdown()
        if state.is_cold():
            w.give_up_running()

    def terminate(self, w: Any) -> None:
        """Stop whatever runs."""
        if w.pool:
            w.pool.terminate()
            # Afterwards: what has answered meanwhile has ended by itself.
            w.give_up_running()

    def info(self, w: Any) -> dict[str, Any]:
        """Facts about the pool."""
        return {"pool": w.pool.info if w.pool else "N/A"}

    def register_with_event_loop(self, w: Any, hub: Any) -> None:
        """Let the loop watch the pool."""
        w.pool.register_with_event_loop(hub)


class StateDB(Step):
    """The file that keeps revoked ids over a restart, where one is named."""

    # The hub's step settles which timer it is.
    requires = (Hub,)

    def __init__(self, w: Any, **kwargs: Any) -> None:
        self.enabled = w.statedb
        w.persistence = None
        super().__init__(w, **kwargs)

    def create(self, w: Any) -> None:
        """Read the file, and write it from time to time; the worker does so when it has stopped."""
        path = node_format(w.statedb, w.hostname) or ""
        w.persistence = Persistent(w.state, path, w.app.clock)
        w.timer.call_repeatedly(SAVE_INTERVAL_S, w.persistence.save_changes)


class Consumer(StartStopStep):
    """What takes messages from the broker; started last, it runs the loop."""

    last = True

    def create(self, w: Any) -> Any:
        """Make the consumer with a prefetch window of concurrency x multiplier."""
        slots = max(w.max_concurrency, 1) if w.max_concurrency else w.concurrency
        consumer = w.consumer = self.instantiate(
            w.consumer_cls,
            w.process_task,
            hostname=w.hostname,
            task_events=w.task_events,
            init_callback=w.ready_callback,
            initial_prefetch_count=slots * w.prefetch_multiplier,
            pool=w.pool,
            timer=w.timer,
            app=w.app,
            controller=w,
            hub=w.hub,
            worker_options=w.options,
            disable_rate_limits=w.disable_rate_limits,
            prefetch_multiplier=w.prefetch_multiplier,
        )
        return consumer
