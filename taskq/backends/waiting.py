"""Waiting for a result in a store that has to be asked: look, pause, look again.

A store that notices changes by itself overrides the backend's `change_mark` and
`wait_for_change`, and waiting becomes as quick as the store is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from taskq.exceptions import ImproperlyConfigured, TimeoutError
from taskq.result_sets import NO_MESSAGES, ResultSet
from taskq.states import READY_STATES

__all__ = ("Patience", "SyncBackendMixin")


class Patience:
    """How long to go on: counts the seconds, and calls `on_interval` when it is time to.

    `timeout` None is for ever; `interval` is in seconds.
    """

    def __init__(
        self,
        timeout: float | None,
        interval: float | None,
        on_interval: Callable[[], Any] | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.interval = 0.5 if interval is None else interval
        self._on_interval = on_interval
        self._clock = clock
        self._next_call = now = clock()
        self._deadline = None if timeout is None else now + timeout

    def spent(self) -> bool:
        """Has the timeout passed?"""
        return self._deadline is not None and self._clock() >= self._deadline

    def next_pause(self) -> float:
        """Seconds to pause until the next look, after telling `on_interval` that we wait."""
        now = self._clock()
        if now >= self._next_call:
            self._next_call = now + self.interval
            if self._on_interval is not None:
                self._on_interval()
        end = self._next_call if self._deadline is None else min(self._next_call, self._deadline)
        return max(end - now, 0.0)


class SyncBackendMixin:
    """Waiting for backends that have to be asked."""

    if TYPE_CHECKING:

        def _ensure_not_eager(self) -> None: ...
        def get_task_meta(self, task_id: str, cache: bool = True) -> Any: ...
        def change_mark(self) -> Any: ...
        def wait_for_change(self, mark: Any, seconds: float) -> None: ...

        get_many: Any

    #: whether results are pushed to us
    is_async = False

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> Any:
        """The document of a task once it has ended; TimeoutError after `timeout` seconds."""
        self._ensure_not_eager()
        patience = Patience(timeout, interval, on_interval)
        while True:
            mark = self.change_mark()
            meta = self.get_task_meta(task_id)
            if meta["status"] in READY_STATES:
                return meta
            if patience.spent():
                raise TimeoutError("The operation timed out.")
            self.wait_for_change(mark, patience.next_pause())

    def wait_for_pending(
        self,
        result: Any,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Any], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        callback: Callable[[str, Any], Any] | None = None,
        propagate: bool = True,
    ) -> Any:
        """Wait for `result` and give its value, or raise its exception unless not `propagate`."""
        self._ensure_not_eager()
        if on_message is not None:
            raise ImproperlyConfigured(NO_MESSAGES)
        meta = self.wait_for(
            result.id, timeout=timeout, interval=interval, no_ack=no_ack, on_interval=on_interval
        )
        if meta:
            result._maybe_set_cache(meta)
            return result.maybe_throw(propagate=propagate, callback=callback)
        return None

    def iter_native(
        self,
        result: Any,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Any], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """(task id, document) for each task of the set `result` as it ends."""
        self._ensure_not_eager()
        nodes: dict[str, Any] = {}
        for node in result.results:
            if isinstance(node, ResultSet):
                yield node.id, node.results  # type: ignore[attr-defined]  # sets inside sets are groups
            elif node._cache is not None:
                yield node.id, node._get_task_meta()
            else:
                nodes[node.id] = node
        if not nodes:
            return
        for task_id, meta in self.get_many(
            list(nodes),
            timeout=timeout,
            interval=interval,
            no_ack=no_ack,
            on_message=on_message,
            on_interval=on_interval,
        ):
            nodes[task_id]._maybe_set_cache(meta)
            yield task_id, meta

    def add_pending_result(self, result: Any, weak: bool = False) -> Any:
        """Nothing to prepare: gives `result`."""
        return result

    def remove_pending_result(self, result: Any) -> Any:
        """Nothing to undo: gives `result`."""
        return result
