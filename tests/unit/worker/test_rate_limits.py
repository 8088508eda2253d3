"""Tasks whose rate is limited, and those behind them in the queue."""

from __future__ import annotations

from pathlib import Path

import pytest
from contract.workers import memory_app, serving
from patience import wait_until

from taskq.worker.consumer.consumer import HELD_BY_LIMIT

MANY = 100


@pytest.mark.parametrize("broker", ["memory", "sqlite"])
def test_limited_tasks_do_not_hold_up_others(broker: str, tmp_path: Path) -> None:
    app = memory_app(worker_prefetch_multiplier=8)
    if broker == "sqlite":
        app.conf.broker_url = f"sqlite:///{tmp_path}/broker.db"
    ran: list[str] = []

    @app.task(name="limited", rate_limit="1/m", ignore_result=True, shared=False)
    def limited() -> None:
        ran.append("limited")

    @app.task(name="other", ignore_result=True, shared=False)
    def other() -> None:
        ran.append("other")

    limited.delay_many([()] * MANY)
    other.delay_many([()] * MANY)
    with serving(app, concurrency=1) as worker:
        wait_until(lambda: ran.count("other") == MANY, "the others have run", report=lambda: ran)
        # One a minute; this is not a test of how fast the machine is.
        assert 1 <= ran.count("limited") < MANY / 2
        consumer = worker.consumer
        held = consumer.task_buckets["limited"].contents
        if broker == "sqlite":
            assert len(held) <= HELD_BY_LIMIT
        else:
            assert len(held) + ran.count("limited") == MANY
        assert consumer.qos.value == consumer.initial_prefetch_count + len(held)

        limited.rate_limit = None
        consumer.call_soon(consumer.reset_rate_limits)
        expected = HELD_BY_LIMIT if broker == "sqlite" else MANY
        wait_until(lambda: ran.count("limited") >= expected, "what waits here runs at once")
        assert consumer.qos.value == consumer.initial_prefetch_count
        if broker == "sqlite":
            with app.connection_for_read() as connection:
                kept = connection.default_channel.queue_declare("celery", passive=True)
            # They wait in the file; nothing is lost and nothing has run twice.
            wait_until(lambda: ran.count("limited") + kept.message_count == MANY, "all are there")
    app.close()
