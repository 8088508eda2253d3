"""Coroutines on kept loops: what is thrown into them, and what passes from one to the next."""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from patience import FOREVER_S

from taskq.app import coroutines
from taskq.concurrency.event_loop import LoopThread, MainLoop
from taskq.concurrency.packets import JOB, build_pair, pack

Home = MainLoop | LoopThread


@pytest.fixture
def loop() -> Iterator[MainLoop]:
    loop = MainLoop()
    yield loop
    loop.close()


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


def limit_at(loop: MainLoop, body: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a body whose soft limit is up as soon as it waits."""

    async def run() -> Any:
        asyncio.get_running_loop().call_soon(loop.throw, SoftTimeLimitExceeded())
        return await body()

    return loop.run(run())


async def sleep() -> None:
    await asyncio.sleep(FOREVER_S)


def test_the_soft_limit_that_is_not_caught_is_the_error(loop: MainLoop) -> None:
    with pytest.raises(SoftTimeLimitExceeded) as raised:
        limit_at(loop, sleep)
    assert type(raised.value) is SoftTimeLimitExceeded
    assert "await asyncio.sleep(FOREVER_S)" in str(raised.traceback[-2].statement)


def test_the_soft_limit_comes_once(loop: MainLoop) -> None:
    async def body() -> str:
        with pytest.raises(SoftTimeLimitExceeded):
            await sleep()
        await asyncio.sleep(0.001)
        return "went on"

    assert limit_at(loop, body) == "went on"


def test_the_soft_limit_comes_though_its_cancellation_is_swallowed(loop: MainLoop) -> None:
    async def stubborn() -> None:
        try:
            await sleep()
        except asyncio.CancelledError:
            pass

    async def body() -> str:
        with pytest.raises(SoftTimeLimitExceeded):
            await asyncio.create_task(stubborn())
        return "went on"

    assert limit_at(loop, body) == "went on"


def waits_by_wait_for(waiting: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.wait_for(waiting, FOREVER_S)


async def waits_by_gather(waiting: Coroutine[Any, Any, Any]) -> None:
    await asyncio.gather(waiting, sleep())


async def waits_by_group(waiting: Coroutine[Any, Any, Any]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(waiting)


WAYS = [waits_by_wait_for, waits_by_gather]
if sys.version_info >= (3, 11):
    WAYS.append(waits_by_group)


@pytest.mark.parametrize("way", WAYS)
def test_the_soft_limit_leaves_nothing_running(loop: MainLoop, way: Any) -> None:
    ended = []

    async def waiting() -> None:
        try:
            await sleep()
        finally:
            ended.append(True)

    with pytest.raises(SoftTimeLimitExceeded):
        limit_at(loop, lambda: way(waiting()))
    loop.run(asyncio.sleep(0.001))
    assert ended == [True]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout came with Python 3.11")
def test_what_cleans_up_after_the_soft_limit_is_not_taken_for_cancelled(loop: MainLoop) -> None:
    async def body() -> Any:
        with pytest.raises(SoftTimeLimitExceeded):
            await sleep()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await sleep()
        return asyncio.current_task().cancelling()  # type: ignore[union-attr]

    assert limit_at(loop, body) == 0


def test_the_soft_limit_as_it_is_met_travels_as_what_it_stands_for(loop: MainLoop) -> None:
    async def body() -> Any:
        try:
            await sleep()
        except SoftTimeLimitExceeded as exc:
            return pickle.dumps(exc), type(exc).__name__, type(exc).__module__

    text, *name = limit_at(loop, body)
    assert type(pickle.loads(text)) is SoftTimeLimitExceeded
    assert name == ["SoftTimeLimitExceeded", "billiard.exceptions"]


def test_a_soft_limit_that_comes_late_does_not_hit_the_next(loop: MainLoop) -> None:
    async def limited() -> str:
        loop.throw(SoftTimeLimitExceeded())
        return "no await"

    assert loop.run(limited()) == "no await"
    assert loop.run(asyncio.sleep(0.001, "next")) == "next"


def test_outside_of_the_loop_errors_are_raised_at_once(loop: MainLoop) -> None:
    loop.run(asyncio.sleep(0))
    with pytest.raises(SoftTimeLimitExceeded):
        loop.throw(SoftTimeLimitExceeded())
    with pytest.raises(SystemExit):
        loop.throw(SystemExit(1))


def test_the_end_cancels_and_then_leaves(loop: MainLoop) -> None:
    seen = []

    async def body() -> str:
        asyncio.get_running_loop().call_soon(loop.throw, SystemExit(7))
        try:
            await sleep()
        except asyncio.CancelledError:
            await asyncio.sleep(0.001)
            seen.append("cleaned up")
        return "not heard of"

    with pytest.raises(SystemExit) as raised:
        loop.run(body())
    assert (raised.value.code, seen) == (7, ["cleaned up"])


def test_the_end_of_a_loop_that_waits_for_a_packet(loop: MainLoop) -> None:
    ours, theirs = build_pair()

    async def later() -> None:
        asyncio.get_running_loop().call_later(0.01, loop.throw, SystemExit(7))

    loop.run(later())
    with pytest.raises(SystemExit):
        loop.receive(theirs)
    # What came too late is still there for others.
    ours.send(pack(JOB, 5))
    assert loop.receive(theirs)[:2] == (JOB, 5)  # type: ignore[index]
    ours.close()
    with pytest.raises(EOFError):
        loop.receive(theirs)
    theirs.close()


def test_a_packet_that_waits_does_not_disturb_the_coroutine(loop: MainLoop) -> None:
    ours, theirs = build_pair()
    ours.send(pack(JOB, 5))
    ours.send(pack(JOB, 6))
    assert loop.receive(theirs)[:2] == (JOB, 5)  # type: ignore[index]
    assert loop.run(asyncio.sleep(0.01, "done")) == "done"
    assert loop.receive(theirs)[:2] == (JOB, 6)  # type: ignore[index]
    ours.close()
    theirs.close()


def test_what_is_started_goes_on_with_the_next(loop: MainLoop) -> None:
    async def start() -> Any:
        return asyncio.create_task(asyncio.sleep(0.001, "ended")), asyncio.get_running_loop()

    async def join(task: Any) -> Any:
        return await task, asyncio.get_running_loop()

    task, first = loop.run(start())
    assert loop.run(join(task)) == ("ended", first)


def test_other_threads_have_loops_of_their_own(loop: MainLoop) -> None:
    async def here() -> Any:
        return asyncio.get_running_loop()

    async def nested() -> Any:
        return loop.run(here())

    own = loop.run(here())
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        assert executor.submit(loop.run, here()).result() is not own
    assert loop.run(nested()) is not own


@pytest.mark.parametrize("name", ["loop", "thread"])
def test_a_cancelled_thing_that_is_awaited_is_an_error_like_others(
    name: str, request: pytest.FixtureRequest
) -> None:
    home: Home = request.getfixturevalue(name)

    async def body() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    with pytest.raises(concurrent.futures.CancelledError) as raised:
        home.run(body())
    assert isinstance(raised.value, Exception)


@pytest.mark.parametrize("name", ["loop", "thread"])
def test_leaving_harms_no_loop(name: str, request: pytest.FixtureRequest) -> None:
    home: Home = request.getfixturevalue(name)

    async def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        home.run(leave())
    assert home.run(asyncio.sleep(0.001, "next")) == "next"


def test_a_coroutine_of_the_thread_that_runs_another_one_does_not_wait_for_itself(
    thread: LoopThread,
) -> None:
    async def outer() -> str:
        return thread.run(asyncio.sleep(0.001, "inner"))

    assert thread.run(outer()) == "inner"


@pytest.mark.parametrize("build", [MainLoop, LoopThread])
def test_closing_cancels_what_still_runs(build: type[Home]) -> None:
    home, seen = build(), []

    async def background() -> None:
        try:
            await sleep()
        finally:
            seen.append("ended")

    async def start() -> Any:
        task = asyncio.create_task(background())
        await asyncio.sleep(0)
        return task

    task = home.run(start())
    home.close()
    assert seen == ["ended"]
    assert task.cancelled()


def test_the_door_makes_its_home_once_and_closes_it() -> None:
    homes = []

    def build() -> LoopThread:
        homes.append(LoopThread())
        return homes[-1]

    coroutines.set_home(build)
    names = {coroutines.run_coroutine(name_of_thread()) for _ in range(3)}
    coroutines.close_home()
    assert names == {"taskq-loop"}
    assert len(homes) == 1
    assert coroutines.run_coroutine(name_of_thread()) == threading.current_thread().name


async def name_of_thread() -> str:
    return threading.current_thread().name
