"""This file keeps an AMQP connection alive, and notices when the broker at its end is gone.

The broker drops a connection it has not heard from for two heartbeats, so ours are sent from a
thread: a loop that is busy, or runs a task itself (`-P solo`), must not miss them. Whether the
broker's arrive is looked at by the loop, which reads them.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from taskq.utils.log import get_logger

__all__ = ("Keepalive",)

logger = get_logger("taskq.worker.consumer.connection")


class Keepalive(threading.Thread):
    """Heartbeats of one open connection, from the start of a `with` block to its end.

    Arguments: kombu's `connection`; the worker's `hub`; how many beats (and looks) an interval has.
    """

    def __init__(self, connection: Any, hub: Any, rate: float) -> None:
        super().__init__(name="broker-heartbeat", daemon=True)
        self.link = connection.connection
        self.errors = connection.connection_errors
        self.hub = hub
        #: Seconds without a frame after which a side counts as gone are two of these.
        self.interval_s = float(self.link.heartbeat)
        self.pause_s = self.interval_s / (rate if rate > 0 else 2)
        # OpenSSL cannot read and write one connection from two threads at a time.
        self.beats_in_loop = bool(connection.ssl)
        self._over = threading.Event()
        self._heard, self._heard_at = self.link.bytes_recv, time.monotonic()
        self._doubtful = False

    def __enter__(self) -> Keepalive:
        self._entry = self.hub.call_repeatedly(self.pause_s, self.look)
        if not self.beats_in_loop:
            self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._entry.cancel()
        self._over.set()
        if self.is_alive():
            self.join(self.interval_s)

    def run(self) -> None:
        """Send heartbeats until the block ends or the connection is broken."""
        while not self._over.wait(self.pause_s):
            try:
                self.link.send_heartbeat()
            except self.errors as exc:
                # The loop meets the same broken connection, and knows what to do.
                logger.debug("Could not send a heartbeat: %r", exc)
                return

    def look(self) -> None:
        """In the loop: raise ConnectionResetError when the broker has been silent for too long."""
        if self.beats_in_loop:
            self.link.send_heartbeat()
        heard, now = self.link.bytes_recv, time.monotonic()
        if heard != self._heard:
            self._heard, self._heard_at, self._doubtful = heard, now, False
        elif now - self._heard_at > 2 * self.interval_s:
            if self._doubtful:
                silent_s = now - self._heard_at
                raise ConnectionResetError(f"no heartbeat from the broker for {silent_s:.0f} s")
            # The loop may have been busy all the time: it reads once before this is judged.
            self._doubtful = True
