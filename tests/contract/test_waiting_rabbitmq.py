"""Tasks wait in RabbitMQ, and outlive the worker that parks them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from contract.loss import Site
from contract.waiting import check_each_ran_once, kill_while_parking
from servers import Vhost

SETTINGS: dict[str, Any] = {}

#: basic.publish to one of the delay exchanges of the shorter waits.
PUBLISH = b"\x00\x3c\x00\x28\x00\x00\x10celery_delayed_"


def is_park(way: str, data: bytes) -> bool:
    return way == "up" and PUBLISH in data


@pytest.fixture
def vhost(rabbitmq_vhost: Vhost) -> Iterator[Vhost]:
    with Vhost(rabbitmq_vhost.broker) as vhost:
        yield vhost


@pytest.mark.parametrize("arrives", [True, pytest.param(False, marks=pytest.mark.long)])
def test_killed_while_parking(tmp_path: Path, vhost: Vhost, arrives: bool) -> None:
    site = Site(tmp_path, vhost.url, dict(SETTINGS))
    with kill_while_parking(site, is_park, arrives=arrives, count=40) as worker:
        check_each_ran_once(site, 40, worker)
    site.close()
