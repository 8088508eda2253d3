"""Waiting for results that a store pushes, with a store made of a queue."""

from __future__ import annotations

import builtins
import gc
import queue
import threading
from typing import Any

import pytest
from patience import PATIENCE_S

from taskq import Celery
from taskq.backends.asynchronous import (
    AsyncBackendMixin,
    BaseResultConsumer,
    Drainer,
    drainers,
    greenletDrainer,
    register_drainer,
)
from taskq.backends.base import Backend
from taskq.exceptions import TimeoutError
from taskq.result import AsyncResult, GroupResult, ResultSet


class Consumer(BaseResultConsumer):
    connection_errors = (ConnectionError,)
    reconnects_until = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.incoming: queue.Queue[Any] = queue.Queue()
        self.subscribed: list[str] = []
        self.tries = 0

    def drain_events(self, timeout: float | None = None) -> None:
        try:
            report = self.incoming.get(timeout=timeout)
        except queue.Empty:
            raise builtins.TimeoutError() from None
        if isinstance(report, BaseException):
            raise report
        self.on_state_change(report, None)

    def consume_from(self, task_id: str) -> None:
        if task_id not in self.subscribed:
            self.subscribed.append(task_id)

    def cancel_for(self, task_id: str) -> None:
        if task_id in self.subscribed:
            self.subscribed.remove(task_id)

    def reconnect(self) -> None:
        self.tries += 1
        if self.tries < self.reconnects_until:
            raise ConnectionError("still down")


class PushBackend(Backend, AsyncBackendMixin):
    supports_native_join = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.result_consumer = Consumer(
            self, self.app, self.accept, self._pending_results, self._pending_messages
        )

    def _get_task_meta_for(self, task_id: str) -> Any:
        return {"status": "PENDING", "result": None}


@pytest.fixture
def app() -> Any:
    app = Celery("push", set_as_current=False)
    app.backend = PushBackend(app)
    return app


@pytest.fixture
def consumer(app: Any) -> Any:
    return app.backend.result_consumer


@pytest.fixture
def push(consumer: Any) -> Any:
    def push(task_id: str, result: Any = None, status: str = "SUCCESS") -> None:
        consumer.incoming.put({"task_id": task_id, "status": status, "result": result})

    return push


def test_get(app: Any, push: Any, consumer: Any) -> None:
    push("a", 1, "STARTED")
    push("b", 2)
    push("a", 3)
    assert AsyncResult("a", app=app).get(timeout=PATIENCE_S) == 3
    assert consumer.subscribed == []
    # b came while a was waited for.
    assert AsyncResult("b", app=app).get(timeout=PATIENCE_S) == 2
    assert app.backend.is_async


def test_get_raises(app: Any, push: Any) -> None:
    push("a", {"exc_type": "KeyError", "exc_message": ["k"], "exc_module": "builtins"}, "FAILURE")
    with pytest.raises(KeyError):
        AsyncResult("a", app=app).get(timeout=PATIENCE_S)


def test_messages_and_intervals(app: Any, push: Any, consumer: Any) -> None:
    seen: list[Any] = []
    intervals: list[int] = []
    push("a", 1, "PROGRESS")
    push("a", 2)
    result = AsyncResult("a", app=app)
    assert (
        result.get(
            timeout=PATIENCE_S, on_message=seen.append, on_interval=lambda: intervals.append(1)
        )
        == 2
    )
    assert [meta["status"] for meta in seen] == ["PROGRESS", "SUCCESS"]
    assert len(intervals) == 2
    assert consumer.on_message is None


def test_who_gives_up_is_not_kept(app: Any, consumer: Any) -> None:
    result = AsyncResult("a", app=app)
    with pytest.raises(TimeoutError):
        result.get(timeout=0.01)
    assert consumer.subscribed == ["a"]
    del result
    gc.collect()
    assert consumer.subscribed == []
    assert app.backend._pending_results == ({}, {})


def test_two_wait_for_one(app: Any, push: Any) -> None:
    first, second = (AsyncResult("a", app=app) for _ in range(2))
    seen: list[Any] = []
    second.then(seen.append)
    push("a", 5)
    assert first.get(timeout=PATIENCE_S) == 5
    assert seen == [second]
    assert second.result == 5


