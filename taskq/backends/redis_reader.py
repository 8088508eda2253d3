"""One thread that waits for results on one subscribed connection, for a whole application.

How it works
    Consumers (one per backend object, and so per thread) say which keys they wait for; the
    thread alone speaks on the connection. A channel is named like the key of its document. Once
    the server has confirmed a subscription the document is read too: what was stored before then
    was announced to nobody. The same happens after the connection was made anew, and every
    LOOK_EVERY_S seconds, so that an announcement that got lost is a delay and no more. The thread
    ends, and closes its two connections, when nobody has waited for IDLE_S seconds.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import wait
from typing import Any, Protocol

from redis.connection import ConnectionPool
from redis.exceptions import NoPermissionError

from taskq.utils.log import get_logger

__all__ = ("Listener", "ResultReader", "Retry")

logger = get_logger("taskq.backends.redis")

#: Seconds between two readings of everything that is waited for, and the same where the server
#: does not let us subscribe.
LOOK_EVERY_S = 10.0
POLL_EVERY_S = 0.5
#: Seconds after which a reader that nobody needs ends.
IDLE_S = 10.0
#: Documents read at once.
KEYS_AT_ONCE = 500


#: Calls its first argument again until it raises no connection error, or a policy is exhausted;
#: calls the second one while it waits.
Retry = Callable[[Callable[[], Any], Callable[[], None]], Any]


class _NobodyWaits(Exception):
    """The reader has nothing to read for."""


class Listener(Protocol):
    """Who is told: called in the reader's thread, so it only takes note."""

    def on_report(self, key: bytes, document: Any) -> None:
        """Something was stored under a key this listener waits for."""

    def on_reader_failed(self, exc: BaseException) -> None:
        """The server could not be reached for as long as the retry policy allows."""


class ResultReader:
    """Tells listeners about the documents they wait for.

    build_pool: makes a connection pool, with more arguments for its connections if given.
    errors: after these the connections are made anew.
    """

    def __init__(
        self,
        build_pool: Callable[..., ConnectionPool],
        retry: Retry,
        errors: tuple[type[BaseException], ...],
    ) -> None:
        self._build_pool = build_pool
        self._retry = retry
        self._errors = errors
        self._forget_everything()

    def _forget_everything(self) -> None:
        self._listeners: dict[bytes, list[Listener]] = {}
        # Orders from any thread, also from a destructor: no lock may be needed to give one.
        self._orders: deque[tuple[bool, bytes, Listener]] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._bell: socket.socket | None = None
        self._heard: socket.socket | None = None
        #: The connections of the thread: what a forked child has to drop.
        self._connections: tuple[Any, ...] = ()
        self._stopping = False

    # -- orders

    def listen(self, keys: Iterable[bytes], listener: Listener) -> None:
        """Tell `listener` what is or will be stored under `keys`."""
        self._orders.extend((True, key, listener) for key in keys)
        with self._lock:
            if self._thread is None:
                self._stopping = False
                self._bell, self._heard = socket.socketpair()
                self._bell.setblocking(False)
                self._thread = threading.Thread(
                    target=self._run, args=(self._heard,), name="taskq results", daemon=True
                )
                self._thread.start()
        self._ring()

    def ignore(self, key: bytes, listener: Listener) -> None:
        """`listener` waits for `key` no more."""
        self._orders.append((False, key, listener))
        self._ring()

    def stop(self) -> None:
        """End the thread and close its connections; the next `listen` starts it again."""
        thread = self._thread
        if thread is not None:
            self._stopping = True
            self._ring()
            thread.join()

    def forget_parent(self) -> None:
        """In a forked child: thread and connections are the parent's, and listeners ask anew."""
        # The frames of its thread keep them: without this the child would hold them open for ever.
        for each in (self._bell, self._heard, *self._connections):
            if isinstance(each, socket.socket):
                each.close()
            elif each is not None:
                each.disconnect()
        self._forget_everything()

    def _ring(self) -> None:
        bell = self._bell
        if bell is not None:
            try:
                bell.send(b"!")
            except OSError:
                pass  # rung already, or the thread has just ended

    # -- the thread

    def _run(self, heard: socket.socket) -> None:
        heard.setblocking(False)
        with heard:
            while True:
                try:
                    self._serve(heard)
                except _NobodyWaits:
                    pass
                except Exception as exc:  # the thread's edge: who waits is told
                    self._fail(exc)
                with self._lock:
                    # Under the lock: who gives an order now starts the next thread.
                    if self._stopping or not self._orders:
                        self._end()
                        return

    def _end(self) -> None:
        self._thread = None
        if self._bell is not None:
            self._bell.close()
            self._bell = None

    def _serve(self, heard: socket.socket) -> None:
        """Serve until nobody waits, over as many connections as it takes."""
        while True:
            # RESP 2: on a subscribed connection its answers are the simpler ones.
            pool = self._build_pool(
                protocol=2, decode_responses=False, health_check_interval=0, max_connections=2
            )
            try:
                listening, looking = self._retry(partial(_connect, pool), self._check_wanted)
                self._connections = (listening, looking)
                self._serve_over(listening, looking, heard)
            finally:
                pool.disconnect()
                self._connections = ()

    def _serve_over(self, listening: Any, looking: Any, heard: socket.socket) -> None:
        try:
            _Session(self, listening, looking, heard).serve()
        except self._errors as exc:
            logger.warning("The connection that waits for results broke: %s", exc)

    def _check_wanted(self) -> None:
        self._obey()
        if self._stopping or not self._listeners:
            raise _NobodyWaits

    def _fail(self, exc: BaseException) -> None:
        self._obey()
        listeners = {id(one): one for each in self._listeners.values() for one in each}
        self._listeners.clear()
        for listener in listeners.values():
            listener.on_reader_failed(exc)

    def _obey(self) -> tuple[set[bytes], set[bytes]]:
        """Carry out the orders; gives the keys just asked for, and those nobody wants now."""
        known: dict[bytes, bool] = {}
        while self._orders:
            wanted, key, listener = self._orders.popleft()
            known.setdefault(key, key in self._listeners)
            listeners = self._listeners.setdefault(key, [])
            if wanted:
                listeners.append(listener)
            elif listener in listeners:
                listeners.remove(listener)
            if not listeners:
                del self._listeners[key]
        new = {key for key in known if key in self._listeners}
        return new, {key for key, before in known.items() if before} - new

    def _tell(self, key: bytes, document: Any) -> None:
        for listener in self._listeners.get(key, ()):
            listener.on_report(key, document)


