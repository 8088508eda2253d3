"""Tasks that wait in the broker while a worker is killed at the moment it parks some of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from contract.loss import Site
from journey.harness import Worker
from patience import wait_until

Moment = Callable[[str, bytes], bool]


def kill_while_parking(site: Site, is_park: Moment, *, arrives: bool, count: int) -> Worker:
    """Start a worker behind the network that breaks, and kill it when it parks the first tasks.

    `arrives` says whether the broker still hears of it. Gives a second worker; `count` tasks of the
    names 0, 1, ... are due soon.
    """
    doomed = site.worker()
    with doomed:
        doomed.wait_ready()

        def strike(way: str, data: bytes) -> bool:
            if not is_park(way, data):
                return False
            os.kill(doomed.process.pid, signal.SIGKILL)
            return True

        killed = site.proxy.cut_when(strike, pass_on=arrives)
        send_all(site, count)
        assert killed.wait(30), doomed.log
        assert doomed.wait_end() == -signal.SIGKILL
    site.settings["broker_url"] = site.url
    return site.worker()


def send_all(site: Site, count: int, seconds: float = 9) -> None:
    """Send tasks named by the moment they are due, which differs a little."""
    now = datetime.now(timezone.utc)
    with site.app.pipeline():
        for number in range(count):
            eta = now + timedelta(seconds=seconds + number % 20 / 10)
            site.send("early", f"{number}@{eta.timestamp()}", eta=eta)


def check_each_ran_once(site: Site, count: int, worker: Worker, seconds: float = 60) -> None:
    """Wait for the end of all; none ran twice, none before it was due."""

    def starts() -> list[list[str]]:
        return [line[1:3] for line in site.lines() if line[0] == "start"]

    def ends() -> int:
        return sum(line[0] == "end" for line in site.lines())

    wait_until(lambda: ends() >= count, f"{count} tasks", seconds, lambda: worker.log[-6000:])
    numbers = sorted(int(name.partition("@")[0]) for name, _ in starts())
    assert numbers == list(range(count))
    early = [name for name, at in starts() if float(at) < float(name.partition("@")[2])]
    assert early == []


def measure_lateness(site: Site) -> list[float]:
    """Give the seconds that each start was after its ETA, in order; only of our own workers."""
    starts = [line[1:] for line in site.lines() if line[0] == "start"]
    ours = [(float(line[1]), line[0].partition("@")[2]) for line in starts if len(line) == 2]
    return sorted(at - float(eta) for at, eta in ours)