def test_then_keeps_waiting_without_its_owner(app: Any, push: Any, consumer: Any) -> None:
    seen: list[Any] = []
    AsyncResult("a", app=app).then(seen.append)
    gc.collect()
    push("a", 5)
    consumer.drain_events(timeout=PATIENCE_S)
    assert [result.result for result in seen] == [5]


def test_sets(app: Any, push: Any) -> None:
    results = ResultSet([AsyncResult(i, app=app) for i in ("a", "b", "c")], app=app)
    for task_id in ("c", "a", "b"):
        push(task_id, task_id.upper())
    order = [task_id for task_id, _ in results.iter_native(timeout=PATIENCE_S)]
    assert order == ["c", "a", "b"]
    assert results.get(timeout=PATIENCE_S) == ["A", "B", "C"]


def test_sets_with_what_came_before(app: Any, push: Any, consumer: Any) -> None:
    push("a", 1)
    consumer.drain_events()
    push("b", 2)
    inner = GroupResult("g", [AsyncResult("b", app=app)], app=app)
    outer = GroupResult("o", [AsyncResult("a", app=app), inner], app=app)
    assert outer.join_native(timeout=PATIENCE_S) == [1, [2]]


def test_sets_time_out(app: Any, push: Any) -> None:
    push("a", 1)
    results = ResultSet([AsyncResult("a", app=app), AsyncResult("b", app=app)], app=app)
    with pytest.raises(TimeoutError):
        results.join_native(timeout=0.02)


def test_out_of_band(app: Any, consumer: Any) -> None:
    class Message:
        payload = {"task_id": "a", "status": "SUCCESS", "result": 1}

    consumer.on_out_of_band_result(Message)
    assert AsyncResult("a", app=app).get(timeout=0.1) == 1


def test_reconnecting(consumer: Any, caplog: Any) -> None:
    with consumer.reconnect_on_error():
        raise ConnectionError("lost")
    assert consumer.tries == 1
    consumer.reconnects_until = 99
    with pytest.raises(RuntimeError, match="Retry limit exceeded"), consumer.reconnect_on_error():
        raise ConnectionError("lost")
    with pytest.raises(KeyError), consumer.reconnect_on_error():
        raise KeyError("not ours")


def test_an_unfinished_consumer_says_so(app: Any) -> None:
    consumer = BaseResultConsumer(app.backend, app, None, None, None)
    for ask in (consumer.drain_events, lambda: consumer.consume_from("a"), consumer.reconnect):
        with pytest.raises(NotImplementedError, match="BaseResultConsumer does not implement"):
            ask()
    consumer.stop()
    consumer.on_after_fork()


def test_drainers() -> None:
    assert set(drainers) == {"default", "gevent", "eventlet"}
    assert drainers["default"] is Drainer

    @register_drainer("of ours")
    class Ours(Drainer):
        pass

    assert drainers.pop("of ours") is Ours


class ThreadDrainer(greenletDrainer):
    """A reader of its own, as with greenlets, in a thread."""

    def spawn(self, func: Any) -> Any:
        self.thread = threading.Thread(target=self._run, args=(func,))
        self.thread.start()
        return self.thread

    def _run(self, func: Any) -> None:
        try:
            func()
        except ConnectionError:
            pass


class TestOneReaderForAll:
    @pytest.fixture
    def drainer(self, consumer: Any) -> Any:
        drainer = consumer.drainer = ThreadDrainer(consumer)
        yield drainer
        drainer.stop()
        consumer.incoming.put({"task_id": "end", "status": "SUCCESS", "result": None})
        drainer.thread.join()

    def test_many_wait(self, app: Any, push: Any, drainer: Any) -> None:
        values: list[Any] = []
        backend = app.backend

        def wait(task_id: str) -> None:
            values.append(AsyncResult(task_id, backend=backend, app=app).get(timeout=PATIENCE_S))

        threads = [threading.Thread(target=wait, args=(task_id,)) for task_id in "abc"]
        for thread in threads:
            thread.start()
        for task_id in "cab":
            push(task_id, task_id)
        for thread in threads:
            thread.join()
        assert sorted(values) == ["a", "b", "c"]

    def test_a_dead_reader_is_told(self, app: Any, consumer: Any, drainer: Any) -> None:
        consumer.incoming.put(ConnectionError("lost"))
        with pytest.raises(RuntimeError, match="has ended with an error"):
            AsyncResult("a", app=app).get(timeout=PATIENCE_S)
