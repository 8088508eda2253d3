"""What a child of the process pool lets go of, sets up, counts, and leaves behind."""

from __future__ import annotations

import gc
import logging
import os
import pickle
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from billiard import pool as billiard_pool
from billiard.exceptions import WorkerLostError
from contract import child_jobs as jobs
from kombu.asynchronous import Hub, get_event_loop, set_event_loop
from patience import FOREVER_S, wait_until

from taskq import Celery
from taskq.concurrency import child_keeper
from taskq.concurrency.heritage import Heritage
from taskq.concurrency.job import QUICK_S, Pace
from taskq.concurrency.packets import DONE
from taskq.concurrency.prefork import TaskPool, process_destructor, process_initializer
from taskq.concurrency.process_pool import ProcessPool
from taskq.concurrency.process_slot import MOST_IN_HAND
from taskq.exceptions import ImproperlyConfigured
from taskq.signals import worker_process_init, worker_process_shutdown
from taskq.utils import log_handlers


def run(pool: ProcessPool, target: Any, *args: Any) -> Any:
    """Run one job and give what it returns."""
    job = pool.apply_async(target, args)
    wait_until(job.ready, "the job ends", turn=lambda: pool.poll(0.1))
    return job.get()


@pytest.fixture
def pools() -> Iterator[Any]:
    made: list[ProcessPool] = []

    def make(*args: Any, **kwargs: Any) -> ProcessPool:
        pool = ProcessPool(*args, **kwargs)
        made.append(pool)
        pool.start()
        return pool

    yield make
    for pool in made:
        pool.terminate()


def test_a_child_holds_no_descriptor_of_its_siblings_or_of_the_broker(pools: Any) -> None:
    hub, (broker, far) = Hub(), socket.socketpair()
    set_event_loop(hub)
    hub.add_reader(broker.fileno(), print)
    pool = pools(3)
    pool.watch_with(hub)
    pool.did_start_ok()
    pool.grow(1)
    pool.did_start_ok()
    theirs = {os.fstat(slot.theirs.fileno()).st_ino for slot in pool._keeper.slots}
    ours = {os.fstat(slot.socket.fileno()).st_ino for slot in pool._keeper.slots}
    broker_inode = os.fstat(broker.fileno()).st_ino
    for _ in range(8):
        held = run(pool, jobs.open_descriptors).values()
        inodes = {int(name[8:-1]) for name in held if name.startswith("socket:")}
        assert len(inodes & theirs) == 1
        assert not inodes & ours
        assert sum("pidfd" in name for name in held) == 0
    last = pool._keeper.slots[-1].pid
    links = {os.readlink(path) for path in Path(f"/proc/{last}/fd").iterdir()}
    assert f"socket:[{broker_inode}]" not in links
    assert run(pool, get_event_loop) is None or pool._keeper.slots
    hub.close()
    pool._hub = None
    set_event_loop(None)
    broker.close()
    far.close()


def test_signals_of_the_parent_are_not_the_childs(pools: Any) -> None:
    heard, rung = socket.socketpair()
    rung.setblocking(False)
    signal.set_wakeup_fd(rung.fileno())
    try:
        handler, wakeup = run(pools(1), jobs.names_of_signals)
    finally:
        signal.set_wakeup_fd(-1)
        heard.close()
        rung.close()
    assert handler == signal.SIG_IGN
    assert wakeup == -1


def test_a_child_retires_after_its_count_of_jobs(pools: Any) -> None:
    pool = pools(1, max_tasks=3)
    pids = [run(pool, jobs.pid) for _ in range(9)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 3]


def test_a_child_retires_above_its_memory(pools: Any, caplog: pytest.LogCaptureFixture) -> None:
    pool = pools(1, max_memory=400 << 10)
    before = run(pool, jobs.pid)
    assert run(pool, jobs.pid) == before
    run(pool, jobs.eat, 500)
    assert run(pool, jobs.pid) != before


