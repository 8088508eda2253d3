"""The Flask application written for Celery runs under `taskq --as-celery`, web process too."""

from __future__ import annotations

import collections
import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE_S, wait_until

PROJECT = Path(__file__).resolve().parents[2] / "examples" / "flask_linkcheck"
TASKQ = [sys.executable, "-m", "taskq"]
PAGE = '<a href="/fine">1</a> <a href="/busy">2</a> <p><a href="/gone">3</a></p>'


class Site(BaseHTTPRequestHandler):
    """Three links: one is fine, one is busy the first two times, one is gone."""

    asked: collections.Counter[str] = collections.Counter()

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        busy = self.path == "/busy" and self.asked[self.path] < 3
        self.send_response(503 if busy else 404 if self.path == "/gone" else 200)
        self.end_headers()
        self.wfile.write(PAGE.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    Site.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def environment(redis_url: str) -> dict[str, str]:
    return {**os.environ, "LINKCHECK_BROKER": redis_url, "LINKCHECK_RESULTS": redis_url}


@pytest.fixture
def worker(environment: dict[str, str], tmp_path: Path) -> Iterator[Path]:
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*TASKQ, "--as-celery", "-A", "worker", "worker", "-l", "INFO", "-c", "1"],
            cwd=PROJECT, env=environment, stdout=output, stderr=output,
        )  # fmt: skip
        try:
            wait_until(lambda: " ready." in log.read_text(), "the worker is ready",
                       report=log.read_text)  # fmt: skip
            yield log
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


@pytest.fixture
def web(environment: dict[str, str]) -> Iterator[str]:
    server = subprocess.Popen(
        [*TASKQ, "exec", sys.executable, "-m", "flask", "--app", "linkcheck", "run", "--port", "0"],
        cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    said = ""
    while not (found := re.search(r"Running on (http://\S+)", said)):
        line = server.stdout.readline()
        assert line, said
        said += line
    # Nobody reads its access log: it must not fill the pipe.
    reader = threading.Thread(target=server.stdout.read, daemon=True)
    reader.start()
    yield found[1]
    server.terminate()
    server.wait(PATIENCE_S)
    reader.join()
    server.stdout.close()


def ask(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return json.load(answer)


def test_project_names_celery_only() -> None:
    for file in PROJECT.rglob("*.py"):
        assert "taskq" not in file.read_text(), file


def test_a_check_from_request_to_report(site: str, worker: Path, web: str) -> None:
    check = f"{web}/checks/{ask(f'{web}/checks', {'page': site})['id']}"
    done = wait_until(
        lambda: (body := ask(check))["state"] in ("SUCCESS", "FAILURE") and body,
        "the check ends",
        report=worker.read_text,
    )
    assert done["report"] == {"links": 3, "broken": [f"{site}gone"]}
    assert Site.asked == {"/": 1, "/fine": 1, "/gone": 1, "/busy": 3}
    assert worker.read_text().count("will look again") == 2


def test_no_address_at_all(worker: Path, web: str) -> None:
    check = f"{web}/checks/{ask(f'{web}/checks', {'page': 'nonsense'})['id']}"
    # The chain broke at its first step; the client holds the id of the last.
    done = wait_until(
        lambda: (body := ask(check))["state"] in ("SUCCESS", "FAILURE") and body,
        "the check ends",
        report=worker.read_text,
    )
    assert "unknown url type: 'nonsense'" in done["error"]
