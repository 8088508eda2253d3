"""The one owner of every SQLite connection: one per thread, none across a fork, errors that teach.

The embedded broker (transports/sqlite.py) and its results (backends/sqlite.py) stand on it.

How it works. A `Database` is one file. `write(change)` runs a function inside BEGIN IMMEDIATE ..
COMMIT, `write_one(sql)` one statement that is a transaction by itself, `read(sql)` one query; each
thread has a connection of its own, opened at first use. A connection's lock is held while it is
used, never while waiting for the file, so that a fork can wait for all of them: SQLite's idea of
its locks is copied by fork, the locks are not, and a child's commit could land in a log that the
parent's close has just deleted. Therefore every connection is closed before a fork, opening is held
off until it is over, and both sides open anew at next use.
A connection outlives its thread in `_handles` until it is closed: a fork must not miss one that is
just being dropped.
A cursor must not leave the function it was made in: an open one keeps its file open through close.
"""

from __future__ import annotations

import itertools
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Concatenate, ParamSpec, TypeVar

from taskq.utils.sqlite_location import (
    DatabaseError,
    DatabaseFull,
    DatabaseLocked,
    DatabaseUnavailable,
    DatabaseUnusable,
    Location,
    create_file,
    parse_url,
)

__all__ = (
    "Database",
    "DatabaseError",
    "DatabaseFull",
    "DatabaseLocked",
    "DatabaseUnavailable",
    "DatabaseUnusable",
    "Location",
    "open_database",
    "parse_url",
)

P = ParamSpec("P")
T = TypeVar("T")

#: The first pause of a writer that found the file locked, and the longest one, in seconds.
SHORTEST_PAUSE_S = 0.0002
LONGEST_PAUSE_S = 0.005

#: Pages the write-ahead log may grow to before it is copied back (about 16 MB): as many as one
#: table of its index holds, so that looking a page up stays as cheap.
CHECKPOINT_PAGES = 4000

_BUSY = ("locked", "busy")
_FULL = ("full", "disk i/o error", "too big")
_BROKEN = ("not a database", "malformed", "encrypted")
_FORBIDDEN = ("readonly", "read-only", "unable to open")

_serials = itertools.count(1)
_opening = threading.RLock()
_handles: set[_Handle] = set()
_held_for_fork: list[_Handle] = []
_databases: dict[Location, Database] = {}


class _Handle:
    """One thread's connection to one file."""

    __slots__ = ("abandoned", "connection", "inode", "lock", "serial")

    def __init__(self) -> None:
        self.serial = 0
        #: Whether the thread it belongs to has ended.
        self.abandoned = False
        self.connection: sqlite3.Connection | None = None
        self.inode = 0
        self.lock = threading.RLock()

    def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()


class _Owner:
    """What a thread holds of its handle; ends with the thread."""

    __slots__ = ("handle",)

    def __init__(self, handle: _Handle) -> None:
        self.handle = handle

    # Bound here: at the interpreter's end the module's names go before the last thread does.
    def __del__(self, forget: Callable[[_Handle], None] = _handles.discard) -> None:
        handle = self.handle
        handle.abandoned = True
        # Never waiting: this runs wherever the collector does. A fork that holds it closes it.
        if handle.lock.acquire(blocking=False):
            try:
                handle.close()
                forget(handle)
            finally:
                handle.lock.release()


def open_database(location: Location | str) -> Database:
    """Give this process's one Database for a place (a Location or a sqlite:/// URL)."""
    if isinstance(location, str):
        location = parse_url(location)
    with _opening:
        database = _databases.get(location)
        if database is None:
            database = _databases[location] = Database(location)
    return database


