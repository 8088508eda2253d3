"""The Django project written for Celery runs under `taskq --as-celery`, web process too."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE_S, wait_until

PROJECT = Path(__file__).resolve().parents[2] / "examples" / "django_blog"
TASKQ = [sys.executable, "-m", "taskq"]
MANAGE = [*TASKQ, "exec", sys.executable, "manage.py"]
PREPARE = """
from django.core.management import call_command
from blog.models import Entry
call_command("migrate", verbosity=0)
Entry.objects.create(slug="open", title="Talk")
Entry.objects.create(slug="closed", title="Read", allows_comments=False)
"""


class Akismet(BaseHTTPRequestHandler):
    """Stands in for the service: who sells is a spammer; the first question finds it busy."""

    asked: list[str] = []

    def do_POST(self) -> None:
        fields = dict(urllib.parse.parse_qsl(self.rfile.read(int(self.headers["Content-Length"]))))
        text = fields.get(b"comment_content", b"").decode()
        if text:
            self.asked.append(text)
        self.send_response(503 if text and len(self.asked) == 1 else 200)
        self.end_headers()
        if text:
            self.wfile.write(b"true" if "buy" in text else b"false")
        else:
            self.wfile.write(b"valid" if fields[b"key"] == b"right" else b"invalid")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def akismet() -> Iterator[str]:
    Akismet.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Akismet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(params=["sqlite", "postgres"])
def environment(
    request: pytest.FixtureRequest, akismet: str, redis_url: str, tmp_path: Path
) -> dict[str, str]:
    settings = {"BLOG_BROKER": redis_url, "BLOG_AKISMET": akismet, "BLOG_AKISMET_KEY": "right"}
    if request.param == "postgres":
        settings["BLOG_POSTGRES"] = request.getfixturevalue("postgres_database").name
    else:
        settings["BLOG_SQLITE"] = str(tmp_path / "blog.sqlite3")
    return {**os.environ, **settings, "PYTHONUNBUFFERED": "1"}


@contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[Path]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdout=output, stderr=output
        )
    try:
        yield log
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@pytest.fixture
def worker(environment: dict[str, str], tmp_path: Path) -> Iterator[Path]:
    command = [*TASKQ, "--as-celery", "-A", "mysite", "worker", "-l", "INFO", "-c", "1"]
    with running(command, environment, tmp_path / "worker.log") as log:
        yield log


@pytest.fixture
def blog(environment: dict[str, str], worker: Path, tmp_path: Path) -> Iterator[str]:
    prepared = subprocess.run(
        [*MANAGE, "shell", "-c", PREPARE],
        cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert prepared.returncode == 0, prepared.stderr
    server = [*MANAGE, "runserver", "--noreload", "--skip-checks", "127.0.0.1:0"]
    with running(server, environment, tmp_path / "web.log") as log:
        yield wait_until(
            lambda: re.search(r"server at (http://\S+?)/\s", log.read_text()),
            "the site is up",
            report=log.read_text,
        )[1]


def comment(blog: str, slug: str, text: str) -> None:
    fields = {"name": "Ann", "email_address": "ann@example.com", "comment": text}
    data = urllib.parse.urlencode(fields).encode()
    with urllib.request.urlopen(f"{blog}/{slug}/comment", data, PATIENCE_S) as answer:
        assert answer.url == f"{blog}/{slug}/", "sent on to the entry"


def read(blog: str, slug: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{blog}/{slug}/", timeout=PATIENCE_S) as answer:
        return {each["comment"]: each["is_spam"] for each in json.load(answer)["comments"]}


def test_project_names_celery_only() -> None:
    for file in PROJECT.rglob("*.py"):
        assert "taskq" not in file.read_text(), file


def test_comments_are_judged_behind_the_back_of_the_page(
    request: pytest.FixtureRequest, blog: str, worker: Path, environment: dict[str, str]
) -> None:
    with pytest.raises(urllib.error.HTTPError, match="403") as refused:
        comment(blog, "closed", "buy! (rolled back)")
    refused.value.close()
    comment(blog, "open", "buy pills")
    comment(blog, "open", "nice read")
    wait_until(
        lambda: read(blog, "open") == {"buy pills": True, "nice read": False},
        "both are judged",
        report=worker.read_text,
    )
    assert read(blog, "closed") == {}
    # One of them twice, since the service was busy at first. Never the one that was rolled back.
    assert sorted(set(Akismet.asked)) == ["buy pills", "nice read"]
    assert len(Akismet.asked) == 3
    wait_until(lambda: worker.read_text().count("succeeded in") == 2, report=worker.read_text)
    log = worker.read_text()
    assert log.count("Running spam filter for comment") == 3
    assert "DoesNotExist" not in log
    assert "Django check" not in log
    if "BLOG_POSTGRES" in environment:
        with request.getfixturevalue("postgres_database").connect() as watching:
            open_now = (
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            wait_until(
                lambda: watching.execute(open_now).fetchone() == (0,),
                "the worker, still there, holds no connection between tasks",
            )
