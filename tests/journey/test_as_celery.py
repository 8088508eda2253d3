"""A project that was written for Celery and knows nothing of taskq runs unmodified.

Its code is written to a folder, a worker process serves it, and a client process calls it. Three
ways to make `import celery` mean taskq: an option, an environment variable, a call.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from journey.harness import Worker
from patience import PATIENCE_S

#: What a real Celery in the path would do: say that it was loaded.
POISON = "raise AssertionError('a celery that is not taskq was imported')\n"

PROJECT = {
    "shop/__init__.py": """
        from .celery import app as celery_app

        __all__ = ("celery_app",)
        """,
    "shop/settings.py": """
        CELERY_TASK_SERIALIZER = "json"
        CELERY_RESULT_EXTENDED = True
        CELERY_TASK_DEFAULT_QUEUE = "shop"
        CELERY_TIMEZONE = "Europe/Oslo"
        UNRELATED = object()
        """,
    "shop/celery.py": """
        from celery import Celery
        from celery.signals import celeryd_init, task_prerun, worker_ready
        from celery.utils.log import get_logger

        app = Celery("shop")
        app.config_from_object("shop.settings", namespace="CELERY")
        app.autodiscover_tasks(["shop.orders"])
        logger = get_logger(__name__)

        @celeryd_init.connect
        def on_init(sender=None, conf=None, **kwargs):
            print(f"SIGNAL celeryd_init {conf.task_default_queue}", flush=True)

        @worker_ready.connect
        def on_ready(sender=None, **kwargs):
            print(f"SIGNAL worker_ready {type(sender).__name__}")

        @task_prerun.connect
        def on_prerun(sender=None, task_id=None, task=None, **kwargs):
            if task.name.endswith("add"):
                print(f"SIGNAL task_prerun {task.name}")
        """,
    "shop/orders/__init__.py": "",
    "shop/orders/tasks.py": """
        import celery
        from celery import Task, chain, current_app, current_task, group, shared_task
        from celery.exceptions import Ignore, MaxRetriesExceededError, Reject, Retry
        from celery.utils.log import get_task_logger

        from shop.celery import app

        logger = get_task_logger(__name__)

        class Refused(ValueError):
            pass

        class Counting(Task):
            abstract = True
            runs = 0

            def before_start(self, task_id, args, kwargs):
                self.runs += 1

        @shared_task
        def add(x, y):
            logger.info("adding %s and %s", x, y)
            return x + y

        @app.task(bind=True, base=Counting, max_retries=2, default_retry_delay=0)
        def flaky(self, until):
            if self.request.retries < until:
                raise self.retry(exc=Refused("not yet"), countdown=0)
            return [self.request.retries, self.runs]

        @app.task(autoretry_for=(Refused,), retry_kwargs={"max_retries": 1, "countdown": 0})
        def refuse(reason):
            raise Refused(reason)

        @celery.shared_task(name="shop.who", bind=True)
        def who(self, *args):
            return [self.name, current_task.name, current_app.main, self.request.id]

        @app.task
        def total(numbers):
            return sum(numbers)
        """,
}

CLIENT = """
    from celery import chain, current_app, group, signature
    from celery.exceptions import TimeoutError
    from celery.result import AsyncResult, GroupResult
    from shop.celery import app
    from shop.orders.tasks import Refused, add, flaky, refuse, total, who

    assert app.conf.timezone == "Europe/Oslo"
    assert add.delay(2, 3).get(timeout=60) == 5
    assert chain(add.s(1, 2), add.s(10)).delay().get(timeout=60) == 13
    assert (add.s(1, 1) | add.s(2)).apply_async().get(timeout=60) == 4
    assert group(add.s(i, i) for i in range(4)).delay().get(timeout=60) == [0, 2, 4, 6]
    assert flaky.delay(2).get(timeout=60) == [2, 3]

    failed = refuse.delay("too dear")
    try:
        failed.get(timeout=60)
    except Refused as exc:
        assert str(exc) == "too dear"
    else:
        raise AssertionError("must be refused")
    again = AsyncResult(failed.id)
    assert again.state == "FAILURE" and isinstance(again.result, Refused)
    assert "Refused: too dear" in again.traceback
    assert again.name == "shop.orders.tasks.refuse" and again.args == ["too dear"]

    sent = app.send_task("shop.who", args=[1])
    assert sent.get(timeout=60) == ["shop.who", "shop.who", "shop", sent.id]
    linked = add.apply_async((1, 2), link=add.s(30))
    assert linked.get(timeout=60) == 3
    assert linked.children[0].get(timeout=60) == 33
    assert AsyncResult("never-sent").state == "PENDING"
    assert app.control.ping(timeout=60, limit=1)
    print("client done")
    """


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


def environment(folder: Path, **more: str) -> dict[str, str]:
    """No application is configured by taskq's names; a fake Celery lies in wait in the path."""
    write(folder / "poison", {"celery/__init__.py": POISON})
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith(("TASKQ_", "CELERY_"))},
        "PYTHONPATH": os.pathsep.join((str(folder), str(folder / "poison"))),
        "CELERY_BROKER_URL": f"sqlite:///{folder}/queue.db",
        "CELERY_RESULT_BACKEND": f"sqlite:///{folder}/queue.db",
        **more,
    }


AS_CELERY = "import taskq\ntaskq.install_as_celery()\n"


