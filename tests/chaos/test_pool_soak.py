"""The process pool over many jobs: memory, and fairness beside a slow one."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from contract import child_jobs as jobs

from taskq.concurrency.process_pool import ProcessPool

#: Growth of the parent that is no leak: pools of the allocator, in KiB.
ALLOWED_KIB = 1024


def resident_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def run_many(pool: ProcessPool, count: int) -> None:
    given = done = 0

    def on_done(value: object) -> None:
        nonlocal done
        done += 1

    while done < count:
        while given - done < 64 and given < count:
            pool.apply_async(max, (given, 0), callback=on_done, timeout=600, soft_timeout=300)
            given += 1
        pool.poll(1)


@pytest.mark.long
def test_a_hundred_thousand_jobs_leave_nothing_in_the_parent() -> None:
    pool = ProcessPool(2)
    pool.start()
    run_many(pool, 10_000)
    before = resident_kib()
    run_many(pool, 100_000)
    after = resident_kib()
    pool.close()
    pool.join()
    print(f"parent: {before} KiB before, {after} KiB after 100,000 jobs")
    assert after - before < ALLOWED_KIB


@pytest.mark.long
def test_two_thousand_tiny_jobs_do_not_wait_for_a_slow_one() -> None:
    pool = ProcessPool(2)
    pool.start()
    pool.did_start_ok()
    for slow_at in (0, 500, 1999):
        print(f"slow one at {slow_at}: tiny ones took {run_beside_slow(pool, slow_at):.3f} s")
    pool.close()
    pool.join()


def run_beside_slow(pool: ProcessPool, slow_at: int) -> float:
    """Seconds from the first to the last of 2,000 tiny jobs, the slow one still running."""
    ended: list[float] = []
    began = time.monotonic()
    slow = None
    for number in range(2000):
        if number == slow_at:
            slow = pool.apply_async(jobs.nap, (2,))
        pool.apply_async(jobs.nap, (0,), callback=lambda value: ended.append(time.monotonic()))
    while len(ended) < 2000:
        pool.poll(1)
    assert slow is not None
    assert not slow.ready()
    while not slow.ready():
        pool.poll(1)
    return ended[-1] - began
