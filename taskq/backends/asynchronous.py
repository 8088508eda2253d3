"""Waiting for results that a store pushes to us: who waits, and who reads the connection.

How it works
    A result that is waited for is noted in the backend's pending results, and its consumer
    subscribes to the task (`consume_from`). Whoever waits drains the consumer's connection; each
    report that comes in goes to `on_state_change`, which fills the result it is for, even if
    somebody else waits for that one. A report nobody waits for yet is kept in the backend's
    buffer. With gevent and eventlet one greenlet drains for all, and the others wait for it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from queue import Empty
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakKeyDictionary, WeakValueDictionary

from kombu.utils.compat import detect_environment
from vine import promise

from taskq import exceptions
from taskq.result_sets import ResultSet
from taskq.states import READY_STATES
from taskq.utils.log import get_logger

__all__ = (
    "AsyncBackendMixin",
    "BaseResultConsumer",
    "Drainer",
    "E_CELERY_RESTART_REQUIRED",
    "E_RETRY_LIMIT_EXCEEDED",
    "drainers",
    "eventletDrainer",
    "geventDrainer",
    "greenletDrainer",
    "register_drainer",
)

logger = get_logger(__name__)

E_CELERY_RESTART_REQUIRED = (
    "The greenlet that reads results has ended with an error: restart this process to go on."
)
E_RETRY_LIMIT_EXCEEDED = """
Retry limit exceeded while trying to reconnect to the Celery result store
backend. The Celery application must be restarted.
"""

#: Environment as kombu detects it -> Drainer class.
drainers: dict[str, type[Drainer]] = {}


def register_drainer(name: str) -> Callable[[type[Drainer]], type[Drainer]]:
    """Class decorator: the drainer for the environment `name` (default, gevent, eventlet)."""

    def register(cls: type[Drainer]) -> type[Drainer]:
        drainers[name] = cls
        return cls

    return register


@register_drainer("default")
class Drainer:
    """Reads the consumer's connection in the thread that waits."""

    def __init__(self, result_consumer: BaseResultConsumer) -> None:
        self.result_consumer = result_consumer

    def start(self) -> None:
        """Be ready to drain."""

    def stop(self) -> None:
        """Drain no more."""

    def drain_events_until(
        self,
        p: Any,
        timeout: float | None = None,
        interval: float = 1,
        on_interval: Callable[[], Any] | None = None,
        wait: Callable[..., Any] | None = None,
    ) -> Iterator[Any]:
        """Drain until the promise `p` is ready, yielding after each step.

        A step takes at most `interval` seconds; `on_interval` is called after it. Raises the
        built-in TimeoutError after `timeout` seconds.
        """
        wait = wait or self.result_consumer.drain_events
        deadline = None if timeout is None else time.monotonic() + timeout
        while not p.ready:
            step = interval
            if deadline is not None:
                step = min(interval, deadline - time.monotonic())
                if step <= 0:
                    raise TimeoutError()
            try:
                yield self.wait_for(p, wait, timeout=step)
            except TimeoutError:
                pass
            if on_interval is not None:
                on_interval()

    def wait_for(self, p: Any, wait: Callable[..., Any], timeout: float | None = None) -> Any:
        """One step: wait for events, at most `timeout` seconds."""
        return wait(timeout=timeout)


class greenletDrainer(Drainer):
    """One greenlet reads the consumer's connection for all that wait."""

    #: Starts a function in a greenlet.
    spawn: Any = None
    make_event: Callable[[], Any] = threading.Event

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._greenlet: Any = None
        self._stopped = False
        self._broken = False
        self._progress = self.make_event()

    def start(self) -> None:
        """Start the reading greenlet, unless it runs."""
        if self._greenlet is None:
            self._greenlet = self.spawn(self.run)

    def stop(self) -> None:
        """Let the reading greenlet end after its current step."""
        self._stopped = True

    def run(self) -> None:
        """Read until stopped, waking all that wait after each step."""
        try:
            while not self._stopped:
                try:
                    self.result_consumer.drain_events(timeout=1)
                except TimeoutError:
                    pass
                self._wake()
        finally:
            # Without this, those that wait would wait for a reader that is gone.
            self._broken = not self._stopped
            self._greenlet = None
            self._wake()

    def _wake(self) -> None:
        event, self._progress = self._progress, self.make_event()
        event.set()

    def wait_for(self, p: Any, wait: Callable[..., Any], timeout: float | None = None) -> None:
        """Wait until the reading greenlet has made a step, at most `timeout` seconds."""
        if self._broken:
            raise RuntimeError(E_CELERY_RESTART_REQUIRED)
        event = self._progress
        self.start()
        if not p.ready:
            event.wait(timeout=timeout)


