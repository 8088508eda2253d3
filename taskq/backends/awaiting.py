"""This file lets asyncio code wait for results: one thread waits for all that is awaited.

How it works. `wait_for_end` leaves a ticket and sleeps on a future of its own loop. The thread
looks at the stores its tickets are about, in turns of TURN_S: to a store that pushes reports it
listens, any other it reads when that has changed, or every LOOK_EVERY_S seconds if it cannot tell.
The thread ends when nobody has waited for IDLE_S seconds.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterable
from typing import Any

from taskq.result import AsyncResult
from taskq.states import PROPAGATE_STATES
from taskq.utils.log import get_logger

__all__ = ("wait_for_end",)

#: Seconds of a turn: so late may a new ticket be looked at while others wait.
TURN_S = 0.05
LOOK_EVERY_S = 0.5
IDLE_S = 10.0

logger = get_logger(__name__)


async def wait_for_end(result: AsyncResult[Any], timeout: float | None, parents: bool) -> bool:
    """Wait until the result is known, at most `timeout` seconds; True if it is.

    Raises what the store raises; with `parents`, also the error of an earlier step of the chain.
    """
    ticket = _Ticket(result, result._parents() if parents else ())
    _waiter.add(ticket)
    try:
        done, _ = await asyncio.wait({ticket.future}, timeout=timeout)
    finally:
        _waiter.drop(ticket)
    for future in done:
        future.result()
    if result._cache is None:
        for parent in ticket.parents:
            if parent._cache is not None:
                parent.maybe_throw()
    return bool(done)


class _Ticket:
    """Somebody awaits a result."""

    def __init__(self, result: AsyncResult[Any], parents: Iterable[Any]) -> None:
        self.result = result
        # A group that comes before a chord's body reports its failures through the body.
        self.parents = [node for node in parents if isinstance(node, AsyncResult)]
        #: Where the thread looks for it.
        self.store: _Store | None = None
        self.loop = asyncio.get_running_loop()
        self.future = self.loop.create_future()

    def unknown(self) -> list[AsyncResult[Any]]:
        """Results that are not known to have ended."""
        return [node for node in (self.result, *self.parents) if node._cache is None]

    def is_over(self) -> bool:
        """True when there is nothing more to wait for."""
        return self.result._cache is not None or any(
            node._cache is not None and node._cache["status"] in PROPAGATE_STATES
            for node in self.parents
        )

    def end(self, error: Exception | None = None) -> None:
        """Wake who waits; called in the waiting thread."""
        try:
            self.loop.call_soon_threadsafe(self._end, error)
        except RuntimeError:
            pass  # its loop is closed: nobody is there to be woken

    def _end(self, error: Exception | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(error)


class _Waiter:
    """The thread that waits."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._tickets: set[_Ticket] = set()
        self._thread: threading.Thread | None = None

    def add(self, ticket: _Ticket) -> None:
        """Wait for what a ticket is about."""
        with self._news:
            self._tickets.add(ticket)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="taskq-await", daemon=True)
                self._thread.start()
            self._news.notify()

    def drop(self, ticket: _Ticket) -> None:
        """Its owner has been told, or waits no more."""
        self._tickets.discard(ticket)

    def forget(self) -> None:
        """We are in a forked child: thread and tickets are the parent's."""
        self.__init__()  # type: ignore[misc]  # everything is as new

    def _run(self) -> None:
        stores: dict[int, _Store] = {}
        while True:
            with self._news:
                if not self._news.wait_for(lambda: self._tickets, IDLE_S):
                    self._thread = None
                    return
                tickets = self._tickets.copy()
            wanted: dict[_Store, list[_Ticket]] = {}
            for ticket in tickets:
                if ticket.store is None:
                    backend = _own(ticket.result.backend)
                    ticket.store = stores.setdefault(id(backend), _Store(backend))
                wanted.setdefault(ticket.store, []).append(ticket)
            for store, waiting in wanted.items():
                self._turn(store, waiting, TURN_S / len(wanted))

    def _turn(self, store: _Store, tickets: list[_Ticket], seconds: float) -> None:
        error: Exception | None = None
        try:
            store.turn([node for ticket in tickets for node in ticket.unknown()], seconds)
        except Exception as exc:  # the thread's edge: who waits is told, as `get` would tell them
            error = exc
        for ticket in tickets:
            if error is not None or ticket.is_over():
                self.drop(ticket)
                ticket.end(error)


class _Store:
    """A backend as the thread uses it."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._asked: dict[int, AsyncResult[Any]] = {}
        self._mark: Any = None
        self._next_look = 0.0

    def turn(self, results: list[AsyncResult[Any]], seconds: float) -> None:
        """Note which of them have ended; wait up to so many seconds when none has."""
        wanted = {id(result): result for result in results}
        gone = [self._asked[key] for key in self._asked.keys() - wanted.keys()]
        new = [wanted[key] for key in wanted.keys() - self._asked.keys()]
        self._asked = wanted
        for result in gone:
            self._backend.remove_pending_result(result)
        turn = self._hear if self._backend.is_async else self._look
        turn(results, new, seconds)

    def _hear(
        self, results: list[AsyncResult[Any]], new: list[AsyncResult[Any]], seconds: float
    ) -> None:
        backend = self._backend
        for result in new:
            backend.add_pending_result(result, weak=True)
        if new:
            # What has ended already is not announced again.
            backend.result_consumer.on_wait_for_pending(new[0])
        if all(result._cache is None for result in results):
            try:
                backend.result_consumer.drain_events(timeout=seconds)
            except TimeoutError:
                pass

    def _look(
        self, results: list[AsyncResult[Any]], new: list[AsyncResult[Any]], seconds: float
    ) -> None:
        backend, now = self._backend, time.monotonic()
        mark = backend.change_mark()
        if mark != self._mark or now >= self._next_look:
            new, self._mark, self._next_look = results, mark, now + LOOK_EVERY_S
        ended = dict(backend.get_many({result.id for result in new}, max_iterations=1))
        for result in results:
            if result.id in ended:
                result._maybe_set_cache(ended[result.id])
        if not ended:
            backend.wait_for_change(mark, seconds)


def _own(backend: Any) -> Any:
    """The same store's backend object of this thread, where the application has one."""
    own = backend.app.backend
    is_same = type(own) is type(backend) and own.as_uri(True) == backend.as_uri(True)
    return own if is_same else backend


_waiter = _Waiter()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_waiter.forget)
