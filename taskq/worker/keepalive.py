"""This file keeps an AMQP connection alive, and gives it up when the broker at its end is gone.

The broker drops a connection it has not heard from for two heartbeats, and so do we. Both are the
work of a thread: the worker's loop may be busy, may run a task itself (`-P solo`), or may be
waiting for an answer that never comes.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from typing import Any

from taskq.utils.log import get_logger

__all__ = ("Keepalive",)

logger = get_logger("taskq.worker.consumer.connection")


class Keepalive(threading.Thread):
    """Looks after one open connection, from `start` until `end` or until it is broken.

    Arguments: kombu's `connection`; how many beats (and looks) an interval has.
    """

    def __init__(self, connection: Any, rate: float) -> None:
        super().__init__(name="broker-heartbeat", daemon=True)
        self.link = connection.connection
        self.errors = connection.connection_errors
        #: Seconds without a frame after which a side counts as gone are two of these.
        self.interval_s = float(self.link.heartbeat)
        self.pause_s = self.interval_s / (rate if rate > 0 else 2)
        # OpenSSL cannot read and write one connection from two threads at a time.
        self.beats_in_loop = bool(connection.ssl)
        self._socket = self.link.transport.sock
        self._over = threading.Event()
        self._heard, self._heard_at = self.link.bytes_recv, time.monotonic()
        self._in_loop: Any = None

    def join_loop(self, hub: Any) -> None:
        """Send from the loop what no thread may send."""
        if self.beats_in_loop:
            self._in_loop = hub.call_repeatedly(self.pause_s, self.link.send_heartbeat)

    def end(self) -> None:
        """Leave the connection alone from now on."""
        self._over.set()
        if self._in_loop is not None:
            self._in_loop.cancel()
        if self.is_alive():
            self.join(self.interval_s)

    def run(self) -> None:
        """Send heartbeats and look for the broker's."""
        while not self._over.wait(self.pause_s):
            try:
                if self._find_silence():
                    return
                if not self.beats_in_loop and self._may(select.POLLOUT):
                    self.link.send_heartbeat()
            except (*self.errors, OSError, ValueError) as exc:
                # Broken or closed meanwhile: the loop meets the same, and knows what to do.
                logger.debug("No more heartbeats: %r", exc)
                return

    def _find_silence(self) -> bool:
        """True when the broker was silent for too long; then the connection is broken off."""
        heard, now = self.link.bytes_recv, time.monotonic()
        # What has arrived and is not read yet speaks for the broker: it is the loop that is busy.
        if heard != self._heard or self._may(select.POLLIN):
            self._heard, self._heard_at = heard, now
        silent_s = now - self._heard_at
        if silent_s <= 2 * self.interval_s:
            return False
        logger.warning("no heartbeat from the broker for %.0f s: this connection is over", silent_s)
        # Whoever waits at this socket, in the loop or for an answer, meets its end and connects
        # anew. Not SSLSocket's own method, which would go on without TLS.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        return True

    def _may(self, event: int) -> bool:
        poller = select.poll()
        poller.register(self._socket, event)
        return bool(poller.poll(0))
