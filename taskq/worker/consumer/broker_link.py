"""This file keeps the consumer connected: first connection, retries, a broken connection."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Set
from itertools import count
from typing import Any

from kombu.exceptions import OperationalError

from taskq.exceptions import WorkerShutdown, WorkerTerminate
from taskq.utils.log import get_logger
from taskq.utils.sqlite import DatabaseUnusable
from taskq.utils.time import humanize_seconds
from taskq.worker import state
from taskq.worker.consumer.broker_trouble import describe_trouble, warn_of_eviction
from taskq.worker.consumer.lost_channel import LostChannels

__all__ = ("BrokerLink",)

CONNECTION_RETRY = (
    "consumer: Connection to broker lost. Trying to re-establish the connection... (%s)"
)
CONNECTION_RETRY_STEP = "Trying again {when}... ({retries}/{max_retries})"
CONNECTION_ERROR = "consumer: Cannot connect to %s: %s.\n%s\n"
CONNECTION_FAILOVER = "Will retry using next failover."
RETRY_DISABLED = (
    "Retrying to %s the message broker after a connection loss has been disabled "
    "(app.conf.%s=False). Shutting down..."
)

GAVE_UP = (
    "cannot connect to {uri}: {error}. Gave up after {limit} retries "
    "(broker_connection_max_retries). Is the broker running, and is broker_url right?"
)

REFUSED = "the broker {uri} does not let this worker consume: {error}"

#: Seconds between attempts: the first pause, how it grows, the longest.
FIRST_PAUSE_S, PAUSE_STEP_S, LONGEST_PAUSE_S = 2, 2, 32
#: Seconds after which a pause is used for a look whether the broker is back.
LOOK_S = 2.0

logger = get_logger("taskq.worker.consumer.consumer")


class BrokerLink:
    """The part of the consumer that connects to the broker."""

    app: Any
    hub: Any
    connection: Any
    conninfo: Any
    amqheartbeat: float | None
    pool: Any
    controller: Any
    qos: Any
    call_soon: Any
    task_consumer: Any
    lost_channels: LostChannels
    prefetch_multiplier: int
    initial_prefetch_count: int
    on_task_message: set[Callable[[], Any]]

    #: The prefetch window while nothing of a lost connection runs, once one was lost; else 0.
    _full_prefetch_count: int = 0
    #: Requests of the lost connection whose tasks still run.
    _still_running: Set[Any] = frozenset()

    #: True until the first connection has been made.
    first_connection_attempt: bool = True
    #: How many attempts the connection of now has taken.
    broker_connection_retry_attempt: int = 0

    def connect(self) -> Any:
        """Open the connection messages come from; the loop, if there is one, watches it."""
        connection = self.connection_for_read(heartbeat=self.amqheartbeat)
        if self.hub:
            connection.transport.register_with_event_loop(connection.connection, self.hub)
        return connection

    def connection_for_read(self, heartbeat: float | None = None) -> Any:
        """Give an open connection to consume from."""
        return self.ensure_connected(self.app.connection_for_read(heartbeat=heartbeat))

    def connection_for_write(self, url: str | None = None, heartbeat: float | None = None) -> Any:
        """Give an open connection to publish on."""
        return self.ensure_connected(self.app.connection_for_write(url, heartbeat=heartbeat))

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, as often as the settings allow; raises the last error."""
        if not self._may_retry():
            conn.connect()
            self._on_connected(conn)
            return conn
        # A negative number of retries means for ever.
        limit = self.app.conf.broker_connection_max_retries
        if limit is not None and limit < 0:
            limit = None
        errors = (*conn.recoverable_connection_errors, *conn.connection_errors)
        try:
            self._keep_connecting(conn, errors, limit)
        except DatabaseUnusable:
            # Never retried, and it says by itself what is wrong with the file.
            raise
        except errors as exc:
            error = describe_trouble(exc, conn)
            raise OperationalError(
                GAVE_UP.format(uri=conn.as_uri(), error=error, limit=limit)
            ) from exc
        self._on_connected(conn)
        return conn

    def _keep_connecting(
        self, conn: Any, errors: tuple[type[BaseException], ...], limit: int | None
    ) -> None:
        """Try to connect, `limit` times again with longer and longer pauses (None: for ever)."""
        pause = FIRST_PAUSE_S
        for retries in count():
            try:
                conn._connection_factory()
                return
            except DatabaseUnusable:
                raise
            except errors as exc:
                if limit is not None and retries >= limit:
                    raise
                # Brokers of a failover list are tried one after another, without a pause.
                seconds = pause if conn.completes_cycle(retries) else 0
                self._log_failed_attempt(conn, exc, seconds, limit)
                conn.maybe_switch_next()
            if seconds:
                pause = min(pause + PAUSE_STEP_S, LONGEST_PAUSE_S)
                if self._pause(conn, errors, seconds):
                    return

    def _pause(self, conn: Any, errors: tuple[type[BaseException], ...], seconds: float) -> bool:
        """Wait; True when the broker came back meanwhile, and the connection is open.

        Pauses grow to half a minute: a broker that is back must not wait so long for its worker.
        """
        end = time.monotonic() + seconds
        look_at = time.monotonic() + LOOK_S
        while (now := time.monotonic()) < end:
            state.maybe_shutdown()
            if now >= look_at:
                try:
                    conn._connection_factory()
                    return True
                except errors:
                    conn.maybe_switch_next()
                look_at = time.monotonic() + LOOK_S
            time.sleep(min(1.0, end - now))
        state.maybe_shutdown()
        return False

    def _log_failed_attempt(
        self, conn: Any, exc: BaseException, seconds: float, limit: int | None
    ) -> None:
        self.broker_connection_retry_attempt += 1
        failover = getattr(conn, "alt", None) and not seconds
        step = (CONNECTION_FAILOVER if failover else CONNECTION_RETRY_STEP).format(
            when=humanize_seconds(seconds, "in", " "),
            retries=self.broker_connection_retry_attempt,
            max_retries=limit or "∞",
        )
        logger.error(CONNECTION_ERROR, conn.as_uri(), describe_trouble(exc, conn), step)

    def _on_connected(self, conn: Any) -> None:
        if self.first_connection_attempt:
            warn_of_eviction(conn)
        self.first_connection_attempt = False
        self.broker_connection_retry_attempt = 0

    def _retry_setting(self) -> str:
        conf = self.app.conf
        if self.first_connection_attempt and conf.broker_connection_retry_on_startup is not None:
            return "broker_connection_retry_on_startup"
        return "broker_connection_retry"

    def _may_retry(self) -> bool:
        return bool(getattr(self.app.conf, self._retry_setting()))

    def on_connection_lost(self, exc: Exception) -> None:
        """Get ready to connect anew, or stop the worker where that is not wanted."""
        if not self._may_retry():
            self.on_connection_error_before_connected(exc, "")
            again = "" if self.first_connection_attempt else "re-"
            what = f"{again}establish a connection to"
            logger.critical(RETRY_DISABLED, what, self._retry_setting())
            raise WorkerShutdown(1)
        if isinstance(exc, OSError) and exc.errno == errno.EMFILE:
            # No file descriptors left: trying again would only fail faster.
            raise WorkerTerminate(1)
        if self.connection:
            self.on_connection_error_after_connected(exc)
        else:
            self.on_connection_error_before_connected(exc)

    def on_connection_error_before_connected(
        self, exc: Exception, step: str = "Trying to reconnect..."
    ) -> None:
        """There was no connection yet."""
        error = describe_trouble(exc, self.conninfo)
        logger.error(CONNECTION_ERROR, self.conninfo.as_uri(), error, step)

    def refuse(self, exc: Exception) -> OperationalError:
        """Give the error that ends the worker: trying again would not help."""
        error = describe_trouble(exc, self.conninfo)
        return OperationalError(REFUSED.format(uri=self.conninfo.as_uri(), error=error))

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """The connection in use has broken; its messages come again."""
        logger.warning(CONNECTION_RETRY, describe_trouble(exc, self.conninfo))
        logger.debug("Where the connection was lost", exc_info=exc)
        if self.pool and self.pool.flush:
            # What has not reached a child is forgotten; its messages come again.
            self.pool.flush()
        running = [
            request
            for request in state.requests.values()
            if request in state.active_requests or request.is_with_pool
        ]
        if self.task_consumer is not None:
            self.lost_channels.add(self.task_consumer.channel, running)
        try:
            self.connection.collect()
        except Exception as error:
            # A dead connection may fail in any way while it is taken apart.
            logger.debug("Could not take the lost connection apart: %r", error)
        if self.app.conf.worker_cancel_long_running_tasks_on_connection_loss:
            self.cancel_active_requests()
        for request in running:
            request.outlive_connection()
        if self.app.conf.worker_enable_prefetch_count_reduction:
            self._reduce_prefetch()

    def _reduce_prefetch(self) -> None:
        """Take fewer messages ahead while tasks of the lost connection hold their slots."""
        self._full_prefetch_count = self._full_prefetch_count or self.initial_prefetch_count
        self._still_running = set(state.active_requests)
        if not self._still_running or not self._full_prefetch_count:
            return
        self.initial_prefetch_count = self._fitting_prefetch_count()
        self.on_task_message.add(self._restore_prefetch)
        logger.info(
            "Temporarily reducing the prefetch count from %s to %s: %s tasks are still running",
            self._full_prefetch_count,
            self.initial_prefetch_count,
            len(self._still_running),
        )

    def _restore_prefetch(self) -> None:
        """At each message, which is when it matters: take as many ahead as fit by now."""
        self._fit_prefetch()
        if not self._still_running:
            # Not at once: we are called while the set is looped over.
            self.call_soon(self.on_task_message.discard, self._restore_prefetch)

    def resize_prefetch(self, slots: int) -> None:
        """Take as many messages ahead as fit a pool of this size, from now on."""
        # No limit is no limit, however large the pool.
        if self.initial_prefetch_count:
            self._full_prefetch_count = slots * self.prefetch_multiplier
            self._fit_prefetch()

    def _fit_prefetch(self) -> None:
        change = self._fitting_prefetch_count() - self.initial_prefetch_count
        self.initial_prefetch_count += change
        if change > 0:
            self.qos.increment_eventually(change)
        elif change < 0:
            self.qos.decrement_eventually(-change)

    def _fitting_prefetch_count(self) -> int:
        self._still_running = self._still_running & state.active_requests
        held = len(self._still_running) * self.prefetch_multiplier
        return max(self.prefetch_multiplier, self._full_prefetch_count - held)

    def cancel_active_requests(self) -> None:
        """End running tasks whose messages will come again (late, unacknowledged)."""
        for request in list(state.active_requests):
            if request.task.acks_late and not request.acknowledged:
                logger.warning(
                    "Task %s cannot be acknowledged, and its message will be delivered again. "
                    "Terminating it instead.",
                    request,
                )
                request.cancel(self.pool)
