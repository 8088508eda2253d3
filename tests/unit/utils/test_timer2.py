"""The timer's thread calls what is due, in order, and goes on after an error."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from patience import PATIENCE_S

from taskq.utils.timer2 import Timer


@pytest.fixture
def timer() -> Iterator[Timer]:
    made = Timer()
    yield made
    made.stop()


def test_the_thread_starts_with_the_first_entry(timer: Timer) -> None:
    assert timer.daemon and timer and timer.empty()
    assert not timer.is_alive()
    timer.call_after(1000, print)
    assert timer.is_alive()
    assert (len(timer), len(timer.queue)) == (1, 1)
    timer.clear()
    assert timer.empty()


def test_entries_run_when_they_are_due(timer: Timer) -> None:
    ran: list[str] = []
    done = threading.Event()
    timer.call_after(0.02, lambda: (ran.append("second"), done.set()))
    timer.call_after(0.01, ran.append, ("first",))
    cancelled = timer.call_after(0.005, ran.append, ("never",))
    timer.cancel(cancelled)
    assert done.wait(PATIENCE_S)
    assert ran == ["first", "second"]


def test_an_entry_that_raises_is_reported_and_the_next_one_runs() -> None:
    errors: list[BaseException] = []
    done = threading.Event()
    timer = Timer(on_error=errors.append)

    def broken() -> None:
        raise KeyError("broken")

    timer.call_after(0, broken)
    timer.call_after(0.01, done.set)
    assert done.wait(PATIENCE_S)
    timer.stop()
    assert repr(errors[0]) == "KeyError('broken')"


def test_repeated_entries(timer: Timer) -> None:
    turns = threading.Semaphore(0)
    entry = timer.call_repeatedly(0.001, turns.release)
    for _ in range(3):
        assert turns.acquire(timeout=PATIENCE_S)
    entry.cancel()


def test_a_new_entry_wakes_the_thread() -> None:
    waiting = threading.Event()
    timer = Timer(on_tick=lambda delay: waiting.set(), max_interval=1000)
    done = threading.Event()
    timer.call_after(1000, print)
    assert waiting.wait(PATIENCE_S)
    timer.call_after(0, done.set)
    assert done.wait(PATIENCE_S)
    timer.stop()
    assert not timer.is_alive()


def test_a_stopped_timer_does_not_start_again(timer: Timer) -> None:
    timer.ensure_started()
    timer.stop()
    timer.call_after(0, print)
    assert not timer.is_alive()
