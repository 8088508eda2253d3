"""Waiting for results from asyncio code: one thread for all, and nobody's loop stands still."""

from __future__ import annotations

import asyncio
import threading

import pytest
from contract.tracing import lone_app
from patience import FOREVER_S, PATIENCE_S

from taskq import states
from taskq.backends import awaiting
from taskq.exceptions import TimeoutError
from taskq.result import AsyncResult, allow_join_result, denied_join_result


@pytest.fixture
def app():
    with lone_app("awaiting") as app:
        yield app


def store(app, task_id, value=None, state=states.SUCCESS):
    app.backend.store_result(task_id, value, state)


def test_many_are_awaited_by_one_thread(app):
    count = 200

    async def main():
        waiting = [asyncio.ensure_future(app.AsyncResult(str(n)).aget()) for n in range(count)]
        await asyncio.sleep(0.01)
        threads = [each for each in threading.enumerate() if each.name == "taskq-await"]
        for number in range(count):
            await asyncio.to_thread(store, app, str(number), number)
        return len(threads), await asyncio.gather(*waiting)

    threads, values = asyncio.run(main())
    assert threads == 1
    assert values == list(range(count))
    assert not awaiting._waiter._tickets


def test_one_result_may_be_awaited_by_many(app):
    result = app.AsyncResult("one")

    async def main():
        others = [app.AsyncResult("one") for _ in range(3)]
        waiting = [asyncio.ensure_future(each.aget()) for each in (result, result, *others)]
        await asyncio.sleep(0.01)
        store(app, "one", 1)
        return await asyncio.gather(*waiting)

    assert asyncio.run(main()) == [1] * 5


def test_what_has_ended_is_known_at_once(app, monkeypatch):
    # It is looked at because it is new: not after a pause.
    monkeypatch.setattr(awaiting, "LOOK_EVERY_S", FOREVER_S)
    store(app, "first", 1)
    store(app, "second", 2)

    async def get(task_id):
        return await app.AsyncResult(task_id)

    assert [asyncio.run(get(task_id)) for task_id in ("first", "second")] == [1, 2]


def test_errors_are_raised_or_given(app):
    store(app, "bad", KeyError("k"), states.FAILURE)

    async def main():
        with pytest.raises(KeyError):
            await app.AsyncResult("bad")
        return await app.AsyncResult("bad").aget(propagate=False)

    assert isinstance(asyncio.run(main()), KeyError)


def test_time_is_limited(app):
    async def main():
        with pytest.raises(TimeoutError):
            await app.AsyncResult("never").aget(timeout=0.01)

    asyncio.run(main())
    assert not awaiting._waiter._tickets


def test_who_is_cancelled_waits_no_more(app):
    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(app.AsyncResult("never").aget(), 0.01)

    asyncio.run(main())
    assert not awaiting._waiter._tickets


def test_the_failure_of_an_earlier_step_is_raised(app):
    first = app.AsyncResult("first")
    last = AsyncResult("last", app=app, parent=AsyncResult("second", app=app, parent=first))

    async def main():
        waiting = asyncio.ensure_future(last.aget())
        await asyncio.sleep(0.01)
        store(app, "first", KeyError("early"), states.FAILURE)
        with pytest.raises(KeyError, match="early"):
            await waiting
        with pytest.raises(TimeoutError):
            await last.aget(timeout=0.01, follow_parents=False)

    asyncio.run(main())


def test_an_error_of_the_store_is_raised(app, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no store")

    monkeypatch.setattr(type(app.backend), "get_many", refuse)

    async def main():
        for _ in range(2):
            with pytest.raises(OSError, match="no store"):
                await app.AsyncResult("any").aget(timeout=PATIENCE_S)

    asyncio.run(main())


def test_inside_a_task_it_must_be_allowed(app):
    store(app, "any", 1)

    async def main():
        with denied_join_result():
            with pytest.raises(RuntimeError, match="within a task"):
                await app.AsyncResult("any")
            with allow_join_result():
                assert await app.AsyncResult("any") == 1
            return await app.AsyncResult("any").aget(disable_sync_subtasks=False)

    assert asyncio.run(main()) == 1


def test_what_is_ignored_is_none(app):
    result = app.AsyncResult("ignored")
    result.ignored = True

    async def main():
        return await result

    assert asyncio.run(main()) is None


def test_a_thread_that_has_nothing_to_do_ends_and_another_one_follows(app, monkeypatch):
    monkeypatch.setattr(awaiting, "IDLE_S", 0.01)
    waiter = awaiting._Waiter()
    monkeypatch.setattr(awaiting, "_waiter", waiter)
    store(app, "any", 1)

    async def get():
        return await app.AsyncResult("any")

    for _ in range(2):
        assert asyncio.run(get()) == 1
        thread = waiter._thread
        if thread is not None:
            thread.join(PATIENCE_S)
        assert waiter._thread is None


def test_a_forked_child_begins_anew(app):
    waiter = awaiting._Waiter()
    waiter._thread = threading.current_thread()
    waiter._tickets.add(object())
    waiter.forget()
    assert (waiter._thread, waiter._tickets) == (None, set())
