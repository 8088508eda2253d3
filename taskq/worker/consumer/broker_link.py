"""This file keeps the consumer connected: first connection, retries, a broken connection."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from kombu.exceptions import OperationalError
from kombu.utils.url import maybe_sanitize_url

from taskq.exceptions import WorkerShutdown, WorkerTerminate
from taskq.utils.log import get_logger
from taskq.utils.sqlite import DatabaseUnusable
from taskq.utils.time import humanize_seconds
from taskq.worker import state

__all__ = ("BrokerLink",)

CONNECTION_RETRY = "consumer: Connection to broker lost. Trying to re-establish the connection..."
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

#: Seconds a dead connection may take to be collected.
COLLECT_SOCKET_TIMEOUT = 5.0

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
    prefetch_multiplier: int
    initial_prefetch_count: int
    on_task_message: set[Callable[[], Any]]

    #: The prefetch window while nothing of a lost connection runs, once one was lost; else 0.
    _full_prefetch_count: int = 0
    #: Requests of the lost connection whose tasks still run.
    _still_running: set[Any]

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
        conf = self.app.conf
        if not self._may_retry():
            conn.connect()
            self._on_connected()
            return conn
        # A negative number of retries means for ever.
        limit = conf.broker_connection_max_retries
        shown_limit = limit if limit is not None and limit > 0 else "∞"

        def log_error(exc: Exception, interval: float) -> None:
            self.broker_connection_retry_attempt += 1
            failover = getattr(conn, "alt", None) and interval == 0
            step = (CONNECTION_FAILOVER if failover else CONNECTION_RETRY_STEP).format(
                when=humanize_seconds(interval, "in", " "),
                retries=self.broker_connection_retry_attempt,
                max_retries=shown_limit,
            )
            logger.error(CONNECTION_ERROR, conn.as_uri(), maybe_sanitize_url(str(exc)), step)

        try:
            conn = conn.ensure_connection(
                log_error,
                limit if limit is None or limit >= 0 else None,
                callback=state.maybe_shutdown,
            )
        except DatabaseUnusable:
            # Never retried, and it says by itself what is wrong with the file.
            raise
        except (OperationalError, *conn.recoverable_connection_errors) as exc:
            text = maybe_sanitize_url(str(exc)).rstrip(".")
            raise OperationalError(
                GAVE_UP.format(uri=conn.as_uri(), error=text, limit=shown_limit)
            ) from exc
        self._on_connected()
        return conn

    def _on_connected(self) -> None:
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

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """There was no connection yet."""
        logger.error(
            CONNECTION_ERROR,
            self.conninfo.as_uri(),
            maybe_sanitize_url(str(exc)),
            "Trying to reconnect...",
        )

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """The connection in use has broken; its messages come again."""
        logger.warning(CONNECTION_RETRY, exc_info=exc)
        try:
            self.connection.collect()
        except Exception as error:
            # A dead connection may fail in any way while it is taken apart.
            logger.debug("Could not take the lost connection apart: %r", error)
        if self.app.conf.worker_cancel_long_running_tasks_on_connection_loss:
            self.cancel_active_requests()
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
        self._still_running &= state.active_requests
        fitting = self._fitting_prefetch_count()
        if fitting > self.initial_prefetch_count:
            self.qos.increment_eventually(fitting - self.initial_prefetch_count)
            self.initial_prefetch_count = fitting
        if not self._still_running:
            # Not at once: we are called while the set is looped over.
            self.call_soon(self.on_task_message.discard, self._restore_prefetch)

    def _fitting_prefetch_count(self) -> int:
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
