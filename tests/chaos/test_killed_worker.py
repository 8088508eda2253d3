"""Tasks survive workers that are killed, stopped and ended, on the embedded broker."""

from __future__ import annotations

import os
import random
import signal
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from contract.chaos import Chaos
from patience import FOREVER_S, PATIENCE_S

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="kills processes")


def survive_kills(chaos: Chaos, name: str, tasks: int, kills: int, seed: int) -> tuple[int, int]:
    """Kill the only worker again and again; gives the numbers of lost and of doubled tasks."""
    results = chaos.send(name, range(tasks))
    worker = chaos.start()
    for at in sorted(random.Random(seed).sample(range(tasks // 10, tasks * 9 // 10), kills)):
        # A task that was lost does not add a run: count what was reached, not what was run.
        chaos.wait_until(lambda at=at: max(chaos.count_runs(), default=0) >= at, f"run {at}", 300)
        chaos.kill(worker)
        worker = chaos.start()
    chaos.wait_until(lambda: chaos.count_rows()["message"] == 0, "an empty queue", 300)
    chaos.end(worker)
    chaos.check_empty()
    ran = chaos.count_runs()
    lost = tasks - len(ran)
    doubled = ran.total() - len(ran)
    print(
        f"seed {seed}: {tasks} {name}-acked sent, killed {kills} times, run {ran.total()}, "
        f"lost {lost}, doubled {doubled}"
    )
    for n, result in enumerate(results):
        if name == "late":
            assert result.get(timeout=PATIENCE_S) == n
    return lost, doubled


def test_late_acked_tasks_survive_two_kills(tmp_path: Path) -> None:
    with Chaos(tmp_path) as chaos:
        lost, doubled = survive_kills(chaos, "late", tasks=400, kills=2, seed=20261120)
    assert lost == 0
    assert doubled <= 2  # only the one that was running


def test_early_acked_tasks_run_at_most_once(tmp_path: Path) -> None:
    with Chaos(tmp_path) as chaos:
        lost, doubled = survive_kills(chaos, "early", tasks=400, kills=2, seed=20261121)
    assert doubled == 0
    assert lost <= 2  # acked, and killed in the moment before its first line


@pytest.mark.long
@pytest.mark.parametrize("name", ["late", "early"])
def test_ten_thousand_tasks_and_five_kills(tmp_path: Path, name: str) -> None:
    seed = int(os.environ.get("TASKQ_CHAOS_SEED", time.time_ns() % 2**32))
    with Chaos(tmp_path) as chaos:
        lost, doubled = survive_kills(chaos, name, tasks=10_000, kills=5, seed=seed)
    assert lost <= (5 if name == "early" else 0)
    assert doubled <= (5 if name == "late" else 0)


PUBLISHER = """
import os, sys
from chaosapp import late
log = os.open(f"sent{sys.argv[1]}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
for n in range(int(sys.argv[1]) * 100000, 10**9):
    late.delay(n)
    os.write(log, b"%d\\n" % n)
"""


def test_what_killed_publishers_have_sent_runs(tmp_path: Path) -> None:
    with Chaos(tmp_path) as chaos:
        publishers = [chaos.start(str(number), code=PUBLISHER) for number in range(3)]
        for number, publisher in enumerate(publishers):
            log = tmp_path / f"sent{number}.log"
            enough = 300 + 100 * number
            chaos.wait_until(
                lambda log=log, enough=enough: log.exists() and log.stat().st_size > enough,
                "publishing",
            )
            chaos.kill(publisher)
        worker = chaos.start()
        chaos.wait_until(lambda: chaos.count_rows()["message"] == 0, "an empty queue")
        chaos.end(worker)
        ran = chaos.count_runs()
        chaos.check_empty()
        sent = {int(n) for log in tmp_path.glob("sent*.log") for n in log.read_text().split()}
    assert len(sent) > 30
    assert sent <= set(ran)
    assert len(set(ran) - sent) <= 3  # stored, and killed before it could say so
    assert ran.total() == len(ran)


def test_a_warm_shutdown_under_load_gives_everything_back_at_once(tmp_path: Path) -> None:
    with Chaos(tmp_path, lease=60) as chaos:
        chaos.send("early", range(150), 0.005)
        chaos.send("late", range(150, 300), 0.005)
        for at in (50, 200):
            worker = chaos.start()
            chaos.wait_until(lambda at=at: len(chaos.read_runs()) >= at, f"run {at}")
            assert chaos.count_rows()["claimed"] > 1
            chaos.end(worker)
            rows = chaos.count_rows()
            assert rows["claimed"] == rows["session"] == 0
            assert rows["ready"] == rows["message"] == 300 - len(chaos.read_runs())
        worker = chaos.start()
        chaos.wait_until(lambda: chaos.count_rows()["message"] == 0, "an empty queue")
        chaos.end(worker)
        ran = chaos.count_runs()
        chaos.check_empty()
    assert ran.total() == len(ran) == 300


def test_a_cold_shutdown_gives_everything_back_at_once(tmp_path: Path) -> None:
    with Chaos(tmp_path, lease=60) as chaos:
        chaos.send("late", [0])
        chaos.send("late", range(1, 20), FOREVER_S)
        worker = chaos.start()
        chaos.wait_until(lambda: len(chaos.read_runs()) == 2, "two runs")
        worker.send_signal(signal.SIGQUIT)
        assert worker.wait(timeout=PATIENCE_S) == 1, chaos.read_logs()
        rows = chaos.count_rows()
    assert rows["claimed"] == rows["session"] == 0
    assert rows["ready"] == 19


@pytest.mark.long
def test_one_of_two_workers_is_killed(tmp_path: Path) -> None:
    with Chaos(tmp_path, lease=4) as chaos:
        chaos.send("late", range(400), 0.002)
        workers = [chaos.start(), chaos.start()]
        chaos.wait_until(lambda: len({run.pid for run in chaos.read_runs()}) == 2, "both")
        chaos.kill(workers[0])
        chaos.wait_until(lambda: chaos.count_rows()["message"] == 0, "an empty queue")
        chaos.end(workers[1])
        ran = chaos.count_runs()
        chaos.check_empty()
    assert len(ran) == 400
    assert ran.total() <= 401


@pytest.mark.long
def test_delayed_tasks_survive_a_kill(tmp_path: Path) -> None:
    with Chaos(tmp_path) as chaos:
        moment = datetime.now(timezone.utc)
        etas = [moment + timedelta(seconds=1.2 + n / 100) for n in range(200)]
        for n, eta in enumerate(etas):
            chaos.send("late", [n], eta=eta)
        worker = chaos.start()
        chaos.wait_until(lambda: len(chaos.read_runs()) >= 60, "sixty runs")
        chaos.kill(worker)
        worker = chaos.start()
        chaos.wait_until(lambda: chaos.count_rows()["message"] == 0, "an empty queue")
        chaos.end(worker)
        runs = chaos.read_runs()
    assert {run.n for run in runs} == set(range(200))
    assert len(runs) <= 201
    assert all(run.at >= etas[run.n].timestamp() for run in runs)


@pytest.mark.long
def test_a_thousand_delayed_tasks_two_workers_and_a_kill(tmp_path: Path) -> None:
    with Chaos(tmp_path, lease=1) as chaos:
        moment = datetime.now(timezone.utc)
        etas = [moment + timedelta(seconds=8 + n % 20 / 10) for n in range(1000)]
        for n, eta in enumerate(etas):
            chaos.send("late", [n], eta=eta)
        doomed, other = chaos.start(), chaos.start()
        chaos.wait_until(lambda: len(chaos.read_runs()) >= 200, "two hundred runs")
        chaos.kill(doomed)
        chaos.wait_until(lambda: chaos.count_rows()["message"] == 0, "an empty queue")
        chaos.end(other)
        runs = chaos.read_runs()
    late = sorted(run.at - etas[run.n].timestamp() for run in runs)
    print(f"half within {late[500]:.2f} s of their ETA, all within {late[-1]:.2f} s")
    assert {run.n for run in runs} == set(range(1000))
    # Two ran when their worker was killed.
    assert len(runs) <= 1002
    assert late[0] >= 0


@pytest.mark.long
def test_a_task_longer_than_the_lease_runs_once(tmp_path: Path) -> None:
    with Chaos(tmp_path, lease=2) as chaos:
        (result,) = chaos.send("late", [1], 5)
        workers = [chaos.start(), chaos.start()]
        assert result.get(timeout=PATIENCE_S) == 1
        for worker in workers:
            chaos.end(worker)
        assert chaos.count_runs() == {1: 1}
        chaos.check_empty()


def test_a_worker_stopped_for_longer_than_its_lease_repeats_nothing(tmp_path: Path) -> None:
    with Chaos(tmp_path, lease=0.6) as chaos:
        chaos.send("early", range(4), 0)
        # Stopped in this one, which ends when it goes on.
        chaos.send("early", [4], 3)
        chaos.send("early", range(5, 60), 0.02)
        stopped = chaos.start()
        chaos.wait_until(lambda: len(chaos.read_runs()) == 5, "five runs")
        stopped.send_signal(signal.SIGSTOP)
        assert chaos.count_rows()["claimed"] > 1
        other = chaos.start()
        chaos.wait_until(lambda: chaos.count_rows()["message"] == 0, "an empty queue")
        chaos.send("early", range(60, 80), 0.02)
        stopped.send_signal(signal.SIGCONT)
        chaos.wait_until(lambda: chaos.count_rows()["message"] == 0, "an empty queue")
        chaos.end(other)
        chaos.send("early", [80])
        chaos.wait_until(lambda: 80 in chaos.count_runs(), "the stopped one works again")
        chaos.end(stopped)
        ran = chaos.count_runs()
        chaos.check_empty()
    assert ran.total() == len(ran) == 81
