"""This file turns: wait for the broker, let messages, timers and signals have their turn, repeat.

`asynloop` is for brokers that join kombu's Hub, `synloop` for the others. Both end by the
exceptions of `state.maybe_shutdown`, or because the blueprint is no longer running.
"""

from __future__ import annotations

import signal
import socket
import threading
from functools import partial
from typing import Any

from billiard.exceptions import WorkerLostError

from taskq.bootsteps import RUN
from taskq.utils.log import get_logger
from taskq.worker import state

__all__ = ("asynloop", "synloop")

#: Seconds a loop without a hub waits for the broker before it looks around.
DRAIN_S = 1.0

#: Seconds a hub waits when more timers are due than it fires in one turn.
AT_ONCE_S = 0.001

logger = get_logger(__name__)


def asynloop(
    obj: Any,
    connection: Any,
    consumer: Any,
    blueprint: Any,
    hub: Any,
    qos: Any,
    heartbeat: float | None,
    clock: Any,
    hbrate: float = 2.0,
) -> None:
    """Run the consumer `obj` on kombu's Hub."""
    consumer.on_message = obj.create_task_handler()
    obj.controller.register_with_event_loop(hub)
    obj.register_with_event_loop(hub)
    consumer.consume()
    if not obj.pool.did_start_ok():
        raise WorkerLostError("Could not start worker processes")
    obj.on_ready()
    # Broker errors inside callbacks must reach the consumer, which connects anew.
    hub.propagate_errors = tuple(obj.connection_errors)
    # It fires ten timers a turn, and would sleep for a second with more of them due.
    hub.fire_timers = partial(type(hub).fire_timers, hub, min_delay=AT_ONCE_S)
    loop = hub.create_loop()
    with _Alarm(hub):
        try:
            while blueprint.state == RUN and obj.connection:
                state.maybe_shutdown()
                if qos.prev != qos.value:
                    _tell_prefetch(qos)
                try:
                    next(loop)
                except StopIteration:
                    loop = hub.create_loop()
        finally:
            _reset(hub)


def _tell_prefetch(qos: Any) -> None:
    """Tell the broker the prefetch window of now."""
    told = None
    # Messages that come before the broker's answer may change it again, and be the last that come
    # by themselves. What was told already is not told twice: it may be more than is allowed.
    while qos.prev != qos.value and told != qos.value:
        told = qos.value
        qos.update()


def _reset(hub: Any) -> None:
    try:
        hub.reset()
    except Exception as exc:
        # The connection may be half gone; the next one starts with a fresh poller anyway.
        logger.exception("Error cleaning up after event loop: %r", exc)


class _Alarm:
    """Makes a signal end the wait of the hub at once: Python only restarts the system call."""

    def __init__(self, hub: Any) -> None:
        self.hub = hub
        self.active = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> None:
        if self.active:
            self.heard, self.rung = socket.socketpair()
            self.heard.setblocking(False)
            self.rung.setblocking(False)
            self.hub.add_reader(self.heard.fileno(), self._hear)
            self.before = signal.set_wakeup_fd(self.rung.fileno(), warn_on_full_buffer=False)

    def __exit__(self, *exc_info: object) -> None:
        if self.active:
            signal.set_wakeup_fd(self.before)
            self.heard.close()
            self.rung.close()

    def _hear(self, *args: Any) -> None:
        try:
            self.heard.recv(4096)
        except BlockingIOError:
            pass


def synloop(
    obj: Any,
    connection: Any,
    consumer: Any,
    blueprint: Any,
    hub: Any,
    qos: Any,
    heartbeat: float | None,
    clock: Any,
    hbrate: float = 2.0,
    **kwargs: Any,
) -> None:
    """Run the consumer `obj` by asking the broker for messages, one wait after another."""
    consumer.on_message = obj.create_task_handler()
    consumer.consume()
    obj.on_ready()
    while blueprint.state == RUN and obj.connection:
        state.maybe_shutdown()
        if qos.prev != qos.value:
            _tell_prefetch(qos)
        delay = _fire_timers(obj.timer, obj.connection_errors)
        obj.perform_pending_operations()
        try:
            connection.drain_events(timeout=min(delay, DRAIN_S))
        except TimeoutError:
            pass
        except OSError:
            # Sockets closed by the shutdown are no reason to complain.
            if blueprint.state == RUN:
                raise


def _fire_timers(timer: Any, propagate: Any) -> float:
    """Run the entries that are due; gives the seconds until the next one is."""
    for delay, entry in timer:
        if entry is None:
            return DRAIN_S if delay is None else float(delay)
        try:
            entry()
        except propagate:
            raise
        except Exception as exc:
            logger.exception("Error in timer: %r", exc)
    return DRAIN_S
