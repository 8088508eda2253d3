"""What a client loads to send its first task: each module costs every program that sends one."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

CALL = """
import sys

import taskq

by_import = sorted(name for name in sys.modules if name.partition(".")[0] == "taskq")
app = taskq.Celery("shop", broker=sys.argv[1])


@app.task
def add(x, y):
    return x + y


add.delay(2, 3)
app.close()
print(*by_import)
print(*sys.modules)
"""

#: Packages (with what is in them) that only other programs, and other calls, need.
OTHERS = {
    "workers": ["taskq.worker", "taskq.concurrency", "taskq.bootsteps", "taskq.app.trace",
                "taskq.app.outcome"],
    "other programs": ["taskq.bin", "taskq.schedules", "click",
                       "taskq.utils.command_exception"],
    "control and logging": ["taskq.app.control", "taskq.app.log"],
    "tasks with a time": ["dateutil", "tzlocal", "zoneinfo"],
    "integrations": ["taskq.contrib", "taskq.security", "taskq.app.models", "pydantic"],
}  # fmt: skip

SQLITE = ["sqlite3", "taskq.utils.sqlite", "taskq.transports.sqlite"]
RABBITMQ = ["taskq.transports.amqp"]
# redis-py brings asyncio with it.
REDIS = ["redis", "kombu.transport.redis", "taskq.transports.redis", "asyncio"]


def loaded_by_call(broker: str) -> tuple[list[str], set[str]]:
    """What of taskq `import taskq` loads; and what all is loaded after the first call."""
    done = subprocess.run(
        [sys.executable, "-c", CALL, broker], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    by_import, in_the_end = done.stdout.splitlines()
    return by_import.split(), set(in_the_end.split())


def find_superfluous(loaded: set[str], *more: str) -> set[str]:
    unwanted = [name for names in OTHERS.values() for name in names]
    return {name for name in (*unwanted, *more) if name in loaded}


def test_the_lists_name_modules_that_exist() -> None:
    lists = (*OTHERS.values(), SQLITE, RABBITMQ, REDIS)
    names = [name for names in lists for name in names if name.startswith("taskq.")]
    assert [name for name in names if find_spec(name) is None] == []


def test_memory() -> None:
    by_import, loaded = loaded_by_call("memory://")
    assert by_import == ["taskq", "taskq.compat", "taskq.version"]
    assert find_superfluous(loaded, *SQLITE, *RABBITMQ, *REDIS) == set()


def test_redis(redis_url: str) -> None:
    _, loaded = loaded_by_call(redis_url)
    assert find_superfluous(loaded, *SQLITE, *RABBITMQ) == set()


def test_rabbitmq(rabbitmq_url: str) -> None:
    _, loaded = loaded_by_call(rabbitmq_url)
    assert find_superfluous(loaded, *SQLITE, *REDIS) == set()


def test_sqlite(tmp_path: Path) -> None:
    _, loaded = loaded_by_call(f"sqlite:///{tmp_path}/shop.db")
    assert find_superfluous(loaded, *RABBITMQ, *REDIS) == set()
