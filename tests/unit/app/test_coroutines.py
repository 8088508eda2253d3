"""`async def` tasks: run by the tracer, here and now, and called from asyncio code."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from contract.tracing import lone_app

from taskq import Task, current_task, states
from taskq.app import trace
from taskq.exceptions import Ignore


@pytest.fixture
def app():
    with lone_app("async") as app:
        yield app


@pytest.fixture
def add(app):
    @app.task(name="add")
    async def add(x, y):
        await asyncio.sleep(0)
        return x + y

    return add


def run(app, task, *args, **request):
    return trace.build_tracer(task.name, task, app=app)("ID", args, {}, {"id": "ID", **request})


def test_the_awaited_value_is_the_result(app, add):
    assert run(app, add, 1, 2).retval == 3
    assert app.AsyncResult("ID").get() == 3


def test_the_request_is_current_inside(app):
    @app.task(bind=True)
    async def look(self):
        before = self.request.id
        await asyncio.sleep(0)
        return before, self.request.id, current_task.name

    assert run(app, look).retval == ("ID", "ID", look.name)
    assert look.request.id is None


def test_hooks_come_in_the_usual_order(app):
    seen = []

    class Noting(Task):
        def before_start(self, *args):
            seen.append("before_start")

        def on_success(self, *args):
            seen.append("on_success")

        def on_failure(self, *args):
            seen.append("on_failure")

        def after_return(self, *args):
            seen.append("after_return")

        def __call__(self, *args, **kwargs):
            seen.append("call")
            return super().__call__(*args, **kwargs)

    @app.task(base=Noting)
    async def work(fails):
        await asyncio.sleep(0)
        seen.append("run")
        if fails:
            raise KeyError("k")

    run(app, work, False)
    assert seen == ["before_start", "call", "run", "on_success", "after_return"]
    seen.clear()
    run(app, work, True)
    assert seen == ["before_start", "call", "run", "on_failure", "after_return"]


def test_ignore_is_an_ending(app):
    @app.task
    async def ignored():
        await asyncio.sleep(0)
        raise Ignore()

    assert run(app, ignored).info.state == states.IGNORED


def test_retry_and_autoretry(app):
    @app.task(bind=True, max_retries=5)
    async def by_hand(self):
        await asyncio.sleep(0)
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        return self.request.retries

    @app.task(bind=True, autoretry_for=(KeyError,), retry_kwargs={"max_retries": 2})
    async def by_itself(self, enough):
        await asyncio.sleep(0)
        if self.request.retries < enough:
            raise KeyError("k")
        return self.request.retries

    assert by_hand.apply().get() == 2
    assert by_itself.apply((2,)).get() == 2
    with pytest.raises(KeyError):
        by_itself.apply((3,)).get()


def test_models_come_in_and_go_out_as_dicts(app):
    pydantic = pytest.importorskip("pydantic")

    class Point(pydantic.BaseModel):
        x: int

    async def move(point):
        await asyncio.sleep(0)
        return Point(x=point.x + 1)

    move.__annotations__ = {"point": Point, "return": Point}
    task = app.task(pydantic=True)(move)
    assert task.apply(({"x": "1"},)).get() == {"x": 2}


def test_apply_where_a_loop_runs(add):
    async def main():
        return add.apply((1, 2)).get()

    assert asyncio.run(main()) == 3
    assert add.apply((1, 2)).get() == 3


def test_a_call_here_and_now_gives_the_coroutine(app, add):
    @app.task(bind=True)
    async def look(self, x):
        await asyncio.sleep(0)
        return self.request.args, self.request.called_directly, current_task.name

    assert asyncio.run(add(1, 2)) == 3
    assert asyncio.run(look(7)) == ((7,), True, look.name)
    assert not current_task


def test_calls_are_sent_and_awaited(app, add):
    async def main():
        first = await add.adelay(1, 2)
        second = await add.aapply_async((3, 4), task_id="mine")
        for result in (first, second):
            app.backend.store_result(result.id, f"of {result.id}", states.SUCCESS)
        return await first, await second.aget(timeout=60), first.id

    one, two, id_ = asyncio.run(main())
    assert (one, two) == (f"of {id_}", "of mine")
    with app.connection_for_write() as connection:
        assert connection.default_channel._size("celery") == 2


def test_eager_calls_are_awaited(app, add):
    app.conf.task_always_eager = True

    async def main():
        return await (await add.adelay(1, 2))

    assert asyncio.run(main()) == 3


def test_who_has_no_coroutines_does_not_load_asyncio():
    program = """
import sys
from taskq import App
app = App("x", broker="memory://", backend="cache+memory://")
@app.task
def plain(x):
    return x
plain.delay(1)
assert plain.apply((1,)).get() == 1
import taskq.concurrency.prefork, taskq.concurrency.solo, taskq.concurrency.thread
import taskq.worker.worker
assert "asyncio" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_arguments_are_checked(add: Any):
    async def main():
        with pytest.raises(TypeError, match="missing 1 required"):
            await add.adelay(1)

    asyncio.run(main())
