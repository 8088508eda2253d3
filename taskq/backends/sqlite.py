"""Outcomes in an SQLite file: `sqlite:///path`, by default the file of the embedded broker.

Who waits looks at PRAGMA data_version every 1 to 30 ms, which costs microseconds, and reads only
when somebody has written. Expired documents are invisible at once and removed while storing.
"""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kombu.utils.encoding import bytes_to_str

from taskq import states
from taskq.backends.base import KeyValueStoreBackend
from taskq.utils.log import get_logger
from taskq.utils.sqlite import DatabaseUnavailable, open_database, parse_url

if TYPE_CHECKING:
    from taskq.context import Context

__all__ = ("SQLiteBackend",)

logger = get_logger(__name__)

SCHEMA: tuple[tuple[str, ...], ...] = (
    (
        # expires: seconds since the epoch, null for never.
        """CREATE TABLE taskq_result (
            key TEXT PRIMARY KEY, value BLOB NOT NULL, state TEXT NOT NULL, expires REAL)
            WITHOUT ROWID""",
        "CREATE INDEX taskq_result_expires ON taskq_result (expires) WHERE expires IS NOT NULL",
    ),
)

#: A result is noticed late by this part of the time that was waited for it, within these limits
#: (in seconds): quick tasks are answered quickly, and long waits cost next to nothing.
LATE_AT_MOST = 0.05
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.001, 0.03

#: Seconds between removals of expired documents while storing, and how many at most in one go.
CLEANUP_EVERY_S = 300.0
EXPIRED_AT_ONCE = 200

_STORE = (
    "INSERT INTO taskq_result (key, value, state, expires) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (key) DO UPDATE SET "
    "value = excluded.value, state = excluded.state, expires = excluded.expires"
)
_STORE_UNLESS_SUCCESS = f"{_STORE} WHERE state <> 'SUCCESS' OR expires <= ?"
_LIVE = "(expires IS NULL OR expires > ?)"


