"""Redis as a broker: kombu's queues and keys, reserved under a worker's lease.

Between publish (app/amqp.py) and on_message (worker/consumer/delivery.py) of a task's journey.

How it works. A consumer asks for messages with one script call: as many as its prefetch window has
room for, each copied to `unacked` under a tag of the worker's before it leaves its list. The acks
of a turn travel in the same packet. When the lists are empty it waits for each with a blocking move
to an in-flight list of its own. What a worker has belongs to it while its lease lives, which a
thread keeps alive; what dead workers leave behind is put back within seconds by any other. kombu
peers see their own keys and scores, so Celery workers share the queues. With kombu's Hub everything
hangs on one descriptor and one callback at the end of a turn; without one drain_events does the
same.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import cached_property
from math import inf
from typing import Any

from kombu.transport import redis as kombu_redis
from kombu.transport.redis import MultiChannelPoller
from redis.exceptions import RedisError

from taskq.exceptions import ImproperlyConfigured
from taskq.transports.consuming import DELIVERY_S, read_lease
from taskq.transports.redis_channel import Channel, ReservingChannel, SentinelChannel
from taskq.transports.redis_lease import Session
from taskq.utils.log import get_logger

__all__ = ("SentinelTransport", "Transport")

logger = get_logger(__name__)

#: Seconds between looks at connections that should have said something.
LOOK_S = 1.0

OLDEST = (6, 2)

TOO_OLD = (
    "This Redis server ({version}) is too old for taskq's own transport, which needs 6.2. Upgrade "
    "it, or use kombu's: broker_transport_options = {{'lane': 'kombu'}}."
)


class Poller(MultiChannelPoller):
    """kombu's list of channels and its looks at their subscriptions; reading is ours."""

    def __init__(self, transport: Transport) -> None:
        self._channels: set[Any] = set()
        self._paused_brpop: dict[int, Any] = {}
        self._transport = transport

    def close(self) -> None:
        self._channels.clear()

    def _on_connection_disconnect(self, connection: Any) -> None:
        self._transport.forget_closed()


