"""`async def` tasks through a real worker, sent and awaited by a client that is asyncio code."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest
from journey.harness import Worker, client, write_project
from patience import PATIENCE_S, wait_until

from taskq.exceptions import TaskRevokedError

TASKS = """
import asyncio

from taskq.exceptions import SoftTimeLimitExceeded


@app.task(name="proj.aadd")
async def aadd(x, y):
    await asyncio.sleep(0)
    return x + y


@app.task(name="proj.where", bind=True)
async def where(self):
    await asyncio.sleep(0)
    return os.getpid(), id(asyncio.get_running_loop()), self.request.id


@app.task(name="proj.runs_a_loop")
def runs_a_loop():
    return asyncio.run(asyncio.sleep(0, "mine"))


@app.task(name="proj.flaky", bind=True, autoretry_for=(KeyError,), retry_kwargs={"countdown": 0})
async def flaky(self):
    await asyncio.sleep(0)
    if self.request.retries < 2:
        raise KeyError("k")
    return self.request.retries


@app.task(name="proj.calls_another")
async def calls_another():
    result = await aadd.adelay(20, 22)
    return result.id


@app.task(name="proj.waits")
async def waits(mark):
    open(mark, "w").close()
    try:
        await asyncio.sleep(3600)
    except SoftTimeLimitExceeded:
        return "in time"
    except asyncio.CancelledError:
        os.rename(mark, mark + ".cancelled")
        raise
"""

PREFORK = ("-P", "prefork", "-c", "2")
POOLS = {
    "prefork": PREFORK,
    "spawned": (*PREFORK, "--pool-start-method", "spawn"),
    "threads": ("-P", "threads"),
    "solo": (),
}
NAMES = [pytest.param("spawned", marks=pytest.mark.long), "prefork", "threads", "solo"]


@pytest.mark.parametrize("pool", NAMES)
def test_async_tasks(tmp_path: Path, pool: str) -> None:
    write_project(tmp_path, TASKS)
    app = client(tmp_path)

    async def main() -> None:
        async def call(name: str, *args: Any, **options: Any) -> Any:
            result = await asyncio.to_thread(app.send_task, f"proj.{name}", args, **options)
            return await result.aget(timeout=PATIENCE_S)

        sums = await asyncio.gather(*(call("aadd", number, 1) for number in range(30)))
        assert sums == list(range(1, 31))
        places = [await call("where", task_id=f"id{number}") for number in range(10)]
        assert [place[2] for place in places] == [f"id{number}" for number in range(10)]
        assert len({tuple(place[:2]) for place in places}) == len({place[0] for place in places})
        assert await call("runs_a_loop") == "mine"
        assert await call("flaky") == 2
        assert await app.AsyncResult(await call("calls_another")).aget(timeout=PATIENCE_S) == 42
        if pool in ("prefork", "spawned"):
            mark = tmp_path / "mark"
            assert await call("waits", str(mark), soft_time_limit=1) == "in time"
            mark.unlink()
            waiting = await asyncio.to_thread(app.send_task, "proj.waits", (str(mark),))
            await asyncio.to_thread(wait_until, mark.exists)
            await asyncio.to_thread(waiting.revoke, terminate=True)
            with pytest.raises(TaskRevokedError):
                await waiting.aget(timeout=PATIENCE_S)
            wait_until((tmp_path / "mark.cancelled").exists)

    with Worker(tmp_path, *POOLS[pool]):
        asyncio.run(main())
    app.close()


@pytest.mark.parametrize("pool", NAMES)
def test_a_cold_shutdown_cancels(tmp_path: Path, pool: str) -> None:
    write_project(tmp_path, TASKS)
    mark = tmp_path / "mark"
    with client(tmp_path) as app:
        app.send_task("proj.waits", (str(mark),))
    with Worker(tmp_path, *POOLS[pool]) as worker:
        wait_until(mark.exists)
        worker.process.send_signal(signal.SIGQUIT)
        worker.wait_end()
        assert (tmp_path / "mark.cancelled").exists()
