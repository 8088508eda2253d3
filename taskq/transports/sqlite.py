"""The embedded broker: a kombu transport whose queues are tables of one SQLite file.

Between publish (app/amqp.py) and on_message (worker/consumer/delivery.py) of a task's journey.

How it works. Publishing inserts a row and rings the bells of the queue's consumers. A consumer
reserves up to its prefetch window in one transaction, which also settles the acks of the turn
before; then it delivers. With kombu's Hub that happens at the end of each turn of the loop, before
it waits, and the bell is a reader of the loop; without one, drain_events does the same and delivers
one message per call. With a Hub an ack is collected until the end of the turn: code that runs a
long task inside the turn calls `channel.flush_acks()` first. Without one it is stored at once.
A bell nobody rang although there was a message is not trusted: then the file is looked at every
50 ms (PRAGMA data_version, a few microseconds) instead of every second.
"""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from typing import Any

from kombu.transport import base, virtual

from taskq.transports.consuming import DELIVERY_S, read_lease
from taskq.transports.sqlite_bell import WOKEN
from taskq.transports.sqlite_channel import Channel
from taskq.transports.sqlite_lease import LeaseLost, Session
from taskq.transports.sqlite_store import Reserved
from taskq.transports.sqlite_topology import SCHEMA, Routes
from taskq.utils.log import get_logger
from taskq.utils.sqlite import Database, DatabaseUnavailable, open_database, parse_url

__all__ = ("Transport", "database_path")

logger = get_logger(__name__)

#: Seconds between looks at the file, while bells are answered and while they are not.
SLOW_LOOK_S = 1.0
FAST_LOOK_S = 0.05

_routes: dict[Database, Routes] = {}


def database_path(url: str) -> str:
    """Give the absolute path of the file a sqlite:/// URL means now."""
    return parse_url(url).path


