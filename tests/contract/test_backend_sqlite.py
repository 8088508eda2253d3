"""The contract, kept by results in an SQLite file; and what is this store's own."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from contract.backends import BackendContract

from taskq import Celery
from taskq.backends import sqlite as backends_sqlite
from taskq.utils.sqlite import DatabaseLocked, DatabaseUnusable


class TestSQLiteBackend(BackendContract):
    notices = True

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/results.db"

    def age(self, backend: Any, seconds: float) -> None:
        backend.database.write(
            lambda connection: connection.execute(
                "UPDATE taskq_result SET expires = expires - ?", (seconds,)
            )
        )

    def count(self, backend: Any) -> int:
        return int(backend.database.read("SELECT count(*) FROM taskq_result")[0][0])

    def test_the_file_is_shown_with_its_path(self, backend: Any, url: str) -> None:
        assert backend.as_uri() == url

    def test_counting(self, backend: Any) -> None:
        assert [backend.incr("n") for _ in range(3)] == [1, 2, 3]
        backend.delete("n")
        assert backend.get("n") is None

    def test_a_document_lives_as_long_as_it_is_told(self, backend: Any) -> None:
        backend.set("k", "v")
        backend.expire("k", 10)
        self.age(backend, 9)
        assert backend.get("k") == b"v"
        self.age(backend, 2)
        assert backend.get("k") is None

    def test_failures_may_live_shorter(self, make_app: Any) -> None:
        backend = make_app(result_failure_expires=10, result_expires=100).backend
        backend.store_result("bad", ValueError("x"), "FAILURE")
        backend.store_result("good", 1, "SUCCESS")
        self.age(backend, 11)
        assert [backend.get_state("bad"), backend.get_state("good")] == ["PENDING", "SUCCESS"]

    def test_cleanup_removes_what_expired(
        self, backend: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backends_sqlite, "EXPIRED_AT_ONCE", 2)
        for number in range(5):
            backend.store_result(str(number), number, "SUCCESS")
        self.age(backend, 10**7)
        backend.store_result("new", 1, "SUCCESS")
        backend.cleanup()
        assert self.count(backend) == 1

    def test_storing_removes_what_expired_now_and_then(self, backend: Any) -> None:
        backend.store_result("old", 1, "SUCCESS")
        self.age(backend, 10**7)
        backend.store_result("new", 1, "SUCCESS")
        assert self.count(backend) == 2
        backend._next_cleanup = time.monotonic()
        backend.store_result("newer", 1, "SUCCESS")
        assert self.count(backend) == 2

    def test_storing_removes_expired_documents_as_fast_as_they_come(
        self, backend: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backends_sqlite, "EXPIRED_AT_ONCE", 2)
        for number in range(5):
            backend.store_result(str(number), number, "SUCCESS")
        self.age(backend, 10**7)
        backend._next_cleanup = time.monotonic()
        for number in range(5, 8):
            backend.store_result(str(number), number, "SUCCESS")
        assert self.count(backend) == 3

    def test_an_expired_success_may_be_stored_anew(self, backend: Any) -> None:
        backend.store_result("t", 1, "SUCCESS")
        self.age(backend, 10**7)
        backend.store_result("t", 2, "STARTED")
        assert backend.get_state("t") == "STARTED"

    def test_many_more_than_sqlite_takes_at_once(self, backend: Any) -> None:
        backend.store_result("t", 1, "SUCCESS")
        assert list(backend.mget([f"{n}" for n in range(2000)] + ["celery-task-meta-t"]))

    def test_threads_store_success_once(self, make_app: Any) -> None:
        backends = [make_app().backend for _ in range(4)]
        threads = [
            threading.Thread(target=backend.store_result, args=("t", number, "SUCCESS"))
            for number, backend in enumerate(backends)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        first = backends[0].get_result("t")
        for backend in backends:
            backend.store_result("t", 99, "FAILURE")
            assert backend.get_task_meta("t", cache=False)["result"] == first

    def test_a_locked_file_may_be_tried_again(self, url: str) -> None:
        app = Celery("locked", backend=f"{url}?timeout=0.1", set_as_current=False)
        app.backend.store_result("t", 1, "STARTED")
        holder = sqlite3.connect(app.backend.database.path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseLocked) as raised:
            app.backend.set("k", b"2")
        holder.close()
        assert app.backend.exception_safe_to_retry(raised.value)

    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        (tmp_path / "notes").write_text("dear diary" * 100)
        app = Celery("x", backend=f"sqlite:///{tmp_path}/notes", set_as_current=False)
        with pytest.raises(DatabaseUnusable, match="notes is not a usable SQLite database"):
            app.backend.store_result("t", 1, "SUCCESS")