def test_agents_that_wrap_the_work_loop_hear_of_the_end(
    pools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, path = billiard_pool.Worker.workloop, tmp_path / "flushed"

    def workloop(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        finally:
            path.write_text(str(os.getpid()))

    monkeypatch.setattr(billiard_pool.Worker, "workloop", workloop)
    pool = pools(1)
    pid = run(pool, jobs.pid)
    pool.close()
    pool.join()
    assert path.read_text() == str(pid)


def test_memory_is_frozen_before_the_fork_and_thawed_at_the_end(pools: Any) -> None:
    pool = pools(1)
    assert gc.get_freeze_count()
    assert run(pool, gc.get_freeze_count)
    pool.join()
    assert not gc.get_freeze_count()


def test_users_hear_of_children(tmp_path: Path) -> None:
    app = Celery("children", broker="memory://", set_as_current=False)
    path = str(tmp_path / "heard")

    def on_init(**kwargs: Any) -> None:
        jobs.note(path, f"init {os.getpid()}")

    def on_shutdown(pid: int, exitcode: int, **kwargs: Any) -> None:
        jobs.note(path, f"shutdown {pid} {exitcode} {os.getpid()}")

    worker_process_init.connect(on_init)
    worker_process_shutdown.connect(on_shutdown)
    try:
        pool = TaskPool(1, app=app, initargs=(app, "w@here"), threads=False)
        pool.start()
        assert pool.did_start_ok()
        (pid,) = pool.info["processes"]
        pool.stop()
    finally:
        worker_process_init.disconnect(on_init)
        worker_process_shutdown.disconnect(on_shutdown)
    assert Path(path).read_text().splitlines() == [f"init {pid}", f"shutdown {pid} 0 {pid}"]
    assert callable(process_initializer)
    assert callable(process_destructor)


def test_the_debug_log_tells_of_calls(caplog: pytest.LogCaptureFixture) -> None:
    pool = TaskPool(1, threads=False)
    with caplog.at_level(logging.DEBUG, "celery.pool"):
        pool.start()
        try:
            answers: list[Any] = []
            # Options of other pools mean nothing here.
            for apply in (pool.apply_async, pool.on_apply):
                apply(max, (1, 2), {"key": abs}, callback=answers.append, waitforslot=True)
            wait_until(lambda: len(answers) == 2, turn=lambda: pool._pool.poll(0.1))
        finally:
            pool.terminate()
    assert answers == [2, 2]
    assert "TaskPool: Apply <built-in function max> (args:(1, 2) kwargs:{'key'" in caplog.text


# --- starts that fail -----------------------------------------------------------------------------


def end_at_once() -> None:
    os._exit(3)


def raise_at_once() -> None:
    raise ImportError("no module named shop")


def leave_at_once() -> None:
    raise SystemExit("no module named shop")


@pytest.mark.parametrize("initializer", [end_at_once, raise_at_once, leave_at_once])
def test_children_that_cannot_start_are_said_once(
    pools: Any,
    initializer: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(child_keeper, "FIRST_PAUSE_S", 0.01)
    pool = pools(2, initializer=initializer)
    assert not pool.did_start_ok()
    with pytest.raises(WorkerLostError, match="5 starts in a row failed"):
        while True:
            pool.poll(5)
    said = [record for record in caplog.records if "could not be started" in record.message]
    assert len(said) == 1
    reasons = [record for record in caplog.records if "module named shop" in record.getMessage()]
    assert len(reasons) == (initializer is not end_at_once)


def test_a_fork_that_fails_is_tried_again(pools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", refuse)
        pool = pools(1)
        assert pool.pids() == []
    assert run(pool, jobs.pid) == pool.pids()[0]


def test_a_slow_set_up_is_waited_for(
    pools: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    with caplog.at_level(logging.WARNING):
        pool = pools(1, initializer=jobs.hold, initargs=(str(go),), alive_within=0.1)
        pid = pool.pids()[0]
        wait_until(lambda: "still being set up" in caplog.text, turn=lambda: pool.poll(0.1))
        go.touch()
        assert run(pool, jobs.pid) == pid
    assert len([r for r in caplog.records if "still being set up" in r.message]) == 1


def test_a_child_without_a_sign_of_life_is_replaced(
    pools: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pool = pools(1, alive_within=60)
    (slot,) = pool._keeper.slots
    slot.signal(signal.SIGSTOP)
    while slot.is_alive or pool._selector.select(0):
        # It was quicker than the stop: take another one.
        slot.kill()
        while pool._keeper.slots[0] is slot:
            pool.poll(1)
        (slot,) = pool._keeper.slots
        slot.signal(signal.SIGSTOP)
    slot.alive_by = 0.0
    assert run(pool, jobs.pid) != slot.pid
    assert "Timed out waiting for a sign of child process" in caplog.text


# --- who gets which job ---------------------------------------------------------------------------


def make_quick(pool: ProcessPool, kind: Any = jobs.nap) -> None:
    """Let the pool, once a child is up, take jobs of this kind for quick, as after many runs."""
    run(pool, jobs.nap, 0)
    pool._paces[kind].slowness, pool._paces[kind].is_quick = 0.0, True


def test_about_a_hundred_quick_runs_make_a_kind_quick() -> None:
    pace = Pace()
    for _ in range(98):
        pace.note(0.0)
        assert not pace.is_quick
    pace.note(0.0)
    assert pace.is_quick


@pytest.mark.parametrize(("slow", "is_quick"), [(2, True), (8, False)])
def test_only_a_few_of_the_last_hundred_runs_may_be_slow(slow: int, is_quick: bool) -> None:
    pace = Pace()
    for number in range(1, 1001):
        pace.note(QUICK_S if number % (100 // slow) == 0 else 0.0)
    # Right after a slow one, and in between.
    for _ in range(100 // slow - 1):
        pace.note(0.0)
    assert pace.is_quick == is_quick


def test_nothing_waits_behind_a_slow_job(pools: Any) -> None:
    pool = pools(2)
    make_quick(pool)
    slow = pool.apply_async(jobs.nap, (FOREVER_S,))
    tiny = [pool.apply_async(jobs.nap, (0,)) for _ in range(500)]
    wait_until(lambda: all(job.ready() for job in tiny), turn=lambda: pool.poll(0.1))
    assert not slow.ready()


def test_what_waits_behind_a_job_that_turns_out_slow_is_taken_back(
    pools: Any, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    pool = pools(1)
    make_quick(pool, jobs.hold)
    pool.apply_async(jobs.hold, (str(go),))
    behind = pool.apply_async(jobs.hold, (str(go),))
    (slot,) = pool._keeper.slots
    assert list(slot.jobs)[-1] is behind
    wait_until(lambda: len(slot.jobs) == 1, turn=lambda: pool.poll(0.1))
    assert list(pool._waiting) == [behind]
    go.touch()
    wait_until(behind.ready, turn=lambda: pool.poll(0.1))


def test_what_waits_behind_others_goes_to_a_child_that_has_nothing_to_do(
    pools: Any, tmp_path: Path
) -> None:
    later, now = tmp_path / "later", tmp_path / "now"
    pool = pools(2)
    assert pool.did_start_ok()
    make_quick(pool, jobs.hold)
    first = pool.apply_async(jobs.hold, (str(later),))
    others = [pool.apply_async(jobs.hold, (str(now),)) for _ in range(2 * MOST_IN_HAND - 1)]
    assert [len(slot.jobs) for slot in pool._keeper.slots] == [MOST_IN_HAND] * 2
    # One child runs all that waits behind the job that keeps the other one.
    now.touch()
    wait_until(lambda: all(job.ready() for job in others), turn=lambda: pool.poll(0.1))
    assert not first.ready()
    later.touch()
    wait_until(first.ready, turn=lambda: pool.poll(0.1))


@pytest.mark.parametrize("has_noted", [True, False])
def test_every_answer_of_a_lost_child_counts_whatever_it_has_noted(
    has_noted: bool, pools: Any
) -> None:
    pool = pools(1)
    make_quick(pool)
    (slot,) = pool._keeper.slots
    done = [pool.apply_async(jobs.nap, (0,)) for _ in range(MOST_IN_HAND)]
    wait_until(lambda: slot.page.answered == done[-1].number)
    if not has_noted:
        # It is killed between its last answer and the note of it.
        slot.page.answer(done[0].number)
    slot.kill()
    wait_until(lambda: slot.reap() is not None)
    # Its end may be heard before its answers.
    pool._on_gone(slot)
    pool.poll(0)
    assert [job.get(FOREVER_S) for job in done] == [0] * MOST_IN_HAND


def test_a_pool_asks_for_no_answer_that_is_not_there(
    pools: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    pool = pools(1)
    make_quick(pool)
    make_quick(pool, jobs.hold)
    (slot,) = pool._keeper.slots
    packets: list[Any] = []
    receive = slot.socket.receive

    def count() -> Any:
        packets.append(receive())
        return packets[-1]

    monkeypatch.setattr(slot.socket, "receive", count)
    first = pool.apply_async(jobs.nap, (0,))
    behind = pool.apply_async(jobs.hold, (str(go),))
    wait_until(lambda: slot.page.answered == first.number)
    pool.poll(1)
    assert first.ready()
    assert [packet[:2] for packet in packets] == [(DONE, first.number)]
    go.touch()
    wait_until(behind.ready, turn=lambda: pool.poll(0.1))


def test_a_quick_job_that_is_not_quick_has_started_without_an_answer(
    pools: Any, tmp_path: Path
) -> None:
    go, accepted = tmp_path / "go", []
    pool = pools(1)
    make_quick(pool, jobs.hold)
    before = time.monotonic()
    job = pool.apply_async(
        jobs.hold, (str(go),), accept_callback=lambda pid, moment: accepted.append((pid, moment))
    )
    assert job.is_brief
    wait_until(lambda: accepted, turn=lambda: pool.poll(0.1))
    ((pid, moment),) = accepted
    assert pid == pool.pids()[0]
    assert before <= moment <= time.monotonic()
    assert not job.ready()
    go.touch()
    wait_until(job.ready, turn=lambda: pool.poll(0.1))
    assert len(accepted) == 1


def test_the_start_of_a_job_with_a_limit_is_told_at_once(pools: Any) -> None:
    pool = pools(1)
    make_quick(pool)
    job = pool.apply_async(jobs.nap, (FOREVER_S,), soft_timeout=0.01)
    assert not job.is_brief
    wait_until(job.ready, turn=lambda: pool.poll(0.1))
    assert not job.successful()


def test_a_limit_hits_its_own_job_and_not_the_one_behind(pools: Any) -> None:
    pool = pools(1)
    make_quick(pool)
    limited = pool.apply_async(jobs.nap, (FOREVER_S,), timeout=0.001)
    behind = pool.apply_async(jobs.nap, (0,))
    assert len(pool._keeper.slots[0].jobs) == 2
    while not (limited.ready() and behind.ready()):
        pool.poll(1)
    assert not limited.successful()
    assert behind.successful()


def test_limits_of_ended_jobs_are_forgotten(pools: Any) -> None:
    pool = pools(2, timeout=3600, soft_timeout=1800)
    for _ in range(600):
        run(pool, max, 1, 2)
    assert len(pool._limits._heap) < 300


# --- children that are spawned --------------------------------------------------------------------

app_with_a_name = Celery("named", set_as_current=False)
app_with_a_name.conf.worker_prefetch_multiplier = 7


@pytest.fixture
def no_log_of_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CELERY_LOG_LEVEL", raising=False)
    # Its descriptor can only be given to a process that is being spawned.
    monkeypatch.setattr(log_handlers, "_processes_turn", -1)


@pytest.mark.usefixtures("no_log_of_a_worker")
def test_an_application_with_a_name_is_imported() -> None:
    app = app_with_a_name
    heritage = Heritage(app)
    assert heritage.name == (__name__, "app_with_a_name")
    app.conf.worker_prefetch_multiplier = 3
    assert heritage.take_over("w@here") is app
    # As it was when the child was told of it.
    assert app.conf.worker_prefetch_multiplier == 7


@pytest.mark.usefixtures("no_log_of_a_worker")
def test_an_application_without_a_name_is_pickled() -> None:
    app = Celery("nameless", broker="memory://", set_as_current=False)
    app.conf.worker_prefetch_multiplier = 5
    taken = pickle.loads(pickle.dumps(Heritage(app))).take_over("w@here")
    assert taken is not app
    assert (taken.main, taken.conf.broker_url) == ("nameless", "memory://")
    assert taken.conf.worker_prefetch_multiplier == 5


@pytest.mark.usefixtures("no_log_of_a_worker")
def test_an_application_that_cannot_travel_is_said() -> None:
    app = Celery("stays", set_as_current=False, task_cls=type("Here", (), {}))
    with pytest.raises(ImproperlyConfigured, match="no global name of any module, and "):
        TaskPool(1, app=app, initargs=(app, "w@here"), start_method="spawn").start()


def test_a_setting_that_cannot_travel_is_left_to_the_module() -> None:
    app_with_a_name.conf.task_routes = lambda *args, **kwargs: None
    try:
        assert Heritage(app_with_a_name).settings
    finally:
        del app_with_a_name.conf.task_routes


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="this system has no such policy")
@pytest.mark.parametrize("name", ["sched_getscheduler", "sched_setscheduler"])
def test_where_policies_are_forbidden_children_live_all_the_same(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refuse(*args: Any) -> Any:
        raise PermissionError("not here")

    monkeypatch.setattr(os, name, refuse)
    pool = ProcessPool(1)
    pool.start()
    try:
        assert pool.did_start_ok()
        pids: list[int] = []
        pool.apply_async(jobs.pid, callback=pids.append)
        wait_until(lambda: pids, turn=lambda: pool.poll(0.01))
        assert pids == pool.pids()
    finally:
        pool.terminate()