class Transport(kombu_redis.Transport):
    """One connection to Redis."""

    Channel: Any = Channel
    driver_name = "redis"

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.cycle = Poller(self)
        self.lease_s = read_lease(client.transport_options)
        self._session: Session | None = None
        #: Reserved, not delivered yet: channel, tag, queue, message.
        self.waiting: deque[tuple[ReservingChannel, str, str, bytes]] = deque()
        #: The Hub this connection is registered with.
        self.loop: Any = None
        self._pid = os.getpid()
        self._watched: set[Any] = set()
        self._bell: Any = None
        self._woken = False
        self._delivered = False
        self._looked = time.monotonic()

    # -- kombu's interface

    def drain_events(self, connection: Any, timeout: float | None = None, **kwargs: Any) -> None:
        """Deliver one message, waiting for it up to `timeout` seconds (without end when None).

        Raises socket.timeout when there was none.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self._delivered = False
        while not (self._deliver_next() or self._delivered):
            self._turn()
            if self.waiting:
                continue
            left = LOOK_S if deadline is None else min(deadline - time.monotonic(), LOOK_S)
            if left > 0:
                due = min((channel.delays.look_at for channel in self.channels), default=inf)
                left = min(left, max(due - time.monotonic(), 0.0))
            else:
                raise TimeoutError("no message came in time")
            self._on_events(left)
            if time.monotonic() - self._looked > LOOK_S:
                self._look()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Let a kombu Hub drive this connection."""
        self.loop = loop
        loop.on_tick.add(self._on_turn_end)
        loop.add_reader(self._selector, self._on_events)
        self._schedule(loop, LOOK_S, self._look)
        options = self.client.transport_options
        interval = options.get("health_check_interval", kombu_redis.DEFAULT_HEALTH_CHECK_INTERVAL)
        if interval:
            self._schedule(loop, interval, self.cycle.maybe_check_subclient_health)
        interval = options.get("reauth_check_interval", kombu_redis.DEFAULT_REAUTH_CHECK_INTERVAL)
        self._schedule(loop, interval, self.cycle.maybe_reauth)

    def _schedule(self, loop: Any, seconds: float, function: Callable[[], Any]) -> None:
        def call() -> None:
            if self.loop is loop:
                loop.call_later(seconds, call)
                function()

        loop.call_later(seconds, call)

    def unregister_from_event_loop(self, connection: Any, loop: Any) -> None:
        self.loop = None
        loop.on_tick.discard(self._on_turn_end)
        if self._pid == os.getpid():
            loop.remove_reader(self._selector)

    def close_connection(self, connection: Any) -> None:
        if self.loop is not None:
            self.unregister_from_event_loop(connection, self.loop)
        try:
            super().close_connection(connection)
        finally:
            self.waiting.clear()
            session, self._session = self._session, None
            if session is not None:
                session.close()
            selector = self.__dict__.pop("_selector", None)
            if selector is not None:
                selector.close()
                self._heard.close()
                self._bell.close()
                self._bell = None

    # -- sessions

    def find_session(self, channel: ReservingChannel) -> Session:
        """Give this connection as a consumer; made when it first consumes."""
        if self._session is None:
            _require_new_server(channel)
            visibility = float(channel.visibility_timeout)
            self._session = Session(channel, channel.keys, self.lease_s, visibility)
        return self._session

    def register_lists(self, channel: ReservingChannel) -> None:
        """Say in Redis which lists are consumed from, before anything is taken from them."""
        names = {name for each in self.channels for name in each.consumed_lists()}
        channel.session.consume(sorted(names | set(channel.consumed_lists())))

    # -- what the selector watches

    @cached_property
    def _selector(self) -> Any:
        """Everything we wait for, made when we first do; behind one descriptor for a Hub."""
        selector = selectors.DefaultSelector()
        self._heard, self._bell = socket.socketpair()
        self._heard.setblocking(False)
        self._bell.setblocking(False)
        selector.register(self._heard, selectors.EVENT_READ, self._on_wake)
        return selector

    def watch(self, sock: Any, on_readable: Callable[[], Any]) -> None:
        """Call a function when there is something to read."""
        if sock not in self._watched:
            self.forget_closed()
            self._selector.register(sock, selectors.EVENT_READ, on_readable)
            self._watched.add(sock)

    def forget(self, sock: Any) -> None:
        """Watch a socket no longer."""
        # In a fork the selector is the parent's: it would be made deaf.
        if sock in self._watched:
            self._watched.discard(sock)
            if self._pid == os.getpid():
                self._selector.unregister(sock)

    def forget_closed(self) -> None:
        """Watch no longer what was closed, before its number is another's."""
        for sock in [sock for sock in self._watched if sock.fileno() < 0]:
            self.forget(sock)

    def wake_from_thread(self) -> None:
        """Make the loop come round if this is not its thread, which comes round anyway."""
        loop = self.loop
        if loop is not None and threading.get_ident() != loop._loop_thread:
            self.wake()

    def wake(self) -> None:
        """Make the loop come round without waiting, from any thread."""
        bell = self._bell
        if self.loop is not None and bell is not None and not self._woken:
            self._woken = True
            bell.send(b".")

    def wake_at(self, moment: float) -> None:
        """Make the loop come round at a moment of the monotonic clock."""
        if self.loop is not None:
            self.loop.call_later(max(moment - time.monotonic(), 0.0), self.wake)

    def _on_wake(self) -> None:
        self._heard.recv(64)
        self._woken = False

    def _on_events(self, timeout: float = 0.0) -> None:
        for key, _ in self._selector.select(timeout):
            # One may have closed another's connection.
            if key.fileobj is self._heard or key.fileobj in self._watched:
                key.data()
        if self.loop is not None and self.waiting:
            self._deliver_for(DELIVERY_S)

    # -- one turn

    def _turn(self) -> None:
        for channel in list(self.channels):
            if channel.active_fanout_queues:
                listening = channel._in_listen
                if not listening or listening._sock not in self._watched:
                    self._listen(channel)
            channel.turn()

    def _listen(self, channel: ReservingChannel) -> None:
        """Subscribe to what is broadcast to a channel."""
        client = channel.subclient
        if client.connection is None:
            client.connection = client.connection_pool.get_connection()
        if not channel._in_listen or client.connection._sock is None:
            channel._subscribe()
        self.watch(client.connection._sock, lambda: self._receive(channel))

    def _receive(self, channel: ReservingChannel) -> None:
        if channel._receive():
            self._delivered = True

    def _deliver_next(self) -> bool:
        while self.waiting and (self._session is None or self._session.check()):
            channel, tag, queue, raw = self.waiting.popleft()
            if channel.deliver(tag, queue, raw):
                return True
        return False

    def _deliver_for(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._deliver_next() and time.monotonic() < deadline:
            pass

    def give_back_waiting(self, channel: ReservingChannel, queue: str) -> None:
        """Give back what was reserved for a queue and not delivered."""
        tags = [tag for each, tag, name, _ in self.waiting if each is channel and name == queue]
        self.waiting = deque(
            entry for entry in self.waiting if entry[0] is not channel or entry[2] != queue
        )
        for tag in tags:
            channel.held.pop(tag, None)
        channel.session.recovery.put_back(tags, unmarked=tags)

    def _on_turn_end(self) -> None:
        """Called by the loop before it waits."""
        self._turn()
        if self.waiting:
            self._deliver_for(DELIVERY_S)
            # What was delivered may have set timers of its own (an ETA, a rate limit).
            self.wake()

    def _look(self) -> None:
        self._looked = time.monotonic()
        self.cycle.maybe_refresh_binding_expiry()
        patience = self.client.transport_options.get(
            "health_check_interval", kombu_redis.DEFAULT_HEALTH_CHECK_INTERVAL
        )
        for channel in list(self.channels) if patience else ():
            channel.check(patience)


class SentinelTransport(Transport):
    """One connection to the server the sentinels name."""

    Channel = SentinelChannel
    default_port = 26379


def _require_new_server(channel: ReservingChannel) -> None:
    try:
        facts = channel.client.info("server")
    except RedisError:
        # Not everybody may ask; then the first wait tells.
        return
    version = str(facts.get("redis_version", ""))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < OLDEST:
        raise ImproperlyConfigured(TOO_OLD.format(version=version))
