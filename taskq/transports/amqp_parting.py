"""This file ends the connections to RabbitMQ that a process has open at its own end.

Behind publish (app/amqp.py). When a socket ends without a word, RabbitMQ drops what its channel has
not come to yet: the last messages of a process that sends and ends would be lost, and nobody told.
It answers a goodbye once it has taken all that was sent before. So at its end a process says one on
every connection that has carried messages without confirms, and waits for the answers.
"""

from __future__ import annotations

import atexit
import os
import sys
import warnings
from time import monotonic
from typing import Any
from weakref import WeakSet

from amqp.exceptions import AMQPError

from taskq.exceptions import CeleryWarning

__all__ = ("close_at_exit",)

#: Seconds after which no further goodbye is begun; each has a limit of its own.
PARTING_S = 5.0

_open: WeakSet[Any] = WeakSet()

#: Whether children of multiprocessing, which end without atexit, have been seen to.
_is_prepared = False


def close_at_exit(connection: Any) -> None:
    """See to it that this connection is closed, not just dropped, when the process ends."""
    global _is_prepared
    if not _is_prepared:
        _is_prepared = True
        # All its children have it loaded, and those of billiard.
        library = sys.modules.get("multiprocessing.util")
        if library is not None:
            # Late: others may still send at the end.
            library.Finalize(None, _close_all, exitpriority=-100)
    _open.add(connection)


def _close_all() -> None:
    deadline = monotonic() + PARTING_S
    error: Exception | None = None
    for connection in list(_open):
        if not connection.connected:
            continue
        try:
            if monotonic() > deadline:
                raise TimeoutError("there is no time left")
            connection.close()
        except (OSError, AMQPError) as exc:
            error = exc
    if error is not None:
        # Not logged: that says nothing in a program without logging.
        text = f"RabbitMQ may not have taken the last messages of this process: {error}"
        warnings.warn(CeleryWarning(text), stacklevel=1)


def _forget_in_child() -> None:
    global _is_prepared
    _is_prepared = False
    _open.clear()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
