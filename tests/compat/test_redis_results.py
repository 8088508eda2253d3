"""A client of Celery 5.7.0 waits in Redis for what taskq stores, and the other way round."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from patience import wait_until
from servers import RedisServer

PROGRAM = str(Path(__file__).parent / "redis_results.py")
AS_CELERY = """
import runpy, sys
import taskq

taskq.install_as_celery()
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
TASKQ = [sys.executable, "-c", AS_CELERY]
TOLD: dict[str, Any] = {
    "value": {"x": [1, "two", None]},
    "error": ["KeyError", "('k', 3)"],
    "revoked": ["TaskRevokedError", "told to"],
    "group": [0, 1, 2],
}


def start(python: list[str], *arguments: str) -> Any:
    return subprocess.Popen(
        [*python, PROGRAM, *arguments], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def exchange(writer: list[str], reader: list[str], server: RedisServer, serializer: str) -> None:
    ids = {f"{ending}-{uuid.uuid4()}": ending for ending in TOLD}
    lines = "".join(f"{task_id} {ending}\n" for task_id, ending in ids.items())
    url = server.url
    with (
        start(writer, "store", url, serializer) as store,
        start(reader, "get", url, serializer) as get,
    ):
        get.stdin.write(lines + "\n")
        get.stdin.flush()
        assert get.stdout.readline() == "waiting\n"
        wait_until(
            lambda: sum(int(each["sub"]) for each in server.clients()) == 3, "all are waited for"
        )
        store.stdin.write(lines)
        store.stdin.close()
        assert sorted(store.stdout.read().split()) == sorted(ids)
        get.stdin.write("go on\n")
        get.stdin.close()
        told = json.loads(get.stdout.read())
    assert told == {task_id: TOLD[ending] for task_id, ending in ids.items()}


def test_taskq_waits_for_taskq(private_redis: RedisServer) -> None:
    exchange(TASKQ, TASKQ, private_redis, "json")


@pytest.mark.long
@pytest.mark.parametrize("serializer", ["json", "pickle"])
@pytest.mark.parametrize("waits", ["celery", "taskq"])
def test_one_waits_for_the_other(
    private_redis: RedisServer, celery_python: str, waits: str, serializer: str
) -> None:
    sides = {"celery": [celery_python], "taskq": TASKQ}
    (stores,) = set(sides) - {waits}
    exchange(sides[stores], sides[waits], private_redis, serializer)
