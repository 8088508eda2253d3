"""Tasks survive workers on Redis that are killed, and run once where nobody is killed."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
import redis
from contract.chaos import Chaos
from patience import PATIENCE_S

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="kills processes")

LEASE_S = 1.0


def survive_kills(chaos: Chaos, url: str, tasks: int, kills: int, seed: int, pool: str) -> None:
    """Kill one of two workers again and again: each task has run, few of them twice."""
    chosen = random.Random(seed)
    arguments = ("-P", pool, "-c", "2")
    chaos.send("late", range(tasks), 0.002)
    workers = [chaos.start(*arguments) for _ in range(2)]
    with redis.Redis.from_url(url) as client:
        for at in sorted(chosen.sample(range(tasks // 20, tasks * 9 // 10), kills)):
            chaos.wait_until(lambda at=at: len(chaos.count_runs()) >= at, f"{at} tasks", 300)
            killed = chosen.randrange(2)
            chaos.kill(workers[killed])
            workers[killed] = chaos.start(*arguments)
        chaos.wait_until(lambda: len(chaos.count_runs()) == tasks, "all tasks have run", 300)
        chaos.wait_until(
            lambda: not client.llen("celery") + client.hlen("unacked"), "all is settled", 300
        )
        assert client.zcard("unacked_index") == 0
    doubled = chaos.count_runs().total() - tasks
    print(f"seed {seed}, {pool}: {tasks} sent, killed {kills} times, lost 0, doubled {doubled}")
    # A killed worker leaves what it ran: with children at most two each, and their late acks.
    assert doubled <= kills * 16


def test_killed_workers_lose_nothing(tmp_path: Path, redis_url: str) -> None:
    with Chaos(tmp_path, LEASE_S, redis_url) as chaos:
        survive_kills(chaos, redis_url, tasks=200, kills=2, seed=20261121, pool="prefork")


@pytest.mark.long
@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_three_hundred_kills(tmp_path: Path, redis_url: str, pool: str) -> None:
    seed = int(os.environ.get("TASKQ_CHAOS_SEED", time.time_ns() % 2**32))
    with Chaos(tmp_path, LEASE_S, redis_url) as chaos:
        survive_kills(chaos, redis_url, tasks=20_000, kills=150, seed=seed, pool=pool)


@pytest.mark.long
def test_back_within_45_seconds_by_default(tmp_path: Path, redis_url: str) -> None:
    with Chaos(tmp_path, 30.0, redis_url) as chaos:
        chaos.send("late", [1], 3600)
        worker = chaos.start()
        chaos.wait_until(lambda: chaos.count_runs()[1] == 1, "the task runs")
        chaos.kill(worker)
        killed = time.time()
        chaos.start()
        chaos.wait_until(lambda: chaos.count_runs()[1] == 2, "the task runs again", 120)
        assert chaos.read_runs()[1].at - killed < 45


@pytest.mark.parametrize("pool", ["solo", pytest.param("prefork", marks=pytest.mark.long)])
def test_a_task_longer_than_the_visibility_timeout_runs_once(
    tmp_path: Path, redis_url: str, pool: str
) -> None:
    with Chaos(tmp_path, LEASE_S, redis_url, visibility_timeout=1) as chaos:
        first = chaos.start("-P", pool, "-c", "1")
        (result,) = chaos.send("late", [1], 3)
        chaos.wait_until(lambda: chaos.count_runs()[1] == 1, "the task runs")
        second = chaos.start("-P", pool, "-c", "1", "-l", "INFO")
        chaos.wait_until(lambda: " ready." in chaos.read_logs(), "the second worker is ready")
        assert result.get(timeout=PATIENCE_S) == 1
        chaos.end(first)
        chaos.end(second)
        assert chaos.count_runs() == {1: 1}
        with redis.Redis.from_url(redis_url) as client:
            assert not client.llen("celery") + client.hlen("unacked")