@register_drainer("gevent")
class geventDrainer(greenletDrainer):
    """One gevent greenlet reads for all."""

    def spawn(self, func: Callable[[], Any]) -> Any:
        """Start `func` in a greenlet."""
        import gevent

        greenlet = gevent.spawn(func)
        gevent.sleep(0)
        return greenlet


@register_drainer("eventlet")
class eventletDrainer(greenletDrainer):
    """One eventlet green thread reads for all."""

    def spawn(self, func: Callable[[], Any]) -> Any:
        """Start `func` in a green thread."""
        from eventlet import sleep, spawn

        thread = spawn(func)
        sleep(0)
        return thread


class AsyncBackendMixin:
    """Waiting for backends whose store pushes results; they have a `result_consumer`."""

    result_consumer: BaseResultConsumer

    if TYPE_CHECKING:
        _pending_results: Any
        _pending_messages: Any

        def _ensure_not_eager(self) -> None: ...

    #: results are pushed to us
    is_async = True

    def iter_native(self, result: Any, no_ack: bool = True, **kwargs: Any) -> Iterator[Any]:
        """(task id, document) for each task of the set `result` as it ends."""
        self._ensure_not_eager()
        arrived: deque[Any] = deque()
        waiting = []
        for node in result.results:
            if isinstance(node, ResultSet):
                yield node.id, node.results  # type: ignore[attr-defined]  # sets inside sets are groups
            elif node._cache is not None:
                yield node.id, node._get_task_meta()
            else:
                waiting.append(node)
                self.result_consumer.buckets[node] = arrived
        if not waiting:
            return
        self.add_pending_results(waiting, weak=True)
        left = len(waiting)
        together = ResultSet(waiting, app=result.app)
        together._on_ready = all_ready = promise()
        steps = self.result_consumer._wait_for_pending(together, **kwargs)
        while left:
            while arrived:
                left -= 1
                node = arrived.popleft()
                yield node.id, node._cache
            if left:
                next(steps, None)
        all_ready()
        steps.close()

    def add_pending_result(
        self, result: Any, weak: bool = False, start_drainer: bool = True
    ) -> Any:
        """`result` is waited for: subscribe to its task. Gives `result`.

        weak: stop waiting when nobody else holds the result any more.
        """
        if start_drainer:
            self.result_consumer.drainer.start()
        try:
            meta = self._pending_messages.take(result.id)
        except Empty:
            self._add_pending_result(result.id, result, weak)
        else:
            self._fulfil(result, meta)
        return result

    def add_pending_results(self, results: Any, weak: bool = False) -> None:
        """As add_pending_result(), for many."""
        self.result_consumer.drainer.start()
        for result in results:
            self.add_pending_result(result, weak=weak, start_drainer=False)

    def _fulfil(self, result: Any, meta: Any) -> None:
        result._maybe_set_cache(meta)
        arrived = self.result_consumer.buckets.pop(result, None)
        if arrived is not None:
            arrived.append(result)

    def _add_pending_result(self, task_id: str, result: Any, weak: bool) -> None:
        # Several objects may wait for one task: each is noted by itself.
        group: Any
        if weak:
            group = self._pending_results.weak.setdefault(task_id, WeakValueDictionary())
        else:
            group = self._pending_results.concrete.setdefault(task_id, {})
        group[id(result)] = result
        self.result_consumer.consume_from(task_id)

    def remove_pending_result(self, result: Any) -> Any:
        """`result` is waited for no more; its task neither, if it was the last. Gives `result`."""
        task_id = result.id
        known = False
        for groups in self._pending_results:
            group = groups.get(task_id)
            if group is None:
                continue
            known = group.pop(id(result), None) is not None or known
            if not group:
                groups.pop(task_id, None)
                known = True
        if known and not any(groups.get(task_id) for groups in self._pending_results):
            self.on_result_fulfilled(result)
        return result

    def on_result_fulfilled(self, result: Any) -> None:
        """Nobody waits for this task any more: end the subscription."""
        self.result_consumer.cancel_for(result.id)

    def wait_for_pending(
        self,
        result: Any,
        callback: Callable[[str, Any], Any] | None = None,
        propagate: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Wait for `result` and give its value, or raise its exception unless not `propagate`."""
        self._ensure_not_eager()
        for _ in self.result_consumer._wait_for_pending(result, **kwargs):
            pass
        return result.maybe_throw(callback=callback, propagate=propagate)


class BaseResultConsumer:
    """Subscribes to tasks and hands each report to the result that waits for it.

    A store's consumer implements start, stop, drain_events, consume_from and cancel_for.
    """

    #: Errors after which the connection is made anew, see reconnect_on_error().
    connection_errors: tuple[type[BaseException], ...] = ()

    def __init__(
        self, backend: Any, app: Any, accept: Any, pending_results: Any, pending_messages: Any
    ) -> None:
        self.backend = backend
        self.app = app
        self.accept = accept
        self._pending_results = pending_results
        self._pending_messages = pending_messages
        #: Called with every report while somebody waits with get(on_message=).
        self.on_message: Callable[[Any], Any] | None = None
        #: Result -> deque in which a waiting set collects it.
        self.buckets: Any = WeakKeyDictionary()
        self.drainer = drainers[detect_environment()](self)

    # -- the store's part

    def start(self, initial_task_id: str, **kwargs: Any) -> None:
        """Connect, and subscribe to a first task."""
        self._not_implemented("start")

    def stop(self) -> None:
        """Close the connection."""

    def drain_events(self, timeout: float | None = None) -> Any:
        """Wait for reports at most `timeout` seconds; each goes to on_state_change()."""
        self._not_implemented("drain_events")

    def consume_from(self, task_id: str) -> None:
        """Subscribe to a task."""
        self._not_implemented("consume_from")

    def cancel_for(self, task_id: str) -> None:
        """End the subscription to a task."""
        self._not_implemented("cancel_for")

    def reconnect(self) -> None:
        """Make the connection and all subscriptions anew, with retries."""
        self._not_implemented("reconnect")

    def on_after_fork(self) -> None:
        """We are in a forked child: the parent's connection is not ours to use."""

    def on_wait_for_pending(self, result: Any, timeout: float | None = None, **kwargs: Any) -> None:
        """Somebody begins to wait for `result`: its report may already be in the store."""

    def _not_implemented(self, what: str) -> NoReturn:
        raise NotImplementedError(f"{type(self).__name__} does not implement {what}().")

    # -- waiting

    def drain_events_until(
        self,
        p: Any,
        timeout: float | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[Any]:
        """Drain until the promise `p` is ready, yielding after each step."""
        return self.drainer.drain_events_until(p, timeout=timeout, on_interval=on_interval)

    def _wait_for_pending(
        self,
        result: Any,
        timeout: float | None = None,
        on_interval: Callable[[], Any] | None = None,
        on_message: Callable[[Any], Any] | None = None,
        **kwargs: Any,
    ) -> Generator[Any, None, None]:
        self.on_wait_for_pending(result, timeout=timeout, **kwargs)
        before, self.on_message = self.on_message, on_message
        try:
            yield from self.drain_events_until(
                result.on_ready, timeout=timeout, on_interval=on_interval
            )
        except TimeoutError:
            raise exceptions.TimeoutError("The operation timed out.")
        finally:
            self.on_message = before

    @contextmanager
    def reconnect_on_error(self) -> Iterator[None]:
        """Around anything that uses the connection: a broken one is made anew."""
        try:
            yield
        except self.connection_errors:
            try:
                self.reconnect()
            except self.connection_errors as exc:
                logger.critical(E_RETRY_LIMIT_EXCEEDED)
                raise RuntimeError(E_RETRY_LIMIT_EXCEEDED) from exc

    # -- reports

    def on_out_of_band_result(self, message: Any) -> None:
        """A report came as a message."""
        self.on_state_change(message.payload, message)

    def on_state_change(self, meta: Any, message: Any) -> None:
        """A report: the state of a task has changed."""
        if self.on_message is not None:
            self.on_message(meta)
        if meta["status"] not in READY_STATES:
            return
        task_id = meta["task_id"]
        waiting = [
            result
            for groups in self._pending_results
            for result in list((groups.get(task_id) or {}).values())
        ]
        if not waiting:
            self._pending_messages.put(task_id, meta)
            return
        for result in waiting:
            self.backend._fulfil(result, meta)
            self.backend.remove_pending_result(result)
