"""The pool contract, kept by solo."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from contract import async_jobs
from contract.pools import Journal, PoolContract, shut_down
from patience import wait_until

from taskq.concurrency.solo import TaskPool
from taskq.exceptions import WorkerShutdown, WorkerTerminate
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

    def test_a_signal_that_ends_the_worker_cancels_the_coroutine(
        self, pool: TaskPool, tmp_path: Path
    ) -> None:
        mark = tmp_path / "mark"

        def end(*args: object) -> None:
            raise WorkerTerminate(1)

        def signal_it() -> None:
            wait_until(mark.exists)
            os.kill(os.getpid(), signal.SIGUSR2)

        before = signal.signal(signal.SIGUSR2, end)
        helper = threading.Thread(target=signal_it)
        helper.start()
        try:
            with pytest.raises(WorkerTerminate):
                pool.apply_async(async_jobs.run, ("wait_for_ever", str(mark)))
        finally:
            helper.join()
            signal.signal(signal.SIGUSR2, before)
        assert mark.read_text() == "sleeping\nCancelledError\ncleaned up\n"