def _connect(pool: ConnectionPool) -> tuple[Any, Any]:
    """A connection to listen on and one to look with."""
    looking: Any = pool.get_connection()
    with ExitStack() as on_error:
        on_error.callback(pool.release, looking)
        # An answer: somebody may take connections for a server that is not there.
        looking.send_command("PING")
        looking.read_response()
        listening = pool.get_connection()
        on_error.pop_all()
    return listening, looking


class _Session:
    """What happens on one pair of connections."""

    def __init__(
        self, reader: ResultReader, listening: Any, looking: Any, heard: socket.socket
    ) -> None:
        self.reader = reader
        self.listening = listening
        self.looking = looking
        self.heard = heard
        self.subscribed: set[bytes] = set()
        #: Does the server forbid us to subscribe?
        self.refused = False
        self.next_look = time.monotonic() + LOOK_EVERY_S

    def serve(self) -> None:
        """Serve until nobody has waited for a while (_NobodyWaits) or a connection breaks."""
        reader = self.reader
        idle_since = time.monotonic()
        self._subscribe(set(reader._listeners))
        while not reader._stopping:
            self._obey()
            now = time.monotonic()
            if reader._listeners:
                idle_since = now
            elif now - idle_since >= IDLE_S:
                break
            if now >= self.next_look:
                self._look(list(reader._listeners))
                self.next_look = now + (POLL_EVERY_S if self.refused else LOOK_EVERY_S)
            self._wait(min(self.next_look - now, IDLE_S))
        raise _NobodyWaits

    def _obey(self) -> None:
        new, gone = self.reader._obey()
        # Who comes second needs the document that the first may have had already.
        self._look(list(new & self.subscribed))
        self._subscribe(new - self.subscribed)
        gone &= self.subscribed
        if gone:
            self.subscribed -= gone
            self.listening.send_command("UNSUBSCRIBE", *gone)

    def _subscribe(self, keys: set[bytes]) -> None:
        if self.refused:
            self._look(list(keys))
        elif keys:
            self.subscribed |= keys
            self.listening.send_command("SUBSCRIBE", *keys)

    def _wait(self, seconds: float) -> None:
        sock = self.listening._sock
        ready = wait([self.heard, sock], max(seconds, 0))
        if self.heard in ready:
            self.heard.recv(4096)
        if sock in ready:
            self._read()

    def _read(self) -> None:
        confirmed = []
        while self.listening.can_read():
            try:
                kind, key, document = self.listening.read_response()
            except NoPermissionError as exc:
                self._go_without(exc)
                continue
            if kind == b"message":
                self.reader._tell(key, document)
            elif kind == b"subscribe":
                confirmed.append(key)
        self._look(confirmed)

    def _go_without(self, exc: NoPermissionError) -> None:
        if not self.refused:
            logger.warning(
                "Redis does not let us subscribe to results, so we look every %s s: %s",
                POLL_EVERY_S, exc,
            )  # fmt: skip
        self.refused = True
        self.subscribed.clear()
        self.next_look = 0.0

    def _look(self, keys: list[bytes]) -> None:
        for start in range(0, len(keys), KEYS_AT_ONCE):
            part = keys[start : start + KEYS_AT_ONCE]
            self.looking.send_command("MGET", *part)
            for key, document in zip(part, self.looking.read_response(), strict=True):
                if document is not None:
                    self.reader._tell(key, document)