def client(folder: Path, code: str, env: dict[str, str], start: str = AS_CELERY) -> str:
    """The output of a program that begins with `taskq.install_as_celery()`."""
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", start + textwrap.dedent(code)],
        cwd=folder, env=env, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("app", "options", "variables"),
    [
        ("shop", ("--as-celery",), {}),
        ("shop.celery:app", (), {"TASKQ_AS_CELERY": "1"}),
        ("shop.celery", (), {"TASKQ_AS_CELERY": "yes", "CELERY_APP": "elsewhere"}),
    ],
)
def test_project_written_for_celery(
    tmp_path: Path, app: str, options: tuple[str, ...], variables: dict[str, str]
) -> None:
    write(tmp_path, PROJECT)
    env = environment(tmp_path)
    with Worker(tmp_path, app=app, globals_=options, env={**env, **variables}) as worker:
        assert "client done" in client(tmp_path, CLIENT, env)
    log = worker.log
    assert "SIGNAL celeryd_init shop" in log
    assert "SIGNAL worker_ready Consumer" in log
    assert "SIGNAL task_prerun shop.orders.tasks.add" in log
    assert "shop.orders.tasks.add[" in log and "adding 2 and 3" in log
    assert ". shop.orders.tasks.flaky" in log


NAMES_IN_STRINGS = {
    "proj.py": """
        import sys

        from taskq import App, bootsteps

        class Boot(bootsteps.StartStopStep):
            requires = {"celery.worker.components:Pool"}

            def start(self, worker):
                print("STEP worker", flush=True)

        class Listen(bootsteps.StartStopStep):
            requires = (
                "celery.worker.consumer.connection:Connection",
                "celery.worker.consumer:Tasks",
            )

            def start(self, consumer):
                print("STEP consumer", flush=True)

        app = App(
            "proj",
            task_cls="celery.app.task:Task",
            loader="celery.loaders.app.AppLoader",
            amqp="celery.app.amqp:AMQP",
            control="celery.app.control:Control",
            log="celery.app.log.Logging",
            include=["celery.app.builtins"],
            worker_consumer="celery.worker.consumer.Consumer",
            worker_pool="celery.concurrency.solo:TaskPool",
            worker_timer="celery.utils.timer2.Timer",
            task_routes=("celery.app.routes:MapRoute",),
        )
        app.conf.task_routes = None
        app.steps["worker"].add(Boot)
        app.steps["consumer"].add("proj:Listen")

        @app.task(
            Request="celery.worker.request:Request",
            Strategy="celery.worker.strategy:default",
        )
        def loaded():
            return sorted(name for name in sys.modules if name.partition(".")[0] == "celery")
        """,
}  # fmt: skip

NAMES_CLIENT = """
    import sys
    from proj import app, loaded
    from taskq.utils.imports import symbol_by_name

    assert app.conf.beat_scheduler.startswith("celery.beat:")
    assert loaded.delay().get(timeout=60) == []
    unknown = [name for name in ("celery.no.such:Thing", "celery.no_such.Thing")]
    for name in unknown:
        try:
            symbol_by_name(name)
        except ImportError:
            pass
        else:
            raise AssertionError(name)
    assert "celery" not in sys.modules
    print("client done")
    """


def test_names_in_strings_never_import_a_celery(tmp_path: Path) -> None:
    write(tmp_path, NAMES_IN_STRINGS)
    env = environment(tmp_path)
    with Worker(tmp_path, env=env) as worker:
        assert "client done" in client(tmp_path, NAMES_CLIENT, env, start="")
    assert "STEP worker" in worker.log and "STEP consumer" in worker.log


AGENT = {
    "agent.py": """
        import importlib

        import kombu

        seen = []

        def wrap(owner, name, note):
            original = getattr(owner, name)

            def wrapper(*args, **kwargs):
                note(name, kwargs)
                return original(*args, **kwargs)

            setattr(owner, name, wrapper)

        def install(root):
            def load(name):
                return importlib.import_module(f"{root}.{name}")

            def note(name, kwargs):
                seen.append(name)
                print(f"AGENT {name}", flush=True)

            wrap(load("app.trace"), "build_tracer", note)
            wrap(load("app.task").Task, "apply_async", note)
            wrap(load("app.base").App, "send_task", note)
            wrap(kombu.Producer, "publish", note)
        """,
    "proj.py": """
        import os

        import taskq

        taskq.install_as_celery()

        import agent

        agent.install(os.environ["AGENT_ROOT"])
        app = taskq.App("proj")

        @app.task
        def outer(x):
            inner.delay(x)
            return agent.seen[-3:]

        @app.task
        def inner(x):
            return x
        """,
}

AGENT_CLIENT = """
    import agent
    from proj import app, outer

    agent.seen.clear()
    result = outer.delay(1)
    assert agent.seen == ["apply_async", "send_task", "publish"], agent.seen
    assert result.get(timeout=60) == ["apply_async", "send_task", "publish"]
    agent.seen.clear()
    outer.apply((1,)).get()
    assert agent.seen[0] == "build_tracer", agent.seen
    print("client done")
    """


@pytest.mark.parametrize("root", ["celery", "taskq"])
def test_agents_may_replace_functions_by_either_name(tmp_path: Path, root: str) -> None:
    write(tmp_path, AGENT)
    env = environment(tmp_path, AGENT_ROOT=root)
    with Worker(tmp_path, env=env) as worker:
        assert "client done" in client(tmp_path, AGENT_CLIENT, env, start="")
    assert "AGENT build_tracer" in worker.log


SPAWNING = {
    "legacy.py": """
        from celery import Celery

        def home():
            return Celery.__module__
        """,
    "parent.py": """
        import multiprocessing

        import taskq
        import legacy

        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.apply(legacy.home))
        """,
}


def test_spawned_children_see_celery_too(tmp_path: Path) -> None:
    write(tmp_path, SPAWNING)
    done = subprocess.run(
        [sys.executable, "parent.py"],
        cwd=tmp_path, env=environment(tmp_path, TASKQ_AS_CELERY="1"),
        capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.stdout == "taskq.app.base\n", done.stderr