class SQLiteBackend(KeyValueStoreBackend):
    """Results in a file that every process of this machine can read."""

    key_t = staticmethod(bytes_to_str)

    supports_autoexpire = True
    supports_native_join = True
    supports_result_compression = True
    supports_failure_expires = True
    implements_incr = True

    def __init__(
        self, app: Any, expires: Any = None, url: str | None = None, **kwargs: Any
    ) -> None:
        if not url or "://" not in url:
            url = "sqlite:///taskq.db"
        super().__init__(app, expires=expires, expires_type=float, url=url, **kwargs)
        failure = app.conf.result_failure_expires
        self.failure_expires = self.expires if failure is None else self.prepare_expires(failure)
        self.database = open_database(parse_url(url))
        self._next_cleanup = time.monotonic() + CLEANUP_EVERY_S
        self._waiting_since = 0.0
        try:
            self.database.require("results", SCHEMA)
        except DatabaseUnavailable as exc:
            # It passes; a worker should not end because a backup runs while it starts.
            logger.warning("The results cannot be reached, going on: %s", exc)

    # -- documents

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Context | None = None,
        **kwargs: Any,
    ) -> Any:
        document = self._write_document(bytes_to_str(task_id), result, state, traceback, request)
        now = time.time()
        expires = self._find_end(now, state)
        row = (self.get_key_for_task(task_id), _as_blob(document), state, expires, now)
        # Settings that ask for retries have store_result count them; clients get the error at once.
        if request is None or self.always_retry:
            self._write(_STORE_UNLESS_SUCCESS, row)
        else:
            self._store_patiently(task_id, row)
        return result

    def _store_patiently(self, task_id: str, row: Sequence[Any]) -> None:
        """Store what a worker says, however long the file is locked or the disk full.

        An outcome is nowhere else: given up, it would be lost although the task has run.
        """
        for attempt in itertools.count():
            try:
                self._write(_STORE_UNLESS_SUCCESS, row)
                return
            except DatabaseUnavailable as exc:
                logger.error(
                    "Task %s: its outcome cannot be stored yet, trying again: %s", task_id, exc
                )
            self._pause_before_retry(attempt)

    def get(self, key: str) -> bytes | None:
        self.database.require("results", SCHEMA)
        rows = self.database.read(
            f"SELECT value FROM taskq_result WHERE key = ? AND {_LIVE}", (key, time.time())
        )
        return rows[0][0] if rows else None

    def mget(self, keys: Sequence[str]) -> dict[str, bytes]:
        self.database.require("results", SCHEMA)
        found: dict[str, bytes] = {}
        now = time.time()
        # SQLite takes at most 999 parameters in one statement.
        for start in range(0, len(keys), 900):
            part = keys[start : start + 900]
            marks = ",".join("?" * len(part))
            query = f"SELECT key, value FROM taskq_result WHERE key IN ({marks}) AND {_LIVE}"
            found.update(self.database.read(query, (*part, now)))
        return found

    def set(self, key: str, value: Any) -> None:
        self._set_with_state(key, value, "")

    def _set_with_state(self, key: str, value: Any, state: str) -> None:
        self._write(_STORE, (key, _as_blob(value), state, self._find_end(time.time(), state)))

    def delete(self, key: str) -> None:
        self._write("DELETE FROM taskq_result WHERE key = ?", (key,))

    def incr(self, key: str) -> int:
        self.database.require("results", SCHEMA)
        return self.database.write(_count_up, key, self._find_end(time.time(), ""))

    def expire(self, key: str, value: float) -> None:
        end = time.time() + value
        self._write("UPDATE taskq_result SET expires = ? WHERE key = ?", (end, key))

    def _find_end(self, now: float, state: str) -> float | None:
        seconds = self.failure_expires if state == states.FAILURE else self.expires
        return now + seconds if seconds else None

    def _write(self, statement: str, parameters: Sequence[Any]) -> None:
        self.database.require("results", SCHEMA)
        moment = time.monotonic()
        if moment < self._next_cleanup:
            self.database.write_one(statement, parameters)
            return
        self._next_cleanup = moment + CLEANUP_EVERY_S
        removed = self.database.write(_clean_and_execute, time.time(), statement, parameters)
        if removed == EXPIRED_AT_ONCE:
            # There are more: without going on at once, a busy file would only grow.
            self._next_cleanup = moment

    def cleanup(self) -> None:
        """Remove expired documents, some at a time so that others can write in between."""
        while self.database.write(_remove_expired, time.time()) == EXPIRED_AT_ONCE:
            pass

    # -- waiting

    def change_mark(self) -> tuple[int, int]:
        return self.database.data_version()

    def wait_for(self, *args: Any, **kwargs: Any) -> Any:
        self._waiting_since = time.monotonic()
        return super().wait_for(*args, **kwargs)

    def wait_for_change(self, mark: object, seconds: float) -> None:
        now = time.monotonic()
        deadline = now + seconds
        while now < deadline:
            pause = (now - self._waiting_since) * LATE_AT_MOST
            pause = min(max(pause, SHORTEST_PAUSE_S), LONGEST_PAUSE_S, deadline - now)
            time.sleep(pause)
            if self.database.data_version() != mark:
                return
            now = time.monotonic()

    # -- errors, names

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        return isinstance(exc, DatabaseUnavailable)

    def as_uri(self, include_password: bool = False) -> str:
        """The URL with the absolute path of its file."""
        return f"sqlite:///{self.database.path}"

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = {"url": self.url, "expires": self.expires, **(kwargs or {})}
        return super().__reduce__(args, kwargs)


def _as_blob(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


def _clean_and_execute(
    connection: sqlite3.Connection, before: float, statement: str, parameters: Sequence[Any]
) -> int:
    removed = _remove_expired(connection, before)
    connection.execute(statement, parameters)
    return removed


def _remove_expired(connection: sqlite3.Connection, before: float) -> int:
    return connection.execute(
        "DELETE FROM taskq_result WHERE key IN "
        "(SELECT key FROM taskq_result WHERE expires <= ? LIMIT ?)",
        (before, EXPIRED_AT_ONCE),
    ).rowcount


def _count_up(connection: sqlite3.Connection, key: str, expires: float | None) -> int:
    connection.execute(
        "INSERT INTO taskq_result VALUES (?, '1', '', ?) "
        "ON CONFLICT (key) DO UPDATE SET value = CAST(value AS INTEGER) + 1",
        (key, expires),
    )
    query = "SELECT CAST(value AS INTEGER) FROM taskq_result WHERE key = ?"
    return int(connection.execute(query, (key,)).fetchone()[0])
