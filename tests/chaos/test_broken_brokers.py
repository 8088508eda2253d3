"""Tasks survive workers, children, connections and brokers that end at random, on real brokers."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from contract.loss import Site
from journey.harness import Worker
from patience import wait_until
from servers import RabbitMQ, Vhost

pytestmark = pytest.mark.long

TASKS = 600
BLOWS = 8

# kombu's Redis looks for messages of dead workers only now and then.
SOON = {"visibility_timeout": 3, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
LANES: dict[str, dict[str, Any]] = {
    "rabbitmq-kombu": {"lane": "kombu", "confirm_publish": True},
    "rabbitmq": {"confirm_publish": True},
    "redis-kombu": {"lane": "kombu", **SOON},
    "redis": {"lease": 3},
}


@pytest.fixture(params=[
    "rabbitmq-kombu",
    "rabbitmq",
    pytest.param("redis-kombu", marks=pytest.mark.xfail(
        reason="what kombu has popped and not stored is lost", strict=False)),
    "redis",
])  # fmt: skip
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A broker with a network that breaks, by each of the transports there are."""
    settings = {
        "broker_transport_options": LANES[request.param],
        "worker_prefetch_multiplier": 8,
        "task_ignore_result": True,
    }
    kind = request.param.partition("-")[0]
    server = request.getfixturevalue(f"private_{kind}")
    with ExitStack() as stack:
        url = server.url if kind == "redis" else stack.enter_context(Vhost(server)).url
        site = Site(tmp_path, url, settings)
        stack.callback(site.close)
        site.server = server
        yield site


def strike(site: Site, worker: Worker, blow: str) -> Worker:
    """Do something bad; gives the worker that lives on."""
    if blow == "broker":
        site.server.kill()
        site.server.start()
    elif blow == "restart":
        # Politely: clients are told, and what is in its hands is written down.
        site.server.restart()
    elif blow == "app":
        # RabbitMQ stops and its node stays: what an upgrade of a cluster does.
        site.server.ctl("stop_app")
        site.server.ctl("start_app")
    elif blow == "cut":
        site.proxy.cut()
    elif blow == "away":
        site.proxy.refuse()
        time.sleep(1)
        site.proxy.accept()
    elif blow == "child":
        children = Path(f"/proc/{worker.process.pid}/task/{worker.process.pid}/children")
        os.kill(int(random.choice(children.read_text().split())), signal.SIGKILL)
    else:
        if blow == "kill":
            worker.kill()
        else:
            assert worker.stop() == 0, worker.log[-4000:]
        worker = start(site)
    return worker


def start(site: Site) -> Worker:
    return site.worker("-P", "prefork").wait_ready()


KINDS = ["kill", "term", "cut", "away", "child", "broker", "restart"]


@pytest.mark.parametrize("blow", [*KINDS, "app", "mixed"])
def test_late_acked_tasks_are_not_lost(site: Site, blow: str) -> None:
    if blow == "app" and not isinstance(site.server, RabbitMQ):
        pytest.skip("only RabbitMQ has an application to stop")
    seed = int(os.environ.get("TASKQ_CHAOS_SEED", time.time_ns() % 2**32))
    chance = random.Random(seed)
    # A child that is killed must not take its task along.
    site.settings["task_reject_on_worker_lost"] = True
    names = [f"n{number}" for number in range(TASKS)]
    for name in names:
        site.send("late", name)
    worker = start(site)
    try:
        for at in sorted(chance.sample(range(TASKS // 10, TASKS * 9 // 10), BLOWS)):
            wait_until(lambda at=at: len(started(site)) >= at, f"run {at}", 120,
                       lambda worker=worker: worker.log[-4000:])  # fmt: skip
            worker = strike(site, worker, chance.choice(KINDS) if blow == "mixed" else blow)
        wait_until(lambda: ended(site) >= set(names) or is_stuck(site), "the end", 120)
    finally:
        worker.kill()
    runs = started(site)
    lost = set(names) - ended(site)
    print(
        f"seed {seed}: {TASKS} sent, {BLOWS} x {blow}, run {len(runs)}, lost {len(lost)}, "
        f"doubled {len(runs) - len(set(runs))}"
    )
    assert not lost


def started(site: Site) -> list[str]:
    return [line[1] for line in site.lines() if line[0] == "start"]


def ended(site: Site) -> set[str]:
    return {line[1] for line in site.lines() if line[0] == "end"}


def is_stuck(site: Site) -> bool:
    """Nothing has been run for longer than any lease or visibility timeout."""
    lines = site.lines()
    return bool(lines) and time.time() - float(lines[-1][2]) > 45
