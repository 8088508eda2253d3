"""This file is the consumer: the life of one connection to the broker, again and again.

`start` runs the blueprint (connection, task queues, control, loop) until the worker stops, and
starts it anew when the broker was lost. Requests that wait for an ETA or a rate limit wait here;
what happens to a message is in `delivery.py`, what happens to the connection in `broker_link.py`,
when a rate limit allows the next run in `buckets.py`.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, ClassVar

from billiard.common import restart_state
from billiard.exceptions import RestartFreqExceeded

from taskq.app import trace as tracing
from taskq.bootsteps import CLOSE, TERMINATE, StartStopStep
from taskq.bootsteps import Blueprint as BaseBlueprint
from taskq.exceptions import ImproperlyConfigured
from taskq.utils.log import get_logger
from taskq.utils.nodenames import gethostname
from taskq.utils.time import rate
from taskq.worker import loops, state
from taskq.worker.consumer.broker_link import BrokerLink
from taskq.worker.consumer.buckets import Bucket
from taskq.worker.consumer.delivery import Deliveries
from taskq.worker.consumer.delivery import dump_body as dump_body
from taskq.worker.consumer.lost_channel import LostChannels

__all__ = ("Consumer", "Evloop", "dump_body")

STOP_CONDITIONS = frozenset({CLOSE, TERMINATE})

logger = get_logger(__name__)


class Consumer(Deliveries, BrokerLink):
    """Takes messages from the broker and hands requests to the worker."""

    class Blueprint(BaseBlueprint):
        """The steps of a consumer, in order."""

        name = "Consumer"
        default_steps: ClassVar[list[str]] = [
            "celery.worker.consumer.steps:Connection",
            "celery.worker.consumer.steps:Agent",
            "celery.worker.consumer.steps:Tasks",
            "celery.worker.consumer.steps:DelayedDelivery",
            "celery.worker.consumer.steps:Control",
            "celery.worker.consumer.consumer:Evloop",
        ]

        def shutdown(self, parent: Any) -> None:
            """Let every step give up what it kept while the pool was stopping."""
            self.send_all(parent, "shutdown", "shutting down", propagate=False)

    Strategies = dict

    #: Called once with the consumer, when it first takes messages.
    init_callback: Callable[[Any], Any] | None = None
    pool: Any = None
    timer: Any = None
    event_dispatcher: Any = None
    heart: Any = None
    gossip: Any = None
    task_consumer: Any = None
    qos: Any = None
    #: How often the blueprint was started anew; -1 before the first start.
    restart_count: int = -1
    #: Entries of the timer that were there before this connection and outlive it.
    timer_entries_before_start: set[int] | None = None
    #: Entries of the timer made for this connection.
    timer_entries_registered: set[int] | None = None

    def __init__(
        self,
        on_task_request: Callable[[Any], Any],
        init_callback: Callable[[Any], Any] | None = None,
        hostname: str | None = None,
        pool: Any = None,
        app: Any = None,
        timer: Any = None,
        controller: Any = None,
        hub: Any = None,
        amqheartbeat: float | None = None,
        worker_options: dict[str, Any] | None = None,
        disable_rate_limits: bool = False,
        initial_prefetch_count: int = 2,
        prefetch_multiplier: int = 1,
        **kwargs: Any,
    ) -> None:
        """Make the steps; `on_task_request(request)` is called when a request is to run."""
        self.app = app
        self.controller = controller
        self.init_callback = init_callback
        self.hostname = hostname or gethostname()
        self.pid = os.getpid()
        self.pool = pool
        self.timer = timer
        self.hub = hub
        self.strategies: dict[str, Any] = self.Strategies()
        self.connection: Any = None
        self.conninfo = app.connection_for_read()
        self.connection_errors = self.conninfo.connection_errors
        self.channel_errors = self.conninfo.channel_errors
        self.on_task_request = on_task_request
        self.on_task_message: set[Callable[[], Any]] = set()
        self.amqheartbeat_rate = app.conf.broker_heartbeat_checkrate
        self.amqheartbeat = self._find_heartbeat(amqheartbeat)
        self.disable_rate_limits = disable_rate_limits
        self.initial_prefetch_count = initial_prefetch_count
        self.prefetch_multiplier = prefetch_multiplier
        self.qos_global: bool | None = None
        self.task_buckets: defaultdict[str, Bucket | None] = defaultdict(lambda: None)
        self.loop: Callable[..., Any] = loops.asynloop if hub else loops.synloop
        self._restart_state = restart_state(maxR=5, maxT=1)
        self.lost_channels = LostChannels()
        self._limit_order = 0
        self._pending_operations: deque[Callable[[], Any]] = deque()
        self.reset_rate_limits()
        self.steps: list[Any] = []
        self.blueprint = self.Blueprint(steps=app.steps["consumer"], on_close=self.on_close)
        self.blueprint.apply(self, **dict(worker_options or {}, **kwargs))

    def _find_heartbeat(self, amqheartbeat: float | None) -> float:
        if not self.hub:
            # Nobody would answer while a task runs in this thread.
            return 0
        return self.app.conf.broker_heartbeat if amqheartbeat is None else amqheartbeat

    # --- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Consume until the worker stops; connect anew whenever the broker was lost."""
        blueprint = self.blueprint
        while blueprint.state not in STOP_CONDITIONS:
            state.maybe_shutdown()
            if self.restart_count >= 0:
                self._avoid_busy_restarts()
            self.restart_count += 1
            self._remember_timer_entries()
            try:
                blueprint.start(self)
            except self._recoverable_errors() as exc:
                state.maybe_shutdown()
                if blueprint.state not in STOP_CONDITIONS:
                    self.on_connection_lost(exc)
                    self.on_close()
                    blueprint.restart(self)
            except self.channel_errors as exc:
                raise self.refuse(exc) from exc

    def _recoverable_errors(self) -> tuple[type[Exception], ...]:
        if self.app.conf.broker_channel_error_retry:
            return (*self.connection_errors, *self.channel_errors)
        return tuple(self.connection_errors)

    def _avoid_busy_restarts(self) -> None:
        """Pause when a broker takes us on and drops us again and again: no tight loop of starts."""
        try:
            self._restart_state.step()
        except RestartFreqExceeded as exc:
            logger.critical("Frequent restarts detected: %r", exc, exc_info=exc)
            time.sleep(1)

    def _remember_timer_entries(self) -> None:
        entries = getattr(self.timer, "_queue", ())
        self.timer_entries_before_start = {id(scheduled.entry) for scheduled in entries}

    def on_ready(self) -> None:
        """Messages flow from now on; the first time, tell the worker."""
        callback, self.init_callback = self.init_callback, None
        if callback:
            callback(self)

    def loop_args(self) -> tuple[Any, ...]:
        """Give the loop what it works with."""
        return (
            self,
            self.connection,
            self.task_consumer,
            self.blueprint,
            self.hub,
            self.qos,
            self.amqheartbeat,
            self.app.clock,
            self.amqheartbeat_rate,
        )

    def register_with_event_loop(self, hub: Any) -> None:
        """Let every step join the event loop."""
        self.blueprint.send_all(
            self, "register_with_event_loop", args=(hub,), description="Hub.register"
        )

    def stop(self) -> None:
        """Stop taking messages."""
        self.blueprint.stop(self)

    def shutdown(self) -> None:
        """Give up the connection; what is held unacknowledged goes back to its queues."""
        self.perform_pending_operations()
        self.blueprint.shutdown(self)

    def on_close(self) -> None:
        """Forget what was waiting here: its messages come again."""
        known = self.timer_entries_before_start or set()
        for scheduled in list(getattr(self.timer, "_queue", ())):
            if id(scheduled.entry) not in known:
                scheduled.entry.cancel()
        for bucket in self.task_buckets.values():
            if bucket:
                bucket.clear_pending()
        if self.pool and self.pool.flush:
            self.pool.flush()
        for request in [*state.reserved_requests, *state.scheduled_requests]:
            if request not in state.active_requests and not request.is_with_pool:
                state.requests.pop(request.id, None)
        state.reserved_requests.clear()
        state.scheduled_requests.clear()

    # --- calls that must be made by the thread of the connection ------------------------------

    def call_soon(self, p: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Have the loop's thread call p(*args, **kwargs) when it comes round."""
        if self.hub:
            return self.hub.call_soon(lambda: p(*args, **kwargs))
        self._pending_operations.append(lambda: p(*args, **kwargs))
        return p

    #: Acks must be sent by the thread of the connection too.
    call_soon_ack = call_soon

    def perform_pending_operations(self) -> None:
        """Make the calls that were asked for; for loops without a hub."""
        while self._pending_operations:
            operation = self._pending_operations.popleft()
            try:
                operation()
            except Exception as exc:
                logger.exception("Pending callback raised: %r", exc)

    # --- task types and queues ----------------------------------------------------------------

    def update_strategies(self) -> None:
        """Settle, for every registered task, what its type settles."""
        loader = self.app.loader
        for name, task in self.app.tasks.items():
            self.strategies[name] = task.start_strategy(self.app, self)
            # Through the module: agents replace build_tracer to see every run.
            task.__trace__ = tracing.build_tracer(name, task, loader, self.hostname, app=self.app)

    @property
    def max_prefetch_count(self) -> int:
        """The prefetch window of a pool that is idle."""
        return int((self.pool.num_processes or 0) * self.prefetch_multiplier)

    def add_task_queue(
        self,
        queue: str,
        exchange: str | None = None,
        exchange_type: str | None = None,
        routing_key: str | None = None,
        **options: Any,
    ) -> None:
        """Consume from one more queue; it is declared like any other when it is not known."""
        queues = self.app.amqp.queues
        if queue in queues:
            entity = queues.select_add(queues[queue])
        else:
            entity = queues.select_add(
                queue,
                exchange=queue if exchange is None else exchange,
                exchange_type="direct" if exchange_type is None else exchange_type,
                routing_key=routing_key,
                **options,
            )
        if not self.task_consumer.consuming_from(queue):
            self.task_consumer.add_queue(entity)
            self.task_consumer.consume()
            logger.info("Started consuming from %s", queue)

    def cancel_task_queue(self, queue: str) -> None:
        """Consume from a queue no more."""
        logger.info("Canceling queue %s", queue)
        self.app.amqp.queues.deselect(queue)
        self.task_consumer.cancel_by_queue(queue)

    # --- requests that wait -------------------------------------------------------------------

    def bucket_for_task(self, type: Any) -> Bucket | None:
        """Make the token bucket of a task type; None without a rate limit."""
        try:
            limit = rate(getattr(type, "rate_limit", None))
        except ValueError as exc:
            raise ImproperlyConfigured(f"the task {type.name}: {exc}") from exc
        return Bucket(limit) if limit else None

    def reset_rate_limits(self) -> None:
        """Read the rate limits of all task types again; what waits is measured by the new ones."""
        if self.disable_rate_limits:
            return
        waiting = [bucket for bucket in self.task_buckets.values() if bucket and bucket.contents]
        for name, task in self.app.tasks.items():
            self.task_buckets[name] = self.bucket_for_task(task)
        for old in waiting:
            requests = list(old.contents)
            old.clear_pending()
            for request in requests:
                self.qos.decrement_eventually()
                self._apply_rate_limit(request)

    def _apply_rate_limit(self, request: Any) -> None:
        bucket = self.task_buckets[request.type]
        if bucket is None:
            self._run(request)
        elif not self.send_back(request, bucket):
            self._limit_task(request, bucket, 1)

    def send_back(self, request: Any, bucket: Bucket) -> bool:
        """Have the broker keep a request that is far from its turn; False when it stays here."""
        seconds = bucket.find_time_away()
        if not seconds or not self.park(request, seconds):
            return False
        bucket.count_sent_away()
        logger.debug("Task %s waits in the broker for its rate limit", request)
        return True

    def _limit_task(self, request: Any, bucket: Bucket, tokens: int) -> None:
        """Run a request as soon as its bucket has tokens, after those that wait already."""
        waiting = len(bucket.contents)
        if not waiting and bucket.can_consume(tokens):
            self._run(request)
            return
        # What waits leaves its place in the prefetch window to tasks that can run.
        self.qos.increment_eventually()
        bucket.add(request)
        if not waiting:
            self._schedule_bucket_request(bucket)

    def park(self, request: Any, seconds: float) -> bool:
        """Have the broker keep a request for some seconds; False when it is to be held here."""
        delay = getattr(request.message.channel, "basic_delay", None)
        if delay is None or not self.app.conf.worker_eta_in_broker:
            return False
        # Channels that cannot always do it say so.
        if delay(request.message.delivery_tag, seconds) is False:
            return False
        request.acknowledged = True
        state.task_ready(request)
        return True

    def _limit_post_eta(self, request: Any, bucket: Bucket, tokens: int) -> None:
        """An ETA has come for a task with a rate limit: the later of the two counts."""
        self.qos.decrement_eventually()
        state.task_reserved(request)
        self._apply_rate_limit(request)

    def _schedule_bucket_request(self, bucket: Bucket) -> None:
        """Run what the bucket has tokens for and come back when it has more."""
        while bucket.contents:
            request = bucket.pop()
            if not bucket.can_consume(1):
                bucket.contents.appendleft(request)
                # Entries of one moment run in turn, whatever the bucket.
                self._limit_order = (self._limit_order + 1) % 10
                self.timer.call_after(
                    bucket.expected_time(1),
                    self._schedule_bucket_request,
                    (bucket,),
                    priority=self._limit_order,
                )
                return
            self.qos.decrement_eventually()
            self._run(request)

    def apply_eta_task(self, task: Any) -> None:
        """An ETA has come: run the request; the prefetch window shrinks again."""
        state.task_reserved(task)
        self.qos.decrement_eventually()
        self._run(task)

    def _run(self, request: Any) -> None:
        """Run a request that was held, if its message is still ours."""
        if state.should_stop is not None or state.should_terminate is not None:
            # Its message goes back to the queue when the channel is closed.
            return
        holds = getattr(request.message.channel, "holds", None)
        if holds is not None and not holds(request.message.delivery_tag):
            logger.warning(
                "Not running %s: this worker stalled, and its message was given to another",
                request,
            )
            state.task_ready(request)
            return
        self.on_task_request(request)

    def __repr__(self) -> str:
        return f"<Consumer: {self.hostname} ({self.blueprint.human_state()})>"


class Evloop(StartStopStep):
    """The loop: starting it is where the worker spends its life."""

    label = "event loop"
    last = True

    def start(self, c: Any) -> None:
        """Run until there is a reason to stop."""
        self.patch_all(c)
        c.loop(*c.loop_args())

    def patch_all(self, c: Any) -> None:
        """Nothing to prepare; users' loops may override it."""
