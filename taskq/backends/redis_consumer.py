"""What one backend object waits for: reports come from the reader and are taken by who waits."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from taskq.backends.asynchronous import E_RETRY_LIMIT_EXCEEDED, BaseResultConsumer, logger

__all__ = ("ResultConsumer",)

#: Seconds a thread that begins to wait stands in the queue to look for itself.
LOOK_PATIENCE_S = 0.05


class ResultConsumer(BaseResultConsumer):
    """Waits for the results of one backend object, in any number of threads.

    A result that is there already is read at once. For the others the application's reader is
    asked; its reports are noted here and taken in by whichever thread waits, so that users'
    callbacks run in threads that called `get()`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connection_errors = self.backend.connection_errors
        #: Keys that are waited for.
        self.subscribed_to: set[bytes] = set()
        #: Those of them that the reader has not been asked for.
        self._unasked: dict[bytes, None] = {}
        self._reports: deque[tuple[bytes, Any]] = deque()
        self._failure: BaseException | None = None
        self._turn = 0
        self.on_after_fork()
        self.backend.link.consumers.add(self)

    def on_after_fork(self) -> None:
        """The lock may have been held by a thread that is not here, and the reader is gone."""
        self._news = threading.Condition()
        self._unasked.update(dict.fromkeys(self.subscribed_to))

    # -- what is waited for

    def start(self, initial_task_id: str, **kwargs: Any) -> None:
        self.consume_from(initial_task_id)

    def stop(self) -> None:
        for key in list(self.subscribed_to):
            self._ignore(key)

    def consume_from(self, task_id: str) -> None:
        """Wait for a task; the reader hears of it when somebody drains."""
        key = self.backend.get_key_for_task(task_id)
        if key not in self.subscribed_to:
            self.subscribed_to.add(key)
            self._unasked[key] = None

    def cancel_for(self, task_id: str) -> None:
        """Wait no more; also called by destructors, so nothing here may block."""
        self._ignore(self.backend.get_key_for_task(task_id))

    def _ignore(self, key: bytes) -> None:
        if key in self.subscribed_to:
            self.subscribed_to.discard(key)
            if self._unasked.pop(key, self) is self:
                self.backend.link.reader.ignore(key, self)

    def on_wait_for_pending(self, result: Any, timeout: float | None = None, **kwargs: Any) -> None:
        """Take what is there already: most results of a finished job cost one round trip."""
        link = self.backend.link
        keys = list(self._unasked)
        # One at a time, so that a crowd that begins to wait does not open a crowd of connections.
        if not keys or not link.looking.acquire(timeout=LOOK_PATIENCE_S):
            return
        try:
            found = link.client.mget(keys)
        except self.connection_errors:
            return  # the reader tries again, as long as the retry policy says
        finally:
            link.looking.release()
        for key, document in zip(keys, found, strict=True):
            if document is not None:
                self._take(key, document)

    # -- reports

    def on_report(self, key: bytes, document: Any) -> None:
        """From the reader's thread."""
        with self._news:
            self._reports.append((key, document))
            self._news.notify_all()

    def on_reader_failed(self, exc: BaseException) -> None:
        """From the reader's thread, which has ended: everything must be asked for again."""
        with self._news:
            self._failure = exc
            self._unasked.update(dict.fromkeys(self.subscribed_to))
            self._turn += 1
            self._news.notify_all()

    def drain_events_until(
        self,
        p: Any,
        timeout: float | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[Any]:
        # Never a turn: the first step only asks, since what was there already may be enough.
        seen = -1

        def wait(timeout: float | None = None) -> None:
            nonlocal seen
            seen = self.drain_events(timeout, lambda: p.ready, seen)

        return self.drainer.drain_events_until(
            p, timeout=timeout, on_interval=on_interval, wait=wait
        )

    def drain_events(
        self,
        timeout: float | None = None,
        until: Callable[[], bool] = lambda: False,
        seen: int | None = None,
    ) -> int:
        """Take in reports as they come: wait at most `timeout` seconds, or `until` it is enough.

        Other threads may take in what is for this one: they count turns, and with the last turn
        `seen` here none is missed. Gives the turn to name the next time.
        """
        self._ask()
        with self._news:
            last = self._turn if seen is None else seen
            self._news.wait_for(
                lambda: self._reports or self._turn != last or until(), timeout=timeout
            )
            turn, failure = self._turn, self._failure
        if failure is not None and not until():
            if not isinstance(failure, self.connection_errors):
                raise failure
            logger.critical(E_RETRY_LIMIT_EXCEEDED)
            raise RuntimeError(E_RETRY_LIMIT_EXCEEDED) from failure
        taken = 0
        while self._reports:
            try:
                key, document = self._reports.popleft()
            except IndexError:
                break  # another thread was quicker
            taken += 1
            self._take(key, document)
        if taken:
            with self._news:
                self._turn += 1
                self._news.notify_all()
        return turn

    def _ask(self) -> None:
        keys = list(self._unasked)
        if keys:
            self._failure = None
            for key in keys:
                self._unasked.pop(key, None)
            self.backend.link.reader.listen(keys, self)

    def _take(self, key: bytes, document: Any) -> None:
        # Told twice, or not waited for any more: it stays in the store.
        if key in self.subscribed_to:
            self.on_state_change(self.backend.decode_result(document), None)
