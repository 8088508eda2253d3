"""Outcomes as messages to the client that has sent the task: `rpc://`.

Nothing is stored. A call says in `reply_to` where its answer goes, a queue of the thread that has
sent it; the worker publishes each report there through the broker. So only the process that has
sent a task can read its result. What came is kept in the client's mailbox (rpc_mailbox.py).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from kombu import Consumer, Exchange, Producer, Queue

from taskq import states
from taskq._state import get_current_task, task_join_will_block
from taskq.backends.abstract import Backend
from taskq.backends.asynchronous import (
    E_RETRY_LIMIT_EXCEEDED,
    AsyncBackendMixin,
    BaseResultConsumer,
    logger,
)
from taskq.backends.rpc_mailbox import find_mailbox

if TYPE_CHECKING:
    from taskq.context import Context

__all__ = ("BacklogLimitExceeded", "RPCBackend")

E_NO_CHORD_SUPPORT = """
The "rpc" result backend does not support chords, since nobody could count their parts.

A group that is followed by a task is a chord too. Use the Redis result backend for them.
"""


class BacklogLimitExceeded(Exception):
    """Too many messages were read in search of one. Not raised here: no message is lost by it."""


class ResultConsumer(BaseResultConsumer):
    """Waits for the results of one backend object, in any number of threads."""

    Consumer = Consumer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._wanted: set[str] = set()
        self._reports: deque[tuple[str, Any]] = deque()
        self.backend.mailbox.consumers.add(self)

    def on_after_fork(self) -> None:
        """What the parent waits for comes to the parent."""
        self._wanted.clear()
        self._reports.clear()

    def start(self, initial_task_id: str, no_ack: bool = True, **kwargs: Any) -> None:
        self.consume_from(initial_task_id)

    def stop(self) -> None:
        self._wanted.clear()

    def consume_from(self, task_id: str) -> None:
        """Wait for a task."""
        self._wanted.add(task_id)
        known = self.backend.mailbox.newest(task_id)
        if known is not None:
            self._reports.append((task_id, known))

    def cancel_for(self, task_id: str) -> None:
        """Wait no more; also called by destructors, so nothing here may block."""
        self._wanted.discard(task_id)

    def on_report(self, task_id: str, document: Any) -> None:
        """From the thread that reads the mailbox."""
        if task_id in self._wanted:
            self._reports.append((task_id, document))

    def drain_events_until(
        self,
        p: Any,
        timeout: float | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[Any]:
        def wait(timeout: float | None = None) -> None:
            self.drain_events(timeout, lambda: p.ready)

        return self.drainer.drain_events_until(
            p, timeout=timeout, on_interval=on_interval, wait=wait
        )

    def drain_events(
        self, timeout: float | None = None, until: Callable[[], bool] = lambda: False
    ) -> None:
        """Take in reports as they come: wait at most `timeout` seconds, or `until` it is enough."""
        mailbox = self.backend.mailbox
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._reports and not until():
            left = 1.0 if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return
            try:
                mailbox.receive(left, lambda: self._reports or until())
            except mailbox.errors() as exc:
                logger.critical(E_RETRY_LIMIT_EXCEEDED)
                raise RuntimeError(E_RETRY_LIMIT_EXCEEDED) from exc
        while self._reports:
            try:
                task_id, document = self._reports.popleft()
            except IndexError:
                break  # another thread was quicker
            self._take(task_id, document)

    def _take(self, task_id: str, document: Any) -> None:
        # Told twice, or not waited for any more.
        if task_id not in self._wanted:
            return
        self.on_state_change(self.backend.meta_from_decoded(dict(document)), None)
        if document["status"] in states.READY_STATES:
            self.backend.mailbox.taken(task_id)


class RPCBackend(Backend, AsyncBackendMixin):
    """Results sent to the process that has sent the task, and known to it alone.

    connection, exchange and exchange_type are of old and not used; `persistent` None means the
    setting result_persistent, and that is off unless set.
    """

    Exchange = Exchange
    Producer = Producer
    Consumer = Consumer
    ResultConsumer = ResultConsumer
    BacklogLimitExceeded = BacklogLimitExceeded

    persistent = False
    supports_autoexpire = True
    supports_native_join = True

    class Queue(Queue):
        """A reply queue."""

        #: The client may have to declare it again at any time.
        can_cache_declaration = False

    def __init__(
        self,
        app: Any,
        connection: Any = None,
        exchange: Any = None,
        exchange_type: str | None = None,
        persistent: bool | None = None,
        serializer: str | None = None,
        auto_delete: bool = True,
        expires: float | timedelta | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(app, serializer=serializer, expires=expires, **kwargs)
        self.persistent = self.prepare_persistent(persistent)
        self.delivery_mode = 2 if self.persistent else 1
        # The exchange without a name leads to every queue by the queue's name.
        self.exchange = self.Exchange("", "direct")
        self.auto_delete = auto_delete
        self.mailbox = find_mailbox(app, self.accept)
        self.result_consumer = self.ResultConsumer(
            self, app, self.accept, self._pending_results, self._pending_messages
        )

    # -- the client: where answers go

    @property
    def oid(self) -> str:
        """Name of this thread's reply queue."""
        return str(self.app.thread_oid)

    @property
    def binding(self) -> Queue:
        """This thread's reply queue."""
        return self._make_queue(self.oid)

    def _make_queue(self, name: str) -> Queue:
        return self.Queue(
            name, self.exchange, name, durable=True, auto_delete=self.auto_delete,
            expires=self.expires or None,
        )  # fmt: skip

    def on_task_call(self, producer: Any, task_id: str) -> dict[str, Any]:
        """A task is about to be sent: its reply queue is declared.

        Not inside a task, where nobody may wait for the result.
        """
        if not task_join_will_block():
            name = self.oid
            policy = self.app.conf.task_publish_retry_policy or {}
            self.mailbox.open_queue(name, lambda: self._make_queue(name), producer, policy)
        return {}

    # -- the worker: answering

    def destination_for(self, task_id: str, request: Any) -> tuple[str | None, str]:
        """(reply queue, correlation id) for a task's reports."""
        if request is None:
            request = getattr(get_current_task(), "request", None)
        if request is None:
            raise RuntimeError(f"RPC backend missing task request for {task_id!r}")
        return request.reply_to, task_id

    def on_reply_declare(self, task_id: str) -> Any:
        """Entities to declare before answering: none, since the client has its queue."""
        return None

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Context | None = None,
        **kwargs: Any,
    ) -> Any:
        reply_to, correlation_id = self.destination_for(task_id, request)
        if not reply_to:
            return
        document = self._get_result_meta(result, state, traceback, request)
        document["task_id"] = task_id
        with self.app.producer_or_acquire() as producer:
            producer.publish(
                document,
                exchange=self.exchange,
                routing_key=reply_to,
                correlation_id=correlation_id,
                serializer=self.serializer,
                delivery_mode=self.delivery_mode,
                declare=self.on_reply_declare(task_id),
                retry=True,
                retry_policy=self.retry_policy,
            )

    # -- the client: reading

    def get_task_meta(self, task_id: str, backlog_limit: int = 1000) -> Any:
        """The newest document of a task that has come to this process; PENDING when none has."""
        self._ensure_not_eager()
        return self._get_task_meta_for(task_id)

    poll = get_task_meta

    def _get_task_meta_for(self, task_id: str) -> Any:
        document = self.mailbox.newest(task_id)
        if document is None or document["status"] not in states.READY_STATES:
            self.mailbox.collect()
            document = self.mailbox.newest(task_id)
        if document is None:
            return {"status": states.PENDING, "result": None}
        return self.meta_from_decoded(dict(document))

    def on_out_of_band_result(self, task_id: str, message: Any) -> None:
        """A report came some other way."""
        self.result_consumer.on_out_of_band_result(message)

    def is_cached(self, task_id: str) -> bool:
        """Has the outcome of this task come?"""
        document = self.mailbox.newest(task_id)
        return document is not None and document["status"] in states.READY_STATES

    def _forget(self, task_id: str) -> None:
        self.mailbox.remove(task_id)

    def revive(self, channel: Any) -> None:
        """Nothing to do: the mailbox makes its own connection anew."""

    # -- what needs a store

    def ensure_chords_allowed(self) -> NoReturn:
        """Raise NotImplementedError: nobody could count the parts of a chord."""
        raise NotImplementedError(E_NO_CHORD_SUPPORT.strip())

    def reload_task_result(self, task_id: str) -> NoReturn:
        """Raise NotImplementedError."""
        self._unsupported("reload_task_result")

    def reload_group_result(self, task_id: str) -> NoReturn:
        """Raise NotImplementedError."""
        self._unsupported("reload_group_result")

    def save_group(self, group_id: str, result: Any) -> NoReturn:
        """Raise NotImplementedError."""
        self._unsupported("save_group")

    def restore_group(self, group_id: str, cache: bool = True) -> NoReturn:
        """Raise NotImplementedError."""
        self._unsupported("restore_group")

    def delete_group(self, group_id: str) -> NoReturn:
        """Raise NotImplementedError."""
        self._unsupported("delete_group")

    def _unsupported(self, what: str) -> NoReturn:
        raise NotImplementedError(f"{what} is not supported by this backend.")

    # -- settings

    def as_uri(self, include_password: bool = True) -> str:
        return "rpc://"

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        mine = {
            "connection": None,
            "exchange": self.exchange.name,
            "exchange_type": self.exchange.type,
            "persistent": self.persistent,
            "serializer": self.serializer,
            "auto_delete": self.auto_delete,
            "expires": self.expires,
        }
        return super().__reduce__(args, {**mine, **(kwargs or {})})
