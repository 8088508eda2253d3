"""Tasks whose rate is limited, and those behind them in the queue."""

from __future__ import annotations

from pathlib import Path

import pytest
from contract.workers import memory_app, serving
from patience import wait_until

from taskq.signals import task_received
from taskq.worker.consumer import buckets
from taskq.worker.consumer.buckets import HELD_BY_LIMIT, LONGEST_AWAY_S, SOON_S, Bucket
from taskq.worker.loops import _tell_prefetch

MANY = 100


@pytest.mark.parametrize("broker", ["memory", "sqlite", "sqlite, told to hold them"])
def test_limited_tasks_do_not_hold_up_others(broker: str, tmp_path: Path) -> None:
    app = memory_app(worker_prefetch_multiplier=8)
    if broker != "memory":
        app.conf.broker_url = f"sqlite:///{tmp_path}/broker.db"
    goes_back = app.conf.worker_eta_in_broker = broker == "sqlite"
    ran: list[str] = []
    received: list[str] = []

    @app.task(name="limited", rate_limit="1/m", ignore_result=True, shared=False)
    def limited() -> None:
        ran.append("limited")

    @app.task(name="other", ignore_result=True, shared=False)
    def other() -> None:
        ran.append("other")

    @task_received.connect
    def note(request, **kwargs):
        received.append(request.name)

    limited.delay_many([()] * MANY)
    other.delay_many([()] * MANY)
    with serving(app, concurrency=1) as worker:
        wait_until(lambda: ran.count("other") == MANY, "the others have run", report=lambda: ran)
        # One a minute; this is not a test of how fast the machine is.
        assert 1 <= ran.count("limited") < MANY / 2
        consumer = worker.consumer
        held = consumer.task_buckets["limited"].contents
        if goes_back:
            assert len(held) <= HELD_BY_LIMIT
        else:
            assert len(held) + ran.count("limited") == MANY
        assert consumer.qos.value == consumer.initial_prefetch_count + len(held)
        # What goes back has not been received: it may come and go many times.
        assert received.count("limited") == ran.count("limited") + len(held)

        limited.rate_limit = None
        consumer.call_soon(consumer.reset_rate_limits)
        expected = HELD_BY_LIMIT if goes_back else MANY
        wait_until(lambda: ran.count("limited") >= expected, "what waits here runs at once")
        assert consumer.qos.value == consumer.initial_prefetch_count
        if goes_back:
            with app.connection_for_read() as connection:
                kept = connection.default_channel.queue_declare("celery", passive=True)
            # They wait in the file; nothing is lost and nothing has run twice.
            wait_until(lambda: ran.count("limited") + kept.message_count == MANY, "all are there")
    app.close()


def test_a_limit_of_what_is_held(tmp_path: Path) -> None:
    app = memory_app(worker_prefetch_multiplier=4, worker_eta_task_limit=6)
    ran: list[int] = []

    @app.task(name="limited", rate_limit="1/m", ignore_result=True, shared=False)
    def limited(number: int) -> None:
        ran.append(number)

    limited.delay_many([(number,) for number in range(20)])
    with serving(app, concurrency=1) as worker:
        consumer = worker.consumer
        bucket = consumer.task_buckets["limited"]
        wait_until(lambda: len(bucket.contents) == 6, "no more fit", report=lambda: bucket.contents)
        limited.rate_limit = None
        consumer.call_soon(consumer.reset_rate_limits)
        wait_until(lambda: len(ran) == 20, "all have run", report=lambda: ran)
        # The prefetch window is what it was at first.
        assert consumer.qos.value == consumer.initial_prefetch_count == 4
    app.close()


class Answering:
    """A window that changes while the broker is told of it, and reaches its limit."""

    prev, value = 0, 4

    def __init__(self) -> None:
        self.told: list[int] = []

    def update(self) -> None:
        self.told.append(self.value)
        self.prev = min(self.value, 6)
        if self.value < 7:
            self.value += 1


def test_the_broker_is_told_of_the_last_window() -> None:
    qos = Answering()
    _tell_prefetch(qos)
    assert qos.told == [4, 5, 6, 7]


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(buckets, "time", clock)
    return clock


def fill(bucket: Bucket, count: int) -> None:
    for number in range(count):
        assert bucket.find_time_away() == 0
        bucket.add(number)


def send_away(bucket: Bucket, count: int) -> list[float]:
    found = []
    for _ in range(count):
        found.append(bucket.find_time_away())
        bucket.count_sent_away()
    return found


def test_they_come_back_one_after_another_before_their_turn(clock: Clock) -> None:
    bucket = Bucket(2.0)
    fill(bucket, HELD_BY_LIMIT)
    assert send_away(bucket, 4) == [9.0, 9.5, 10.0, 10.5]
    clock.now += 3
    # A bucket that is not emptied: turns are counted from what waits here.
    assert send_away(bucket, 2) == [9.0, 9.5]
    bucket.pop()
    assert bucket.find_time_away() == 0


def test_what_is_soon_run_stays_here(clock: Clock) -> None:
    bucket = Bucket(100.0)
    fill(bucket, int(100 * SOON_S) + 1)
    assert bucket.find_time_away() > 0


def test_nobody_is_away_for_long(clock: Clock) -> None:
    bucket = Bucket(1 / 60)
    fill(bucket, HELD_BY_LIMIT)
    away = send_away(bucket, 100)
    assert max(away) <= LONGEST_AWAY_S
    assert min(away) >= LONGEST_AWAY_S / 2
    # They do not come back together.
    assert len({round(seconds) for seconds in away}) > 10
    bucket = Bucket(5.0)
    fill(bucket, int(5 * SOON_S) + 1)
    send_away(bucket, 10_000)
    # However many there were: a minute later turns are counted from then on.
    clock.now += LONGEST_AWAY_S
    assert bucket.find_time_away() < SOON_S + 1
