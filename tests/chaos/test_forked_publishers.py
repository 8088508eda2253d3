"""An application used by a program and by the children it forks, all publishing at once."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path
from typing import Any

import billiard
import pytest
from contract.chaos import Chaos
from patience import PATIENCE_S

pytestmark = [
    pytest.mark.skipif(
        "fork" not in multiprocessing.get_all_start_methods(), reason="there is no fork here"
    ),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


def publish_and_store(chaos: Chaos, start: int, number: int) -> None:
    for n in range(start, start + number):
        chaos.send("late", [n])
        chaos.app.backend.store_result(f"stored-{n}", n, "SUCCESS")


@pytest.mark.parametrize("start_process", [multiprocessing.get_context("fork"), billiard])
def test_parent_and_children_publish_at_once(tmp_path: Path, start_process: Any) -> None:
    with Chaos(tmp_path) as chaos:
        # The parent has used its connections, and goes on using them while it forks.
        publish_and_store(chaos, 0, 5)
        busy = threading.Thread(target=publish_and_store, args=(chaos, 1000, 300))
        busy.start()
        children = [
            start_process.Process(target=publish_and_store, args=(chaos, 2000 + 100 * n, 40))
            for n in range(6)
        ]
        for child in children:
            child.start()
        publish_and_store(chaos, 5, 5)
        busy.join()
        for child in children:
            child.join(PATIENCE_S)
        assert [child.exitcode for child in children] == [0] * 6
        expected = {*range(10), *range(1000, 1300)}
        expected |= {2000 + 100 * n + m for n in range(6) for m in range(40)}
        assert chaos.count_rows()["ready"] == len(expected)
        stored = chaos.app.backend.mget([f"celery-task-meta-stored-{n}" for n in expected])
        assert len(stored) == len(expected)
        worker = chaos.start()
        chaos.wait_until(lambda: chaos.count_rows()["message"] == 0, "an empty queue")
        chaos.end(worker)
        assert chaos.count_runs() == dict.fromkeys(expected, 1)
