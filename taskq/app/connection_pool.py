"""This file is the pool of an application's connections, which idle producers may be sitting on.

Serves step 4 of the journey, when a producer needs a connection.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kombu.connection import ConnectionPool as _KombuConnectionPool
from kombu.exceptions import LimitExceeded

if TYPE_CHECKING:
    from taskq.app.connections import Connection

__all__ = ("ConnectionPool",)


class ConnectionPool(_KombuConnectionPool):
    """A pool of connections, some of which idle producers may be sitting on."""

    # After a fork the child forgets the pool (`Connections._after_fork`): closing would speak on
    # sockets that are still the parent's.
    close_after_fork = False

    def __init__(self, connection: Connection, limit: int | None = None, **kw: Any) -> None:
        self._original = connection
        self.waiting = 0
        #: Asked when no connection is free: makes an idle producer give up its own.
        self.on_exhausted: Callable[[], bool] | None = None
        self._counting = threading.Lock()
        super().__init__(connection, limit, **kw)

    def new(self) -> Any:
        return self._original.as_pooled(self)

    def replace(self, resource: Any) -> None:
        super().replace(resource)
        if self.limit:
            self._resource.put_nowait(self.new())

    def _add_when_empty(self) -> None:
        # kombu would add one here, and count too few: one that was taken out and is not noted yet.
        raise self.LimitExceeded(self.limit)

    def acquire(self, block: bool = False, timeout: float | None = None) -> Any:
        """A connection; waits up to `timeout` seconds (None: for ever) when `block` is true.

        Raises kombu.exceptions.LimitExceeded when none is free.
        """
        try:
            return super().acquire()
        except LimitExceeded:
            if self.on_exhausted is None and not block:
                raise
        # Announced before asking: a producer that is released meanwhile sees that somebody waits.
        with self._counting:
            self.waiting += 1
        try:
            if self.on_exhausted is not None:
                self.on_exhausted()
            return super().acquire(block=block, timeout=timeout)
        finally:
            with self._counting:
                self.waiting -= 1