class Transport(virtual.Transport):
    """One connection to the embedded broker."""

    Channel = Channel

    can_parse_url = True
    #: A writer waits for the file (`?timeout=`); retries around that would only multiply it.
    waits_by_itself = True
    driver_type = "sqlite"
    driver_name = "sqlite3"

    connection_errors = (*virtual.Transport.connection_errors, DatabaseUnavailable)
    recoverable_connection_errors = connection_errors
    recoverable_channel_errors = ()

    implements = base.Transport.implements.extend(
        asynchronous=True,
        batch_publish=True,
        exchange_type=frozenset(["direct", "topic", "fanout"]),
        heartbeats=False,
    )

    #: The file; opened by establish_connection.
    database: Database
    routes: Routes

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.lease_s = read_lease(client.transport_options)
        self._session: Session | None = None
        #: Reserved, not delivered yet.
        self.waiting: deque[tuple[Channel, Reserved]] = deque()
        #: The Hub this connection is registered with.
        self.loop: Any = None
        self._woken = False
        self._look_s = SLOW_LOOK_S
        self._looked_version: object = None
        self._found_by_look = False
        self._due_timer: Any = None

    # -- kombu's interface

    def establish_connection(self) -> Transport:
        host = self.client.hostname or ""
        url = host if "://" in host else f"sqlite:///{self.client.virtual_host}"
        self.database = open_database(parse_url(url))
        self.database.require("broker", SCHEMA)
        self.routes = _routes.setdefault(self.database, {})
        super().establish_connection()
        return self

    def close_connection(self, connection: Any) -> None:
        if self.loop is not None:
            self.unregister_from_event_loop(connection, self.loop)
        try:
            super().close_connection(connection)
        finally:
            # Also when the file could not be written: kept up, the session would hold its messages.
            session, self._session = self._session, None
            if session is not None:
                session.close()

    def driver_version(self) -> str:
        return sqlite3.sqlite_version

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Give the URL with the absolute path of its file."""
        location, _, query = uri.partition("?")
        return f"sqlite:///{database_path(location)}" + (query and f"?{query}")

    @property
    def default_connection_params(self) -> dict[str, Any]:
        return {}

    def drain_events(self, connection: Any, timeout: float | None = None, **kwargs: Any) -> None:
        """Deliver one message, waiting for it up to `timeout` seconds (without end when None).

        Raises socket.timeout when there was none.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._deliver_next():
            self._reserve()
            if self.waiting:
                continue
            left = SLOW_LOOK_S if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("no message came in time")
            self._wait(left)

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Let a kombu Hub drive this connection."""
        self.loop = loop
        loop.on_tick.add(self._on_turn_end)
        if self._session is not None:
            loop.add_reader(self._session.bell, self._on_bell)
        self._schedule_look(loop)

    def unregister_from_event_loop(self, connection: Any, loop: Any) -> None:
        self.loop = None
        loop.on_tick.discard(self._on_turn_end)
        if self._due_timer is not None:
            self._due_timer[1].cancel()
            self._due_timer = None
        if self._session is not None and self._session.bell.fileno() >= 0:
            loop.remove_reader(self._session.bell)

    # -- sessions

    @property
    def session(self) -> Session:
        """This connection as a consumer; made when it first consumes."""
        if self._session is None:
            self._session = Session(self.database, self.lease_s)
            if self.loop is not None:
                self.loop.add_reader(self._session.bell, self._on_bell)
        return self._session

    @property
    def has_session(self) -> bool:
        return self._session is not None

    def wake(self) -> None:
        """Make the loop come round without waiting, from any thread."""
        if self._session is not None and not self._woken:
            self._woken = True
            self._session.bell.ring(WOKEN)

    def _check_session(self) -> None:
        """After a lost lease forget what was not delivered and join anew."""
        session = self._session
        if session is not None and not session.holds():
            self.waiting.clear()
            session.rejoin()
            for channel in self.channels:
                channel.on_rejoined()

    # -- one turn

    def _reserve(self) -> None:
        """Settle and reserve for each channel that has something to settle or room."""
        self._check_session()
        for channel in list(self.channels):
            reserved = channel.turn()
            if reserved:
                self.waiting.extend([(channel, message) for message in reserved])
                if self._found_by_look:
                    self._look_s = FAST_LOOK_S
        self._found_by_look = False

    def _deliver_next(self) -> bool:
        while self.waiting and self._holds_lease():
            channel, message = self.waiting.popleft()
            if channel.deliver(message):
                return True
        return False

    def _deliver_for(self, seconds: float) -> bool:
        """Deliver what waits, until the time is over; say whether there was anything."""
        deadline = time.monotonic() + seconds
        delivered = False
        while self._deliver_next():
            delivered = True
            if time.monotonic() >= deadline:
                break
        return delivered

    def _holds_lease(self) -> bool:
        try:
            return self._session is None or self._session.holds()
        except DatabaseUnavailable:
            # Nothing is started that may be with somebody else.
            return False

    def _on_turn_end(self) -> None:
        """Called by the loop before it waits."""
        try:
            self._reserve()
        except LeaseLost:
            raise
        except DatabaseUnavailable as exc:
            # What is not settled stays collected; giving up the connection would run it twice.
            logger.error("The broker could not be reached, trying again soon: %s", exc)
            return
        delivered = self._deliver_for(DELIVERY_S)
        if self.loop is not None:
            if delivered or self.waiting or any(channel.has_work() for channel in self.channels):
                # What was delivered may have set timers of its own (an ETA, a rate limit).
                self.wake()
            else:
                self._schedule_due()

    def _on_bell(self) -> None:
        self._woken = False
        if self._session is not None and self._session.bell.hear():
            self._look_s = SLOW_LOOK_S
            self._be_hungry()

    def _be_hungry(self) -> None:
        for channel in self.channels:
            channel.hungry = True

    # -- waiting without and with a loop

    def _wait(self, timeout: float) -> None:
        session = self._session
        if session is None:
            time.sleep(min(timeout, FAST_LOOK_S))
            return
        due = self._find_due()
        pause = min(timeout, self._find_look_s())
        if due is not None:
            pause = min(pause, max(due - time.time(), 0.0))
        self._woken = False
        if session.bell.wait(pause):
            self._look_s = SLOW_LOOK_S
            self._be_hungry()
        else:
            self._look()

    def _find_look_s(self) -> float:
        audible = self._session is None or self._session.bell.audible
        return self._look_s if audible else FAST_LOOK_S

    def _find_due(self) -> float | None:
        return min((c.due for c in self.channels if c.due is not None), default=None)

    def _look(self) -> None:
        """Notice changes nobody rang for, and messages whose time has come."""
        version = self.database.data_version()
        if version != self._looked_version:
            self._looked_version = version
            self._found_by_look = True
            self._be_hungry()
        now = time.time()
        for channel in self.channels:
            if channel.due is not None and channel.due <= now:
                channel.hungry = True

    def _schedule_look(self, loop: Any) -> None:
        def look() -> None:
            if self.loop is loop:
                self._schedule_look(loop)
                if self._session is not None:
                    self._look()

        loop.call_later(self._find_look_s(), look)

    def _schedule_due(self) -> None:
        due = self._find_due()
        timer = self._due_timer
        if due is None or (timer is not None and timer[0] == due):
            return
        if timer is not None:
            timer[1].cancel()
        delay = max(due - time.time(), 0.0)
        self._due_timer = (due, self.loop.call_later(delay, self._on_due))
        # The loop has found how long to sleep before this turn end: let it look at its timers anew.
        self.wake()

    def _on_due(self) -> None:
        self._due_timer = None
        self._look()
