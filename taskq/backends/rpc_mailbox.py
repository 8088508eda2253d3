"""The reply queues of one application in this process, and the reports that came in them.

How it works. Each thread that sends tasks has a reply queue, and all of them are read over one
connection. Whoever waits reads it, for all: one thread at a time, for SLICE_S seconds, the others
sleep until it has got something. The newest report of a task is kept, so that a result may be
asked for by another thread than the one that reads, and later.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kombu import Consumer, Queue
from kombu.exceptions import ContentDisallowed, DecodeError, OperationalError

from taskq.states import FAILURE, READY_STATES, SUCCESS
from taskq.utils.log import get_logger

if TYPE_CHECKING:
    from taskq.app.base import App

__all__ = ("Mailbox", "find_mailbox")

logger = get_logger(__name__)

#: Seconds the reading thread reads before it looks for reply queues that are new.
SLICE_S = 0.1
#: Seconds to look for what has come: with none, Redis's answer would not be read.
GLANCE_S = 0.002
#: Seconds a reply queue is taken for declared, by a channel that has declared it.
DECLARED_S = 1.0
#: Seconds between two attempts to connect, and how many there are.
RECONNECT_S = 1.0
RECONNECT_MAX = 20
#: Reports that are kept.
KEPT_MAX = 2**16

#: What a message raises that holds no report, or none we may read.
_UNREADABLE = (ContentDisallowed, DecodeError, LookupError, TypeError, AttributeError)

#: What a retry policy says of connecting.
_PATIENCE = frozenset({"max_retries", "interval_start", "interval_step", "interval_max"})

Document = dict[str, Any]


class Mailbox:
    """The newest report of each task, read from reply queues by the threads that wait."""

    def __init__(self, app: App, accept: Any) -> None:
        self._app = weakref.ref(app)
        self._accept = accept
        #: Told of each report: objects with on_report(task id, document).
        self.consumers: weakref.WeakSet[Any] = weakref.WeakSet()
        #: Connections of a process we are a fork of: not ours to use, nor to close.
        self._inherited: list[Any] = []
        self._connection: Any = None
        self.forget_process()

    def forget_process(self) -> None:
        """We are in a forked child: reply queues, connection and waiting threads are not here."""
        if self._connection is not None:
            self._inherited.append((self._connection, self._consumer))
        self.news = threading.Condition()
        self._queues: dict[str, Queue] = {}
        self._declared: dict[str, tuple[int, float]] = {}
        self._documents: OrderedDict[str, Document] = OrderedDict()
        self._reading = False
        self._turn = 0
        self._connection = None
        self._consumer: Any = None
        self._failing: tuple[type[BaseException], ...] = (OperationalError, OSError)
        self._next_try = 0.0
        self._failures = 0

    def close(self) -> None:
        """Close the connection; it is made anew when somebody asks for a result."""
        connection, self._connection, self._consumer = self._connection, None, None
        self._declared.clear()
        if connection is not None:
            connection.close()

    # -- reply queues

    def open_queue(self, name: str, make: Callable[[], Queue], producer: Any, policy: Any) -> None:
        """Have a reply queue declared before a task is sent that is answered there.

        `policy` is the one that tasks are published with.
        """
        queue = self._queues.get(name)
        if queue is None:
            queue = make()
            with self.news:
                self._queues[name] = queue
        _connect(producer.connection, policy)
        channel, now = producer.channel, time.monotonic()
        by, until = self._declared.get(name, (0, 0.0))
        if by == id(channel) and now < until:
            return
        ensure = channel.connection.client.ensure
        ensure(queue, lambda: queue(producer.channel).declare(), **policy)()
        self._declared[name] = (id(producer.channel), now + DECLARED_S)

    # -- reports

    def newest(self, task_id: str) -> Document | None:
        """The newest report of a task, of those that were read."""
        return self._documents.get(task_id)

    def taken(self, task_id: str) -> None:
        """Somebody has got the outcome: it makes room before those that nobody has seen."""
        with self.news:
            if task_id in self._documents:
                self._documents.move_to_end(task_id, last=False)
            self.news.notify_all()

    def remove(self, task_id: str) -> None:
        """Keep nothing about a task."""
        with self.news:
            self._documents.pop(task_id, None)

    def receive(self, seconds: float, enough: Callable[[], Any]) -> None:
        """Wait for reports: up to `seconds`, and not when it is `enough`.

        Comes back earlier when this thread is to read, with what it has read.
        """
        with self.news:
            turn = self._turn
            if self._reading:
                self.news.wait_for(
                    lambda: enough() or self._turn != turn or not self._reading, timeout=seconds
                )
                return
            if enough():
                return
            self._reading = True
        self._as_reader(lambda: self._read(min(seconds, SLICE_S)))

    def collect(self) -> None:
        """Take in all that has come, without waiting for more."""
        with self.news:
            turn = self._turn
            if self._reading:
                # It gets all that comes, at once.
                self.news.wait_for(lambda: self._turn != turn, timeout=SLICE_S)
                return
            self._reading = True
        self._as_reader(self._read_all)

    def _as_reader(self, read: Callable[[], None]) -> None:
        try:
            read()
        finally:
            with self.news:
                self._reading = False
                self._turn += 1
                self.news.notify_all()

    # -- the connection, used by the reading thread alone

    def _read(self, seconds: float) -> None:
        pause = self._next_try - time.monotonic()
        if pause > 0 or not self._queues:
            time.sleep(min(max(pause, 0.0) or seconds, seconds))
            return
        try:
            self._consume()
            self._wait_for_message(seconds)
        except self.errors() as exc:
            self._drop(exc)

    def _read_all(self) -> None:
        if not self._queues:
            return
        try:
            self._consume()
        except self.errors() as exc:
            self._drop(exc)  # an old connection may have ended long ago
            self._consume()
        while self._wait_for_message(GLANCE_S):
            pass
        for queue in list(self._queues.values()):
            get = queue(self._consumer.channel).get
            # What was pushed to us has come before the answer that nothing is left.
            while (message := get(no_ack=True, accept=self._accept)) is not None:
                self._on_message(message)

    def _wait_for_message(self, seconds: float) -> bool:
        try:
            self._connection.drain_events(timeout=seconds)
        except TimeoutError:
            return False
        return True

    def _consume(self) -> None:
        """Be connected, and consume from all reply queues."""
        if self._connection is None:
            app: Any = self._app()
            connection = app.connection_for_read()
            self._failing = (OperationalError, OSError) + (
                connection.connection_errors + connection.channel_errors
            )
            try:
                connection.ensure_connection(max_retries=1, interval_start=0, timeout=SLICE_S)
                channel = connection.default_channel
            except self._failing:
                _take_apart(connection)
                raise
            self._consumer = Consumer(
                channel, [], no_ack=True, accept=self._accept, on_message=self._on_message
            )
            self._connection = connection
        for name, queue in list(self._queues.items()):
            if not self._consumer.consuming_from(name):
                self._consumer.add_queue(queue)
                self._consumer.consume()
        self._failures = 0

    def errors(self) -> tuple[type[BaseException], ...]:
        """What reading raises when the connection has failed."""
        return self._failing

    def _drop(self, exc: BaseException) -> None:
        """The connection has failed: a new one is made, RECONNECT_MAX times in a row."""
        connection, self._connection, self._consumer = self._connection, None, None
        self._declared.clear()
        if connection is not None:
            _take_apart(connection)
        self._failures += 1
        if self._failures > 1:
            self._next_try = time.monotonic() + RECONNECT_S
        if self._failures > RECONNECT_MAX:
            self._failures = 0
            raise exc
        logger.warning("The connection that results are read from is lost, connecting: %r", exc)

    def _on_message(self, message: Any) -> None:
        task_id = message.properties.get("correlation_id")
        try:
            document = message.payload
            task_id = document.get("task_id") or task_id
            document["status"]
        except _UNREADABLE as exc:
            # Who waits for it is told, and all others get theirs.
            logger.error("Result of task %s can not be read: %r", task_id, exc)
            document = {"status": FAILURE, "result": exc, "task_id": task_id}
        if task_id:
            self._keep(task_id, document)

    def _keep(self, task_id: str, document: Document) -> None:
        with self.news:
            old = self._documents.get(task_id)
            if old is not None and old["status"] == SUCCESS:
                return
            self._documents[task_id] = document
            if document["status"] in READY_STATES:
                self._documents.move_to_end(task_id)
            while len(self._documents) > KEPT_MAX:
                self._documents.popitem(last=False)
            for consumer in list(self.consumers):
                consumer.on_report(task_id, document)
            self._turn += 1
            self.news.notify_all()


def _connect(connection: Any, policy: Any) -> None:
    """Open a connection as soon, or fail as soon, as publishing would."""
    if connection is not None and not connection.connected:
        patience = {name: value for name, value in policy.items() if name in _PATIENCE}
        try:
            connection.ensure_connection(**patience)
        except OperationalError:
            _take_apart(connection)
            raise


def _take_apart(connection: Any) -> None:
    try:
        connection.collect()
    except Exception as error:
        # A dead connection may fail in any way while it is taken apart.
        logger.debug("Could not take the lost connection apart: %r", error)


_mailboxes: weakref.WeakKeyDictionary[Any, Mailbox] = weakref.WeakKeyDictionary()
_finding = threading.Lock()


def find_mailbox(app: App, accept: Any) -> Mailbox:
    """The mailbox of an application, for all of its backend objects."""
    with _finding:
        mailbox = _mailboxes.get(app)
        if mailbox is None:
            mailbox = _mailboxes[app] = Mailbox(app, accept)
            weakref.finalize(app, mailbox.close).atexit = False
        return mailbox


def _forget_process() -> None:
    global _finding
    _finding = threading.Lock()
    for mailbox in list(_mailboxes.values()):
        mailbox.forget_process()
        for consumer in list(mailbox.consumers):
            consumer.on_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_process)
