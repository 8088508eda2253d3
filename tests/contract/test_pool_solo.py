"""The pool contract, kept by solo."""

from __future__ import annotations

import os

import pytest
from contract.pools import Journal, PoolContract, shut_down

from taskq.concurrency.solo import TaskPool
from taskq.exceptions import WorkerShutdown
from taskq.signals import worker_process_init


class TestSoloPool(PoolContract):
    reports_errors = False

    def make_pool(self) -> TaskPool:
        return TaskPool(4)

    def test_it_has_one_slot_in_this_process(self, pool: TaskPool) -> None:
        journal = Journal()
        pool.apply_async(os.getpid, **journal.options())
        assert journal.entries[-1] == ("done", os.getpid())
        assert pool.limit == 1
        assert pool.info["processes"] == [os.getpid()]

    def test_what_stops_the_worker_passes(self, pool: TaskPool) -> None:
        with pytest.raises(WorkerShutdown):
            pool.apply_async(shut_down)

    def test_it_cannot_end_a_running_task(self, pool: TaskPool) -> None:
        with pytest.raises(NotImplementedError, match="kill_job"):
            pool.terminate_job(1)

    def test_this_process_is_its_child_process(self) -> None:
        senders = []

        def on_init(sender: object, **kwargs: object) -> None:
            senders.append(sender)

        worker_process_init.connect(on_init)
        try:
            TaskPool(1, initargs=(None, "w@here"))
        finally:
            worker_process_init.disconnect(on_init)
        assert senders == ["w@here"]
