"""A child of the process pool that dies at any moment costs at most its own job."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from billiard.exceptions import WorkerLostError
from contract import child_jobs as jobs
from patience import FOREVER_S, PATIENCE_S, wait_until

from taskq.concurrency.process_pool import ProcessPool
from taskq.concurrency.process_slot import MOST_IN_HAND


class Account:
    """What was reported about each job."""

    def __init__(self) -> None:
        self.accepted: Counter[int] = Counter()
        self.done: Counter[int] = Counter()
        self.lost: Counter[int] = Counter()
        self.other: list[Any] = []

    def give(self, pool: ProcessPool, number: int, target: Callable[..., Any], *args: Any) -> Any:
        def on_error(einfo: Any) -> None:
            error = getattr(einfo.exception, "exc", einfo.exception)
            if isinstance(error, WorkerLostError):
                self.lost[number] += 1
            else:
                self.other.append(error)

        return pool.apply_async(
            target,
            args,
            accept_callback=lambda pid, at: self.accepted.update([number]),
            callback=lambda value: self.done.update([number]),
            error_callback=on_error,
        )

    def ended(self) -> int:
        return len(self.done) + len(self.lost) + len(self.other)


def survive_kills(folder: Path, kills: int, seed: int) -> None:
    rng, account, log = random.Random(seed), Account(), folder / "runs"
    pool = ProcessPool(3)
    pool.start()
    assert pool.did_start_ok()
    given = killed = 0
    deadline = time.monotonic() + PATIENCE_S + 2 * kills
    while killed < kills:
        assert time.monotonic() < deadline, f"seed {seed}: {killed} kills, {account.ended()} jobs"
        while given - account.ended() < 12:
            account.give(pool, given, jobs.note, str(log), str(given))
            given += 1
        for _ in range(rng.randrange(1, 12)):
            pool.poll(rng.random() * 0.002)
        # Killed only at their start, child after child, they would look like a broken program.
        while not any(slot.is_up for slot in pool._keeper.slots):
            pool.poll(0.1)
        # The slot's kill knows whether its child has been waited for already.
        rng.choice(pool._keeper.slots).kill()
        killed += 1
    pool.close()
    pool.join()
    runs = Counter(int(line) for line in log.read_text().split())
    print(
        f"seed {seed}: {given} jobs, {killed} kills, {len(account.done)} done, "
        f"{len(account.lost)} lost"
    )
    assert account.other == []
    # Each job ended exactly once, ran at most once, and what has ended well has run.
    assert set(account.accepted) == set(range(given)) == set(account.done) | set(account.lost)
    assert not set(account.done) & set(account.lost)
    assert {*account.accepted.values(), *account.done.values(), *runs.values()} == {1}
    assert set(account.done) <= set(runs)
    assert len(account.lost) <= killed


def test_fifty_kills_at_random_moments(tmp_path: Path) -> None:
    survive_kills(tmp_path, kills=50, seed=20261120)


@pytest.mark.long
def test_a_thousand_kills_at_random_moments(tmp_path: Path) -> None:
    seed = int(os.environ.get("TASKQ_CHAOS_SEED", time.time_ns() % 2**32))
    survive_kills(tmp_path, kills=1000, seed=seed)


class Stage:
    """One child, whose death can be put at an exact moment by stopping it first."""

    def __init__(self) -> None:
        self.pool = ProcessPool(1)
        self.pool.start()
        self.account = Account()

    def up(self) -> int:
        assert self.pool.did_start_ok()
        return self.pool.pids()[0]

    def finish(self) -> Account:
        self.pool.join()
        return self.account


def test_killed_at_its_start_it_costs_no_job() -> None:
    stage = Stage()
    os.kill(stage.pool.pids()[0], signal.SIGKILL)
    stage.account.give(stage.pool, 1, max, 1, 2)
    account = stage.finish()
    assert (account.accepted[1], account.done[1], account.lost[1]) == (1, 1, 0)


def test_killed_between_packet_and_started_its_job_is_sent_again() -> None:
    stage = Stage()
    pid = stage.up()
    os.kill(pid, signal.SIGSTOP)
    stage.account.give(stage.pool, 1, max, 1, 2)
    assert len(stage.pool._keeper.slots[0].jobs) == 1
    os.kill(pid, signal.SIGKILL)
    account = stage.finish()
    assert (account.accepted[1], account.done[1], account.lost[1]) == (1, 1, 0)


def test_killed_while_running_its_job_is_lost_and_the_next_is_run() -> None:
    stage = Stage()
    pid = stage.up()
    stage.account.give(stage.pool, 1, jobs.nap, FOREVER_S)
    stage.account.give(stage.pool, 2, max, 1, 2)
    while not stage.account.accepted[1]:
        stage.pool.poll(1)
    os.kill(pid, signal.SIGKILL)
    account = stage.finish()
    assert (account.done[1], account.lost[1]) == (0, 1)
    assert (account.accepted[2], account.done[2]) == (1, 1)


def test_killed_by_a_quick_job_it_had_started_only_that_is_lost(tmp_path: Path) -> None:
    stage = Stage()
    stage.up()
    for target in (jobs.note, jobs.exit_hard):
        stage.pool._paces[target].slowness, stage.pool._paces[target].is_quick = 0.0, True
    path = str(tmp_path / "runs")
    # Nobody has looked at the page where the child notes such starts when it dies.
    stage.account.give(stage.pool, 1, jobs.note, path, "1")
    stage.account.give(stage.pool, 2, jobs.exit_hard, 1)
    stage.account.give(stage.pool, 3, jobs.note, path, "3")
    account = stage.finish()
    assert Path(path).read_text() == "1\n3\n"
    assert account.accepted == {1: 1, 2: 1, 3: 1}
    assert (account.done, account.lost) == ({1: 1, 3: 1}, {2: 1})


def test_killed_before_it_starts_a_quick_job_that_is_sent_again() -> None:
    stage = Stage()
    pid = stage.up()
    stage.pool._paces[max].slowness, stage.pool._paces[max].is_quick = 0.0, True
    stage.account.give(stage.pool, 1, max, 1, 2)
    while not stage.account.done:
        stage.pool.poll(1)
    # The page still names the job before.
    os.kill(pid, signal.SIGSTOP)
    stage.account.give(stage.pool, 2, max, 1, 2)
    os.kill(pid, signal.SIGKILL)
    account = stage.finish()
    assert account.accepted == account.done == {1: 1, 2: 1}
    assert not account.lost


def test_killed_after_its_answer_the_answer_counts(tmp_path: Path) -> None:
    stage = Stage()
    pid = stage.up()
    path = tmp_path / "runs"
    stage.account.give(stage.pool, 1, jobs.note, str(path), "1")
    # Both packets of the job lie unread in our end when it dies.
    wait_until(lambda: path.exists() and _is_sleeping(pid), "the child waits again")
    os.kill(pid, signal.SIGKILL)
    account = stage.finish()
    assert (account.accepted[1], account.done[1], account.lost[1]) == (1, 1, 0)


def test_what_waits_in_the_hands_of_a_lost_child_is_sent_again() -> None:
    stage = Stage()
    stage.up()
    # Such jobs have been quick: more packets go into the child's hand.
    stage.pool._paces[max].slowness, stage.pool._paces[max].is_quick = 0.0, True
    pid = stage.pool.pids()[0]
    os.kill(pid, signal.SIGSTOP)
    for number in range(MOST_IN_HAND + 1):
        stage.account.give(stage.pool, number, max, 1, 2)
    assert len(stage.pool._keeper.slots[0].jobs) == MOST_IN_HAND
    os.kill(pid, signal.SIGKILL)
    account = stage.finish()
    assert len(account.done) == MOST_IN_HAND + 1
    assert set(account.done.values()) == set(account.accepted.values()) == {1}
    assert not account.lost


PARENT = """
import os, sys, time
from contract import child_jobs as jobs
from taskq.concurrency.process_pool import ProcessPool
pool = ProcessPool(2, max_tasks=2)
pool.start()
seen = []
while len(set(seen)) < 6:
    pool.apply_async(jobs.pid, (), callback=seen.append)
    pool.poll(0.1)
for _ in range(2):
    pool.apply_async(jobs.nap, (3600,))
pool.grow(2)
pool.did_start_ok()
print(*pool.pids(), flush=True)
while True:
    pool.poll(None)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of a parent's death")
def test_a_killed_parent_takes_three_generations_of_children_along() -> None:
    tests = Path(__file__).parents[1]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(tests)},
        text=True,
    )
    with parent:
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) >= 4
        parent.kill()
        wait_until(lambda: not any(_is_alive(pid) for pid in children), "children end with it")


def _is_alive(pid: int) -> bool:
    return _state(pid) not in ("", "Z")


def _is_sleeping(pid: int) -> bool:
    return _state(pid) == "S"


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
