"""Tasks whose rate is limited, ahead of others in the queue, on Redis and RabbitMQ.

On memory and SQLite: tests/unit/worker/test_rate_limits.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from journey.harness import Worker
from patience import PATIENCE_S, wait_until
from servers import Vhost

from taskq import App
from taskq.worker.consumer.buckets import HELD_BY_LIMIT, LONGEST_AWAY_S

MODULE = """
import json, os
from taskq import App

app = App("limits", backend="sqlite:///results.db")
app.conf.update(json.loads(os.environ["CONF"]))
LOG = os.open("runs.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


@app.task(name="limits.limited", bind=True, rate_limit="1/m")
def limited(self, name):
    os.write(LOG, f"limited {name}\\n".encode())
    request = self.request
    return [request.delivery_info, request.retries, request.eta, request.headers, vars(request)["mine"]]


@app.task(name="limits.other")
def other(name):
    os.write(LOG, f"other {name}\\n".encode())
"""  # noqa: E501

MANY = 100

#: Name -> transport options, settings, whether limited tasks go back to the broker.
LANES: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "taskq": ({}, {}, True),
    "kombu": ({"lane": "kombu"}, {}, False),
    "told to hold them": ({}, {"worker_eta_in_broker": False}, False),
}
HOLDING = [pytest.param(name, marks=pytest.mark.long) for name in ("kombu", "told to hold them")]


@dataclass
class Site:
    """A folder with the application, its broker, and a look at what waits there."""

    folder: Path
    app: App
    settings: dict[str, Any]
    goes_back: bool
    #: Number of messages that wait for their time in the broker.
    count_away: Callable[[], int]

    def worker(self, *options: str) -> Worker:
        env = {"CONF": json.dumps(self.settings)}
        return Worker(self.folder, "-c", "1", *options, app="limits", env=env)

    def send(self, task: str, count: int) -> None:
        with self.app.pipeline():
            for number in range(count):
                self.app.send_task(f"limits.{task}", (number,), headers={"mine": 1})

    def runs(self, task: str) -> list[str]:
        log = self.folder / "runs.log"
        text = log.read_text() if log.exists() else ""
        # Whole lines only.
        lines = text[: text.rfind("\n") + 1].splitlines()
        return [name for kind, name in map(str.split, lines) if kind == task]

    def lift_limit(self, worker: Worker) -> None:
        control = self.app.control
        (reply,) = control.rate_limit("limits.limited", 0, reply=True, timeout=PATIENCE_S, limit=1)
        assert "ok" in reply[worker.name]


@pytest.fixture(params=["redis", pytest.param("rabbitmq", marks=pytest.mark.long)])
def broker(request: pytest.FixtureRequest) -> Iterator[tuple[str, Callable[[], int]]]:
    """Give a broker's URL, and what counts the messages that wait for their time there."""
    if request.param == "redis":
        url = request.getfixturevalue("redis_url")
        with redis.Redis.from_url(url) as client:
            # A list for each step of priority.
            yield url, lambda: sum(map(client.zcard, client.keys("taskq.delayed.celery*")))
    else:
        with Vhost(request.getfixturevalue("rabbitmq_vhost").broker) as vhost:

            def count_away() -> int:
                rows = vhost.queues("name", "messages")
                return sum(int(n) for name, n in rows if name.startswith("celery_delayed_"))

            yield vhost.url, count_away


@pytest.fixture(params=["taskq", *HOLDING])
def site(
    request: pytest.FixtureRequest, tmp_path: Path, broker: tuple[str, Callable[[], int]]
) -> Iterator[Site]:
    url, count_away = broker
    options, settings, goes_back = LANES[request.param]
    (tmp_path / "limits.py").write_text(MODULE)
    settings = {
        "broker_url": url,
        "broker_transport_options": options,
        "worker_prefetch_multiplier": 8,
        **settings,
    }
    with App("client", backend=f"sqlite:///{tmp_path}/results.db", set_as_current=False) as app:
        app.conf.update(settings)
        yield Site(tmp_path, app, settings, goes_back, count_away)


def test_the_others_all_run(site: Site) -> None:
    site.send("limited", MANY)
    site.send("other", MANY)
    with site.worker() as worker:
        wait_until(lambda: len(site.runs("other")) == MANY, report=lambda: worker.log[-3000:])
        ran = len(site.runs("limited"))
        assert 1 <= ran < MANY / 2
        if not site.goes_back:
            assert site.count_away() == 0
            site.lift_limit(worker)
            wait_until(lambda: len(site.runs("limited")) == MANY, report=site.count_away)
            return
        wait_until(
            lambda: site.count_away() + len(site.runs("limited")) >= MANY - HELD_BY_LIMIT,
            report=site.count_away,
        )
        # They are told of when they are here to stay.
        assert worker.log.count("Task limits.limited[") < MANY
        site.lift_limit(worker)
        with site.app.connection_for_write() as connection:
            if connection.transport.driver_type == "redis":
                connection.default_channel.release_parked("celery")
        wait_until(
            lambda: len(site.runs("limited")) >= MANY,
            "all have run",
            PATIENCE_S + LONGEST_AWAY_S,
            site.count_away,
        )
    assert sorted(map(int, site.runs("limited"))) == list(range(MANY))


@pytest.mark.long
@pytest.mark.parametrize("site", ["taskq"], indirect=True)
def test_what_comes_back_is_what_was_sent(site: Site) -> None:
    queue = {"exchange": "media", "exchange_type": "topic", "routing_key": "media.#"}
    site.settings["task_queues"] = {"celery": queue}
    site.app.conf.update(site.settings)
    site.app.conf.task_default_exchange = "media"
    site.app.conf.task_default_exchange_type = "topic"
    site.app.conf.task_default_routing_key = "media.any"
    with site.worker() as worker:
        site.send("limited", 1 + HELD_BY_LIMIT)
        worker.wait_for_log("received", times=1 + HELD_BY_LIMIT)

        def send(name: str, **options: Any) -> Any:
            return site.app.send_task(
                "limits.limited",
                (name,),
                headers={"mine": 7},
                exchange="media",
                routing_key="media.video",
                **options,
            )

        plain = send("plain", retries=2, priority=3)
        late = send("late", countdown=1)
        expired, revoked = send("expired", expires=3), send("revoked")
        wait_until(lambda: site.count_away() == 4, report=lambda: worker.log[-3000:])
        assert len(site.runs("limited")) == 1
        revoked.revoke()
        site.lift_limit(worker)
        patience = PATIENCE_S + LONGEST_AWAY_S
        info, retries, eta, headers, mine = plain.get(timeout=patience)
        sent_to = {"exchange": "media", "routing_key": "media.video", "redelivered": False}
        assert info == {**sent_to, "priority": 3}
        assert (retries, eta, mine) == (2, None, 7)
        assert headers == {"mine": 7}
        info, retries, eta, headers, mine = late.get(timeout=patience)
        assert {name: info[name] for name in sent_to} == sent_to
        assert eta is not None
        for result in (expired, revoked):
            wait_until(lambda each=result: each.state == "REVOKED", seconds=patience)
    assert not {"expired", "revoked"} & set(site.runs("limited"))
