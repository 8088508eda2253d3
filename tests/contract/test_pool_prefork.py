"""The pool contract, kept by prefork: driven by a thread, by a hub, and over streams."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from billiard.exceptions import (
    SoftTimeLimitExceeded,
    Terminated,
    TimeLimitExceeded,
    WorkerLostError,
)
from billiard.pool import MaybeEncodingError
from contract import async_jobs
from contract import child_jobs as jobs
from contract.pools import Journal, PoolContract, original
from kombu.asynchronous import Hub
from patience import FOREVER_S, PATIENCE_S, wait_until

from taskq.concurrency import process_pool
from taskq.concurrency.prefork import TaskPool
from taskq.concurrency.process_pool import ProcessPool


class StreamPool(ProcessPool):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, is_stream=True, **kwargs)


class ProcessContract(PoolContract):
    def until(self, true: Callable[[], Any]) -> None:
        wait_until(true, turn=self.turn)

    def turn(self) -> None:
        time.sleep(0.001)

    def wait(self, journal: Journal) -> None:
        self.until(lambda: {"done", "error"} & set(journal.names()))

    def give(self, pool: TaskPool, target: Any, *args: Any, **options: Any) -> Journal:
        journal = Journal()
        journal.job = pool.apply_async(
            target,
            args,
            timeout_callback=lambda soft, timeout: journal.entries.append(
                ("soft" if soft else "hard", timeout)
            ),
            **journal.options(),
            **options,
        )
        return journal

    def run(self, pool: TaskPool, target: Any, *args: Any, **options: Any) -> Journal:
        journal = self.give(pool, target, *args, **options)
        self.wait(journal)
        return journal

    def error_of(self, journal: Journal) -> Any:
        (einfo,) = [value for name, value in journal.entries if name == "error"]
        return original(einfo.exception)

    # --- what children give back ------------------------------------------------------------------

    def test_it_runs_in_children(self, pool: TaskPool) -> None:
        journal = self.run(pool, jobs.pid)
        (_, (pid, _)), (_, value) = journal.entries
        assert value == pid != os.getpid()
        assert pid in pool.info["processes"]
        assert len(pool.info["processes"]) == pool.num_processes == 2

    @pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="this system has no such policy")
    def test_children_do_not_interrupt_their_parent(self, pool: TaskPool) -> None:
        before = os.sched_getscheduler(0)
        journal = self.run(pool, os.sched_getscheduler, 0)
        expected = os.SCHED_BATCH if before == os.SCHED_OTHER else before
        assert journal.entries[-1] == ("done", expected)
        assert os.sched_getscheduler(0) == before

    def test_packets_of_every_size_pass(self, pool: TaskPool) -> None:
        for size in (0, 1, 65_000, 65_536, 70_000, 300_000, 5_000_000):
            journal = self.run(pool, bytes.upper, b"x" * size)
            assert journal.entries[-1][1] == b"X" * size

    def test_a_value_that_cannot_travel_is_an_error_that_says_so(self, pool: TaskPool) -> None:
        for target in (jobs.give_function, jobs.raise_stubborn):
            error = self.error_of(self.run(pool, target))
            assert isinstance(error, MaybeEncodingError)
        assert "cannot travel" in error.value

    def test_a_job_that_cannot_travel_is_an_error(self, pool: TaskPool) -> None:
        journal = self.run(pool, lambda: None)
        assert journal.names() == ["error"]

    # --- children that end ------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("target", "how"),
        [
            ((jobs.exit_hard, 7), "exitcode 7"),
            ((jobs.crash,), "signal 11 (SIGSEGV)"),
        ],
    )
    def test_a_job_that_ends_its_child_is_lost(
        self, pool: TaskPool, target: tuple[Any, ...], how: str
    ) -> None:
        others = [self.give(pool, jobs.nap, 0.01) for _ in range(10)]
        journal = self.run(pool, *target)
        assert journal.names() == ["accepted", "error"]
        error = self.error_of(journal)
        assert isinstance(error, WorkerLostError)
        assert f"Worker exited prematurely: {how} Job:" in str(error)
        for other in others:
            self.wait(other)
            assert other.names() == ["accepted", "done"]
        self.until(lambda: len(pool.info["processes"]) == 2)

    def test_sys_exit_is_reported_and_the_child_replaced(self, pool: TaskPool) -> None:
        before = set(pool.info["processes"])
        journal = self.run(pool, jobs.leave, 4)
        assert str(self.error_of(journal)) == "Worker exited prematurely: exitcode 4."
        self.until(lambda: set(pool.info["processes"]) not in (before, set()))
        assert self.run(pool, max, 1, 2).entries[-1] == ("done", 2)

    def test_an_idle_child_that_is_killed_costs_nothing(self, pool: TaskPool) -> None:
        pool.did_start_ok()
        for pid in pool.info["processes"]:
            os.kill(pid, signal.SIGKILL)
        journals = [self.give(pool, max, n, 0) for n in range(20)]
        for journal in journals:
            self.wait(journal)
            assert journal.names() == ["accepted", "done"]

    def test_a_running_job_can_be_ended(self, pool: TaskPool) -> None:
        journal = self.give(pool, jobs.nap, FOREVER_S)
        self.until(lambda: journal.names() == ["accepted"])
        pool.terminate_job(journal.entries[0][1][0], signal.SIGTERM)
        self.wait(journal)
        error = self.error_of(journal)
        assert isinstance(error, Terminated)
        assert error.args == (-signal.SIGTERM,)

    def test_a_job_can_be_ended_before_it_starts(self, pool: TaskPool, tmp_path: Path) -> None:
        go = tmp_path / "go"
        running = [self.give(pool, jobs.hold, str(go)) for _ in range(2)]
        journal = self.give(pool, jobs.nap, FOREVER_S)
        journal.job.terminate(signal.SIGTERM)
        go.touch()
        self.wait(journal)
        assert isinstance(self.error_of(journal), Terminated)
        for other in running:
            self.wait(other)
            assert other.names() == ["accepted", "done"]

    # --- limits -----------------------------------------------------------------------------------

    def test_a_soft_limit_is_raised_in_the_job(self, pool: TaskPool, tmp_path: Path) -> None:
        journal = self.run(pool, jobs.nap, FOREVER_S, soft_timeout=0.1)
        assert journal.names() == ["accepted", "soft", "error"]
        assert isinstance(self.error_of(journal), SoftTimeLimitExceeded)
        mark = tmp_path / "mark"
        journal = self.run(pool, jobs.go_on_stubbornly, str(mark), soft_timeout=0.1)
        assert journal.names() == ["accepted", "soft", "done"]
        assert mark.read_text() == "SoftTimeLimitExceeded\n"

    def test_a_hard_limit_ends_the_child(self, pool: TaskPool) -> None:
        journal = self.run(pool, jobs.nap, FOREVER_S, timeout=0.2)
        self.until(lambda: "hard" in journal.names())
        assert journal.names() == ["accepted", "error", "hard"]
        error = self.error_of(journal)
        assert isinstance(error, TimeLimitExceeded)
        assert error.args == (0.2,)
        assert self.run(pool, max, 1, 2).entries[-1] == ("done", 2)

    # --- coroutines -------------------------------------------------------------------------------

    def test_a_soft_limit_is_raised_at_the_await(self, pool: TaskPool, tmp_path: Path) -> None:
        mark = tmp_path / "mark"
        for _ in range(2):
            journal = self.run(pool, async_jobs.run, "wait_for_ever", str(mark), soft_timeout=0.1)
            assert journal.names() == ["accepted", "soft", "done"]
            assert journal.entries[-1][1] == "to the end"
        assert mark.read_text() == "sleeping\nSoftTimeLimitExceeded\n" * 2
        journal = self.run(pool, async_jobs.run, "sleep_twice", soft_timeout=0.1)
        assert type(self.error_of(journal)) is SoftTimeLimitExceeded

    def test_a_coroutine_that_never_awaits_has_the_hard_limit(self, pool: TaskPool) -> None:
        journal = self.run(pool, async_jobs.run, "never_await", soft_timeout=0.1, timeout=0.3)
        self.until(lambda: "hard" in journal.names())
        assert journal.names() == ["accepted", "soft", "error", "hard"]
        assert isinstance(self.error_of(journal), TimeLimitExceeded)
        assert self.run(pool, max, 1, 2).entries[-1] == ("done", 2)

    def test_a_coroutine_that_is_ended_is_cancelled(self, pool: TaskPool, tmp_path: Path) -> None:
        mark = tmp_path / "mark"
        # The loop of this child is an old one.
        self.run(pool, async_jobs.run, "wait_for_ever", str(tmp_path / "other"), soft_timeout=0.1)
        journal = self.give(pool, async_jobs.run, "wait_for_ever", str(mark))
        self.until(lambda: mark.exists() and journal.names() == ["accepted"])
        pool.terminate_job(journal.entries[0][1][0], signal.SIGTERM)
        self.wait(journal)
        assert self.error_of(journal).args == (-signal.SIGTERM,)
        assert mark.read_text() == "sleeping\nCancelledError\ncleaned up\n"
        assert self.run(pool, max, 1, 2).entries[-1] == ("done", 2)

    def test_a_coroutine_is_cancelled_when_the_pool_is_terminated(self, tmp_path: Path) -> None:
        mark = tmp_path / "mark"
        pool = self.make_pool()
        pool.start()
        journal = self.give(pool, async_jobs.run, "wait_for_ever", str(mark))
        self.until(lambda: mark.exists() and journal.names() == ["accepted"])
        pool.terminate()
        assert journal.names() == ["accepted"]
        assert mark.read_text() == "sleeping\nCancelledError\ncleaned up\n"

    # --- numbers of children ----------------------------------------------------------------------

    def test_it_grows_and_shrinks(self, pool: TaskPool) -> None:
        pool.grow(2)
        assert pool.num_processes == 4
        self.until(lambda: len(pool.info["processes"]) == 4)
        self.until(lambda: len(pool._pool._idle) == 4)
        pool.shrink(3)
        assert pool.num_processes == 1
        self.until(lambda: len(pool.info["processes"]) == 1)
        assert self.run(pool, max, 1, 2).entries[-1] == ("done", 2)

    def test_busy_children_are_not_shrunk(self, pool: TaskPool, tmp_path: Path) -> None:
        go = tmp_path / "go"
        journals = [self.give(pool, jobs.hold, str(go)) for _ in range(2)]
        self.until(lambda: all(journal.names() for journal in journals))
        with pytest.raises(ValueError, match="All processes busy"):
            pool.shrink(1)
        go.touch()
        for journal in journals:
            self.wait(journal)

    def test_a_restart_replaces_all_children_and_loses_no_job(self, pool: TaskPool) -> None:
        pool.did_start_ok()
        before = set(pool.info["processes"])
        journals = [self.give(pool, jobs.nap, 0.02) for _ in range(20)]
        pool.restart()
        for journal in journals:
            self.wait(journal)
            assert journal.names() == ["accepted", "done"]
        self.until(lambda: not before & set(pool.info["processes"]))
        self.until(lambda: len(pool.info["processes"]) == 2)

    # --- the end ----------------------------------------------------------------------------------

    def test_stopping_finishes_what_was_given(self) -> None:
        pool = self.make_pool()
        pool.start()
        journals = [self.give(pool, jobs.nap, 0.02) for _ in range(20)]
        pool.close()
        assert pool.apply_async(max, (1, 2)) is None
        pool.stop()
        assert all(journal.names() == ["accepted", "done"] for journal in journals)

    def test_terminating_ends_children_and_tells_nobody(self) -> None:
        pool = self.make_pool()
        pool.start()
        journal = self.give(pool, jobs.nap, FOREVER_S)
        self.until(lambda: journal.names() == ["accepted"])
        pids = pool.info["processes"]
        pool.terminate()
        assert journal.names() == ["accepted"]
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    def test_what_has_not_started_can_be_forgotten(self, pool: TaskPool, tmp_path: Path) -> None:
        go = tmp_path / "go"
        running = [self.give(pool, jobs.hold, str(go)) for _ in range(2)]
        self.until(lambda: all(journal.names() for journal in running))
        waiting = [self.give(pool, max, 1, 2) for _ in range(5)]
        pool.flush()
        go.touch()
        for journal in running:
            self.wait(journal)
        assert self.run(pool, max, 1, 2).names() == ["accepted", "done"]
        assert all(journal.names() == [] for journal in waiting)

    def test_what_is_not_wanted_any_more_is_not_run(self, pool: TaskPool) -> None:
        running = [self.give(pool, jobs.nap, 0.1) for _ in range(2)]
        unwanted = self.give(pool, max, 1, 2, discard_if=lambda: True)
        wanted = self.give(pool, max, 1, 2, discard_if=lambda: False)
        for journal in (*running, wanted):
            self.wait(journal)
        assert unwanted.names() == []

    def test_descriptors_are_given_back(self) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            pool = self.make_pool()
            pool.start()
            self.run(pool, jobs.exit_hard, 1)
            self.run(pool, bytes.upper, b"x" * 100_000)
            pool.close()
            pool.stop()
        assert len(os.listdir("/proc/self/fd")) <= before + 1


class TestDrivenByThread(ProcessContract):
    def make_pool(self) -> TaskPool:
        return TaskPool(2)

    def test_a_job_can_be_waited_for(self, pool: TaskPool) -> None:
        job = pool.apply_async(max, (1, 2))
        assert job.get(PATIENCE_S) == 2
        assert job.ready() and job.successful() and job.accepted()
        assert job.pid in pool.info["processes"]

    def test_the_thread_ends_with_the_pool(self, pool: TaskPool) -> None:
        assert "taskq-pool" in {thread.name for thread in threading.enumerate()}
        pool.stop()
        assert "taskq-pool" not in {thread.name for thread in threading.enumerate()}


class TestDrivenByHub(ProcessContract):
    hub: Hub

    def make_pool(self) -> TaskPool:
        self.hub = hub = Hub()

        class Pool(TaskPool):
            def on_start(self) -> None:
                super().on_start()
                self.register_with_event_loop(hub)

            def on_stop(self) -> None:
                super().on_stop()
                hub.close()

            def on_terminate(self) -> None:
                super().on_terminate()
                hub.close()

        Pool.__name__ = "TaskPool"
        return Pool(2, threads=False)

    def test_it_tells_about_itself(self, pool: TaskPool) -> None:
        assert pool.info["max-concurrency"] == 2

    def turn(self) -> None:
        self.hub.timer.call_after(0.01, lambda: None)
        self.hub.run_once()

    def test_it_is_watched_again_after_a_reset(self, pool: TaskPool) -> None:
        self.hub.reset()
        pool.register_with_event_loop(self.hub)
        assert self.run(pool, max, 1, 2).entries[-1] == ("done", 2)


@pytest.mark.long  # what Linux does not use
class TestOverStreams(ProcessContract):
    def make_pool(self) -> TaskPool:
        class Pool(TaskPool):
            Pool = StreamPool

        Pool.__name__ = "TaskPool"
        return Pool(2)

    def test_it_tells_about_itself(self, pool: TaskPool) -> None:
        assert pool.info["max-concurrency"] == 2


class SpawnedContract(ProcessContract):
    def make_pool(self) -> TaskPool:
        return TaskPool(2, start_method="spawn")


@pytest.mark.long
class TestSpawned(SpawnedContract):
    pass


def test_spawned_children_in_short(tmp_path: Path) -> None:
    contract = SpawnedContract()
    pool = contract.make_pool()
    pool.start()
    try:
        contract.test_it_runs_in_children(pool)
        contract.test_packets_of_every_size_pass(pool)
        contract.test_a_soft_limit_is_raised_in_the_job(pool, tmp_path)
        contract.test_a_hard_limit_ends_the_child(pool)
        contract.test_sys_exit_is_reported_and_the_child_replaced(pool)
    finally:
        pool.close()
        pool.stop()


def test_where_packets_are_unknown_a_stream_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("socket.SOCK_SEQPACKET")
    pool = process_pool.ProcessPool(1)
    pool.start()
    answers: list[Any] = []
    pool.apply_async(bytes.upper, (b"x" * 3_000_000,), callback=answers.append)
    pool.join()
    assert answers == [b"X" * 3_000_000]
