"""The pool contract, kept by threads."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from contract import async_jobs
from contract.pools import Journal, PoolContract
from kombu.asynchronous import Hub
from patience import PATIENCE_S, wait_until

from taskq.concurrency.thread import TaskPool


class TestThreadsPool(PoolContract):
    def make_pool(self) -> TaskPool:
        return TaskPool(2)

    def test_two_jobs_run_at_the_same_time(self, pool: TaskPool) -> None:
        meeting = threading.Barrier(2)
        journals = Journal(), Journal()
        for journal in journals:
            pool.apply_async(meeting.wait, (PATIENCE_S,), **journal.options())
        for journal in journals:
            self.wait(journal)
        assert {journal.entries[-1][1] for journal in journals} == {0, 1}

    def test_it_can_be_waited_for(self, pool: TaskPool) -> None:
        result = pool.apply_async(max, (1, 2))
        result.wait(PATIENCE_S)
        assert result.get() == 2

    def test_it_counts_its_threads(self, pool: TaskPool) -> None:
        assert pool.info["threads"] == 0
        pool.apply_async(max, (1, 2)).get()
        assert pool.info["threads"] == 1

    def test_with_a_hub_its_thread_hears_all(self, pool: TaskPool) -> None:
        hub, journal, threads = Hub(), Journal(), []
        pool.register_with_event_loop(hub)
        options = journal.options()
        done = options["callback"]
        options["callback"] = lambda value: (
            threads.append(threading.current_thread()),
            done(value),
        )
        pool.apply_async(max, (1, 2), **options)
        while "done" not in journal.names():
            hub.run_once()
        assert journal.names() == ["accepted", "done"]
        assert threads == [threading.current_thread()]
        hub.close()

    def test_what_has_not_started_can_be_forgotten(self, pool: TaskPool) -> None:
        go, journal = threading.Event(), Journal()
        running = [pool.apply_async(go.wait, (PATIENCE_S,)) for _ in range(2)]
        pool.apply_async(max, (1, 2), **journal.options())
        pool.flush()
        go.set()
        assert all(result.get() for result in running)
        pool.stop()
        assert journal.names() == []

    def test_what_is_not_wanted_any_more_is_not_run(self, pool: TaskPool) -> None:
        journal = Journal()
        result = pool.apply_async(max, (1, 2), discard_if=lambda: True, **journal.options())
        assert result.get() is None
        assert journal.names() == []

    def test_it_cannot_end_a_running_task(self, pool: TaskPool) -> None:
        with pytest.raises(NotImplementedError, match="kill_job"):
            pool.terminate_job(1)

    def test_coroutines_run_at_the_same_time(self, pool: TaskPool, tmp_path: Path) -> None:
        marks = [tmp_path / "1", tmp_path / "2"]
        journals = Journal(), Journal()
        for mark, journal in zip(marks, journals, strict=True):
            pool.apply_async(async_jobs.run, ("wait_for_ever", str(mark)), **journal.options())
        wait_until(lambda: all(mark.exists() for mark in marks), "both sleep")
        assert "taskq-loop" in {thread.name for thread in threading.enumerate()}
        pool.terminate()
        for mark in marks:
            assert mark.read_text() == "sleeping\nCancelledError\ncleaned up\n"
        assert "taskq-loop" not in {thread.name for thread in threading.enumerate()}
