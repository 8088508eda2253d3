"""What every pool keeps: accept before the task runs, hand over every ending, stop cleanly."""

from __future__ import annotations

import time
from typing import Any

import pytest
from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import WorkerLostError
from contract import async_jobs
from patience import wait_until

from taskq.concurrency.base import BasePool
from taskq.exceptions import WorkerShutdown


def add(x: int, y: int) -> int:
    return x + y


def leave() -> None:
    raise SystemExit(3)


def shut_down() -> None:
    raise WorkerShutdown(0)


class Journal:
    """Notes, in order, what the pool reports about one job."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Any]] = []

    def options(self) -> dict[str, Any]:
        return {
            "accept_callback": lambda pid, at: self.entries.append(("accepted", (pid, at))),
            "callback": lambda value: self.entries.append(("done", value)),
            "error_callback": lambda einfo: self.entries.append(("error", einfo)),
        }

    def names(self) -> list[str]:
        return [name for name, _ in self.entries]


def fail(text: str) -> None:
    raise KeyError(text)


def original(exception: Any) -> Any:
    """The error itself, which may stand inside one that carries its traceback."""
    return exception.exc if isinstance(exception, ExceptionWithTraceback) else exception


class PoolContract:
    """Subclass with `make_pool` and, for pools that work beside the caller, `wait`."""

    #: False: a job's own errors are raised by `apply_async` itself.
    reports_errors = True

    def make_pool(self) -> BasePool:
        raise NotImplementedError

    def wait(self, journal: Journal) -> None:
        """Return when the job has ended."""
        wait_until(
            lambda: {"done", "error"} & set(journal.names()), "the job ends", report=journal.names
        )

    @pytest.fixture
    def pool(self) -> Any:
        pool = self.make_pool()
        pool.start()
        yield pool
        pool.close()
        pool.stop()

    def test_a_job_is_accepted_then_done(self, pool: BasePool) -> None:
        journal, before = Journal(), time.monotonic()
        pool.apply_async(add, (2,), {"y": 3}, **journal.options())
        self.wait(journal)
        assert journal.names() == ["accepted", "done"]
        pid, at = journal.entries[0][1]
        assert isinstance(pid, int)
        assert before <= at <= time.monotonic()
        assert journal.entries[1][1] == 5

    def test_leaving_the_process_is_a_lost_worker(self, pool: BasePool) -> None:
        journal = Journal()
        pool.apply_async(leave, **journal.options())
        self.wait(journal)
        assert journal.names() == ["accepted", "error"]
        exception = journal.entries[1][1].exception
        assert isinstance(original(exception), WorkerLostError)
        assert "SystemExit" in repr(journal.entries[1][1].traceback)

    def test_an_error_of_the_job_is_reported(self, pool: BasePool) -> None:
        journal = Journal()
        if not self.reports_errors:
            with pytest.raises(KeyError, match="gone"):
                pool.apply_async(fail, ("gone",), **journal.options())
            assert journal.names() == ["accepted"]
            return
        pool.apply_async(fail, ("gone",), **journal.options())
        self.wait(journal)
        assert journal.names() == ["accepted", "error"]
        einfo = journal.entries[1][1]
        assert einfo.type is KeyError
        assert repr(original(einfo.exception)) == "KeyError('gone')"
        assert "in fail" in einfo.traceback

    def test_many_jobs_end_once_each(self, pool: BasePool) -> None:
        journals = [Journal() for _ in range(300)]
        for number, journal in enumerate(journals):
            pool.apply_async(add, (number, 1), **journal.options())
        for number, journal in enumerate(journals):
            self.wait(journal)
            assert journal.names() == ["accepted", "done"]
            assert journal.entries[1][1] == number + 1

    def test_a_callback_that_fails_harms_no_other_job(self, pool: BasePool) -> None:
        def refuse(value: Any) -> None:
            raise LookupError("this callback fails")

        if self.reports_errors:
            pool.apply_async(add, (1, 1), callback=refuse)
        journal = Journal()
        pool.apply_async(add, (1, 2), **journal.options())
        self.wait(journal)
        assert journal.entries[-1] == ("done", 3)

    def test_it_goes_on_after_a_lost_job(self, pool: BasePool) -> None:
        first, second = Journal(), Journal()
        pool.apply_async(leave, **first.options())
        self.wait(first)
        pool.apply_async(add, (1, 1), **second.options())
        self.wait(second)
        assert second.entries[-1] == ("done", 2)

    # --- coroutines -------------------------------------------------------------------------------

    def test_coroutines_of_a_process_share_a_loop_that_lives_between_them(
        self, pool: BasePool
    ) -> None:
        server = async_jobs.Server()
        try:
            journals = [Journal() for _ in range(50)]
            for number, journal in enumerate(journals):
                pool.apply_async(async_jobs.run, ("ask", server.port, number), **journal.options())
                self.wait(journal)
            values = [journal.entries[-1][1] for journal in journals]
            assert [answer for _, _, answer in values] == list(range(50))
            processes = {process for process, _, _ in values}
            assert len({value[:2] for value in values}) == len(processes) == len(server.clients)
            # Nothing runs now.
            server.ping()
        finally:
            pool.close()
            pool.stop()
            server.close()

    def test_an_error_of_a_coroutine_is_reported(self, pool: BasePool) -> None:
        journal = Journal()
        if not self.reports_errors:
            with pytest.raises(KeyError, match="gone"):
                pool.apply_async(async_jobs.run, ("fail", "gone"), **journal.options())
            return
        pool.apply_async(async_jobs.run, ("fail", "gone"), **journal.options())
        self.wait(journal)
        assert repr(original(journal.entries[1][1].exception)) == "KeyError('gone')"

    def test_a_coroutine_that_leaves_the_process_is_a_lost_worker(self, pool: BasePool) -> None:
        for _ in range(2):
            journal = Journal()
            pool.apply_async(async_jobs.run, ("leave",), **journal.options())
            self.wait(journal)
            assert journal.names() == ["accepted", "error"]
            assert isinstance(original(journal.entries[1][1].exception), WorkerLostError)

    def test_it_is_active_between_start_and_close(self) -> None:
        pool = self.make_pool()
        assert not pool.active
        pool.start()
        assert pool.active
        assert pool.did_start_ok()
        pool.close()
        assert not pool.active
        pool.stop()

    def test_it_tells_about_itself(self, pool: BasePool) -> None:
        info = pool.info
        assert info["max-concurrency"] == pool.num_processes
        module, _, name = info["implementation"].partition(":")
        assert module.startswith("celery.concurrency.")
        assert name == "TaskPool"

    def test_it_can_be_terminated(self) -> None:
        pool = self.make_pool()
        pool.start()
        pool.terminate()
        assert not pool.active
