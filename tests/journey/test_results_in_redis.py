"""A real worker stores in Redis, its children over connections of their own; a client waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from journey.harness import Worker, client, write_project
from patience import PATIENCE_S
from servers import RedisServer


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_stores_and_a_client_waits(
    tmp_path: Path, private_redis: RedisServer, pool: str
) -> None:
    write_project(tmp_path, f"\napp.conf.result_backend = {private_redis.url!r}\n")
    app: Any = client(tmp_path, result_backend=private_redis.url)
    app.conf.result_backend = private_redis.url
    first = [app.send_task("proj.add", (number, 1)) for number in range(20)]
    with Worker(tmp_path, "-P", pool, "-c", "2") as worker:
        assert [result.get(timeout=PATIENCE_S) for result in first] == list(range(1, 21))
        late = app.send_task("proj.add", (1, 1), countdown=1)
        private_redis.restart()
        assert late.get(timeout=PATIENCE_S) == 2
        assert len(private_redis.clients()) <= 3 + 2
        worker.wait_for_log("succeeded", times=21)
    app.backend.link.close()