class Database:
    """One SQLite file, shared by the threads of this process and by other processes."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self.path = location.path
        self._parts: dict[str, Sequence[Sequence[str]]] = {}
        self._local = threading.local()

    def __repr__(self) -> str:
        return f"<Database: {self.path}>"

    def write(
        self,
        change: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run `change(connection, ...)` as one transaction and give back what it returns.

        `change` must not fork, call users' code or keep a cursor. Raises DatabaseLocked when other
        writers did not let us in within the location's timeout.
        """
        handle = self._handle()
        deadline, pause = 0.0, SHORTEST_PAUSE_S
        while True:
            with handle.lock:
                # A signal's exception may come between any two lines; a transaction left open
                # would keep every other process out.
                try:
                    try:
                        connection = self._open(handle)
                        connection.execute("BEGIN IMMEDIATE")
                    except sqlite3.DatabaseError as exc:
                        deadline = self._check_patience(exc, deadline)
                    else:
                        return self._transact(connection, change, *args, **kwargs)
                finally:
                    _roll_back(handle)
            # The lock is free meanwhile: a fork need not wait for another process's transaction.
            time.sleep(random.uniform(pause / 2, pause))
            pause = min(pause * 2, LONGEST_PAUSE_S)

    def _transact(
        self,
        connection: sqlite3.Connection,
        change: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        try:
            result = change(connection, *args, **kwargs)
            connection.execute("COMMIT")
            return result
        except sqlite3.DatabaseError as exc:
            # Their subclasses (a broken constraint) are about the statement, not about the file.
            if type(exc) in (sqlite3.OperationalError, sqlite3.DatabaseError):
                raise self._explain(exc) from exc
            raise

    def write_one(self, sql: str, parameters: Sequence[Any]) -> None:
        """Run one statement, which is a transaction by itself, for half the price of `write`.

        Raises DatabaseLocked as `write` does.
        """
        self._run(sql, parameters)

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Give all rows of one query."""
        return self._run(sql, parameters)

    def _run(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        handle = self._handle()
        deadline, pause = 0.0, SHORTEST_PAUSE_S
        while True:
            with handle.lock:
                try:
                    return self._open(handle).execute(sql, parameters).fetchall()
                except sqlite3.DatabaseError as exc:
                    deadline = self._check_patience(exc, deadline)
            time.sleep(random.uniform(pause / 2, pause))
            pause = min(pause * 2, LONGEST_PAUSE_S)

    def data_version(self) -> tuple[int, int]:
        """Give a mark that changes when any other connection has changed the file.

        It also changes when this thread's connection is another one than before: each counts for
        itself, and what happened in between is unknown.
        """
        version: int = self.read("PRAGMA data_version")[0][0]
        return self._handle().serial, version

    def require(self, part: str, steps: Sequence[Sequence[str]]) -> None:
        """Make sure that the tables of `part` exist: run those of its `steps` not yet run.

        A step is a sequence of statements; steps are only ever appended. They run again by
        themselves when the file is replaced.
        """
        if part not in self._parts:
            self.write(_migrate, self.path, part, steps)
            self._parts[part] = steps

    def close(self) -> None:
        """Close this thread's connection; it opens again at next use."""
        handle = self._handle()
        with handle.lock:
            handle.close()

    def _handle(self) -> _Handle:
        try:
            owner: _Owner = self._local.owner
        except AttributeError:
            with _opening:
                owner = self._local.owner = _Owner(_Handle())
                _handles.add(owner.handle)
        return owner.handle

    def _open(self, handle: _Handle) -> sqlite3.Connection:
        """Give the handle's connection, anew when there is none or the file was replaced."""
        connection = handle.connection
        try:
            inode = os.stat(self.path).st_ino
        except OSError:
            inode = 0
        if connection is not None and inode == handle.inode:
            return connection
        # What is written to a file that somebody has removed is lost without a word.
        handle.close()
        create_file(self.path)
        with ExitStack() as on_error:
            connection = _connect(self.location)
            on_error.callback(connection.close)
            handle.inode = os.stat(self.path).st_ino
            handle.serial = next(_serials)
            # A copy: another thread may add a part; it makes its tables itself.
            for part, steps in list(self._parts.items()):
                connection.execute("BEGIN IMMEDIATE")
                self._transact(connection, _migrate, self.path, part, steps)
            on_error.pop_all()
        handle.connection = connection
        return connection

    def _check_patience(self, exc: sqlite3.DatabaseError, deadline: float) -> float:
        """Give the moment until which to try again; raise when it has passed or cannot help."""
        if not _speaks_of(exc, _BUSY):
            raise self._explain(exc) from exc
        now = time.monotonic()
        if not deadline:
            return now + self.location.timeout
        if now >= deadline:
            raise self._explain(exc) from exc
        return deadline

    def _explain(self, exc: BaseException) -> BaseException:
        """Say what an error of SQLite means for this file and what to do about it."""
        if _speaks_of(exc, _BUSY):
            return DatabaseLocked(
                f"{self.path}: other programs kept this database locked for "
                f"{self.location.timeout:g} s ({exc}). Look for one that holds a transaction open "
                "(a shell, a browser, a backup), or wait longer with ?timeout=SECONDS in the URL."
            )
        if _speaks_of(exc, _FULL):
            return DatabaseFull(
                f"{self.path}: there was no room to write ({exc}). Nothing of this change was "
                "stored; free some space (or raise the quota) of its file system, or look at the "
                "disk if there is space."
            )
        if _speaks_of(exc, _BROKEN):
            return DatabaseUnusable(
                f"{self.path} is not a usable SQLite database ({exc}). Expected a database made by "
                "taskq or no file at all: choose another path, or move this file away."
            )
        if _speaks_of(exc, _FORBIDDEN):
            return DatabaseUnusable(
                f"{self.path} cannot be opened for writing ({exc}). taskq writes this file and "
                "others beside it: let this user write to both the file and its directory."
            )
        return exc


def _roll_back(handle: _Handle) -> None:
    """Undo what was not committed; some errors, a full disk among them, have done it."""
    connection = handle.connection
    try:
        if connection is not None and connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        handle.close()


def _speaks_of(exc: BaseException, words: Sequence[str]) -> bool:
    text = str(exc).lower()
    return any(word in text for word in words)


def _connect(location: Location) -> sqlite3.Connection:
    # The handle's lock keeps threads apart; the thread that forks must be able to close them all.
    connection = sqlite3.connect(
        location.path, timeout=0, isolation_level=None, check_same_thread=False
    )
    with ExitStack() as on_error:
        on_error.callback(connection.close)
        mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise DatabaseUnusable(
                f"{location.path}: its file system cannot hold a write-ahead log (journal mode is "
                f"{mode!r}, expected 'wal'). Put the file on a local disk."
            )
        connection.execute(f"PRAGMA synchronous={location.synchronous}")
        connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        # A log that grew while somebody was reading shrinks again.
        connection.execute(f"PRAGMA journal_size_limit={CHECKPOINT_PAGES * 4096}")
        on_error.pop_all()
    return connection


def _migrate(
    connection: sqlite3.Connection, path: str, part: str, steps: Sequence[Sequence[str]]
) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS taskq_schema (part TEXT PRIMARY KEY, version INTEGER NOT NULL)"
    )
    query = "SELECT version FROM taskq_schema WHERE part = ?"
    row = connection.execute(query, (part,)).fetchone()
    version = row[0] if row else 0
    if version > len(steps):
        raise DatabaseUnusable(
            f"{path}: its {part} tables have version {version}, this taskq knows up to "
            f"{len(steps)}. Upgrade taskq here, or use another file."
        )
    for step in steps[version:]:
        for statement in step:
            connection.execute(statement)
    connection.execute("INSERT OR REPLACE INTO taskq_schema VALUES (?, ?)", (part, len(steps)))


def _close_before_fork() -> None:
    _opening.acquire()
    for handle in list(_handles):
        handle.lock.acquire()
        _held_for_fork.append(handle)
        handle.close()


def _release_in_parent() -> None:
    while _held_for_fork:
        handle = _held_for_fork.pop()
        if handle.abandoned:
            _handles.discard(handle)
        handle.lock.release()
    _opening.release()


def _renew_in_child() -> None:
    global _opening
    # The other threads are gone: their locks would stay taken for ever.
    for handle in _held_for_fork:
        handle.lock = threading.RLock()
        if handle.abandoned:
            _handles.discard(handle)
    _held_for_fork.clear()
    _opening = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_close_before_fork,
        after_in_parent=_release_in_parent,
        after_in_child=_renew_in_child,
    )
