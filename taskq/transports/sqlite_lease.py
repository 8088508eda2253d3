"""Who consumes and is alive: sessions with leases, and what happens to the work of the dead.

How it works. A connection that consumes has a row, its session, whose lease is renewed three times
per lease from one thread of the process with a database connection of its own, so that a solo pool
or a busy loop cannot miss it. The same thread buries sessions that are over: lease ended, machine
rebooted, or a bell file whose socket is gone, which proves that the process is. Their messages go
back to the consuming end, marked redelivered. A living process that stalled past its lease finds
its row gone: it forgets what it had not delivered and joins again under a new number, so that acks
of the old one are recognised as late.
"""

from __future__ import annotations

import atexit
import os
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Sequence

from taskq.transports.sqlite_bell import Bell, is_dead, remove, ring_all
from taskq.transports.sqlite_store import put_back_all
from taskq.transports.sqlite_topology import (
    Bells,
    QueueOptions,
    declare_queue,
    delete_queue,
    find_bells,
    find_queue,
    touch,
)
from taskq.utils.log import get_logger
from taskq.utils.sqlite import Database, DatabaseError, DatabaseUnavailable

__all__ = ("LeaseLost", "Session", "sweep")

logger = get_logger(__name__)

#: Seconds after which an expired message goes, when nobody consumes from its queue.
STALE_AFTER_S = 3600.0

#: Old messages removed at most in one go, so that publishers need not wait long.
OLD_AT_ONCE = 1000


def _read_boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


#: Names this boot of the machine, where it has a name.
BOOT = _read_boot()

#: A clock all processes of the machine share: not set by anybody, and standing still in suspend.
#: Without a boot's name it could not be told from that of another boot.
lease_clock = time.monotonic if BOOT and sys.platform == "linux" else time.time


class LeaseLost(DatabaseUnavailable):
    """A consumer stalled for so long that its queues were given up: it must connect again."""


class Session:
    """One consuming connection: its row, its lease, its bell, its consumers."""

    def __init__(self, database: Database, lease_s: float) -> None:
        self.database = database
        self.lease_s = lease_s
        self.pid = os.getpid()
        #: Consumers by tag, with the name of their queue.
        self.consumers: dict[str, str] = {}
        self.lost = False
        self.renewed = lease_clock()
        self._renewing = threading.Lock()
        self.id = database.write(_join, self._until(), self.pid, "", 0, {})
        self.bell = Bell(f"{database.path}.bell.{self.pid}.{self.id}", database.path)
        database.write(_hang_bell, self.id, self.bell.name, int(self.bell.audible))
        _keep(self)
        sweep(database)

    def _until(self) -> float:
        return lease_clock() + self.lease_s

    def consume(self, queue: str, tag: str) -> None:
        """Let publishers to this queue ring us; the queue is made when it is missing."""
        self.database.write(_consume, self.id, queue, tag, time.time())
        self.consumers[tag] = queue

    def cancel(self, tag: str) -> None:
        """End a consumer; the last one takes an auto-delete queue with it."""
        queue = self.consumers.pop(tag, None)
        if queue is not None and not self.lost:
            self.database.write(_cancel, self.id, queue, tag, time.time())

    def find_queues(self) -> dict[str, int]:
        """Give the ids of the queues consumed from, by name; mends what a deletion has torn."""
        return self.database.write(_restore_consumers, self.id, self.consumers)

    def renew(self) -> bool:
        """Prolong the lease; False, for good, when the session was buried meanwhile."""
        with self._renewing:
            now = lease_clock()
            if not self.lost and not self.database.write(_renew, self.id, now + self.lease_s):
                self.lost = True
                self.bell.ring()
            self.renewed = now
            return not self.lost

    def holds(self) -> bool:
        """Say whether what we reserved is still ours; asks the file only when it may not be."""
        if self.lost or lease_clock() - self.renewed < self.lease_s * 2 / 3:
            return not self.lost
        return self.renew()

    def rejoin(self) -> None:
        """Join anew after the lease was lost; raises LeaseLost when queues were given up."""
        logger.warning(
            "%s: session %s of process %s was away for longer than its lease of %g s; what it had "
            "reserved was given to others",
            *(self.database.path, self.id, self.pid, self.lease_s),
        )
        audible = int(self.bell.audible)
        with self._renewing:
            self.id = self.database.write(
                _join, self._until(), self.pid, self.bell.name, audible, self.consumers
            )
            self.renewed = lease_clock()
            self.lost = False
        missing = set(self.consumers.values()) - set(self.find_queues())
        if missing:
            raise LeaseLost(
                f"{self.database.path}: the queues {sorted(missing)} ended with the lease of this "
                "connection; connect again to declare them anew."
            )

    def close(self) -> None:
        """Give back what is reserved and leave; in a forked child, only forget."""
        _sessions.discard(self)
        self.bell.close()
        if self.pid == os.getpid() and not self.lost:
            self.lost = True
            bells, _ = self.database.write(_bury, [self.id])
            ring_for(self.database, bells)


def _join(
    connection: sqlite3.Connection,
    until: float,
    pid: int,
    bell: str,
    audible: int,
    consumers: dict[str, str],
) -> int:
    connection.execute(
        "INSERT INTO taskq_session (boot, until, pid, bell, audible) VALUES (?, ?, ?, ?, ?)",
        (BOOT, until, pid, bell, audible),
    )
    session = int(connection.execute("SELECT last_insert_rowid()").fetchone()[0])
    _restore_consumers(connection, session, consumers)
    return session


def _hang_bell(connection: sqlite3.Connection, session: int, bell: str, audible: int) -> None:
    connection.execute(
        "UPDATE taskq_session SET bell = ?, audible = ? WHERE id = ?", (bell, audible, session)
    )
    touch(connection)


def _renew(connection: sqlite3.Connection, session: int, until: float) -> int:
    return connection.execute(
        "UPDATE taskq_session SET until = ? WHERE id = ?", (until, session)
    ).rowcount


def _consume(
    connection: sqlite3.Connection, session: int, queue: str, tag: str, now: float
) -> None:
    id = find_queue(connection, queue)
    if id is None:
        id = declare_queue(connection, queue, QueueOptions(), now)
    connection.execute("INSERT OR IGNORE INTO taskq_consumer VALUES (?, ?, ?)", (id, session, tag))
    touch(connection)


def _cancel(connection: sqlite3.Connection, session: int, queue: str, tag: str, now: float) -> None:
    id = find_queue(connection, queue)
    connection.execute(
        "DELETE FROM taskq_consumer WHERE queue = ? AND session = ? AND tag = ?", (id, session, tag)
    )
    connection.execute("UPDATE taskq_queue SET used = ? WHERE id = ?", (now, id))
    touch(connection)
    if id is not None:
        _delete_unused(connection, [id])


def _restore_consumers(
    connection: sqlite3.Connection, session: int, consumers: dict[str, str]
) -> dict[str, int]:
    found: dict[str, int] = {}
    added = 0
    for tag, name in consumers.items():
        queue = find_queue(connection, name)
        if queue is not None:
            found[name] = queue
            added += connection.execute(
                "INSERT OR IGNORE INTO taskq_consumer VALUES (?, ?, ?)", (queue, session, tag)
            ).rowcount
    if added:
        touch(connection)
    return found


def _delete_unused(connection: sqlite3.Connection, queues: Iterable[int]) -> None:
    """Delete those of the queues that end with their last consumer."""
    for queue in queues:
        ends = connection.execute(
            "SELECT 1 FROM taskq_queue WHERE id = ? AND auto_delete "
            "AND NOT EXISTS (SELECT 1 FROM taskq_consumer WHERE queue = ?)",
            (queue, queue),
        ).fetchone()
        if ends:
            delete_queue(connection, queue)


def _bury(connection: sqlite3.Connection, sessions: Sequence[int]) -> tuple[Bells, list[str]]:
    """End sessions, giving back their work; give bells to ring and bells to remove."""
    filled: set[int] = set()
    names: list[str] = []
    for session in sessions:
        row = connection.execute(
            "SELECT bell FROM taskq_session WHERE id = ?", (session,)
        ).fetchone()
        if row is None:
            continue
        names.append(row[0])
        filled.update(put_back_all(connection, session))
        used = connection.execute(
            "SELECT DISTINCT queue FROM taskq_consumer WHERE session = ?", (session,)
        ).fetchall()
        owned = connection.execute(
            "SELECT id FROM taskq_queue WHERE owner = ?", (session,)
        ).fetchall()
        # A queue that expires is unused from now on, not since it was declared.
        connection.execute(
            "UPDATE taskq_queue SET used = ? WHERE expires_s IS NOT NULL "
            "AND id IN (SELECT queue FROM taskq_consumer WHERE session = ?)",
            (time.time(), session),
        )
        connection.execute("DELETE FROM taskq_consumer WHERE session = ?", (session,))
        connection.execute("DELETE FROM taskq_session WHERE id = ?", (session,))
        for row in owned:
            delete_queue(connection, row[0])
        _delete_unused(connection, [row[0] for row in used])
        touch(connection)
    return find_bells(connection, filled), names


def ring_for(database: Database, bells: Iterable[tuple[str, int]]) -> None:
    """Ring these bells; what a dead process left behind is put back to work at once.

    Raises nothing: who would take the stored message for one that was not sent it again.
    """
    try:
        unanswered = ring_all(bells)
        if unanswered:
            _settle_unanswered(database, unanswered)
    except (DatabaseError, OSError) as exc:
        # The bell's owner is dead, or looks at the file by itself.
        logger.warning("%s: could not ring for a message: %s", database.path, exc)


def _settle_unanswered(database: Database, names: Sequence[str]) -> None:
    dead = [name for name in names if is_dead(name)]
    mute = [name for name in names if name not in dead]
    bells = database.write(_drop_bells, dead, mute)
    for name in dead:
        remove(name)
    ring_all(bells)


def _drop_bells(connection: sqlite3.Connection, dead: Sequence[str], mute: Sequence[str]) -> Bells:
    for name in mute:
        connection.execute("UPDATE taskq_session SET audible = 0 WHERE bell = ?", (name,))
    touch(connection)
    ids: list[int] = []
    for name in dead:
        rows = connection.execute("SELECT id FROM taskq_session WHERE bell = ?", (name,))
        ids += [row[0] for row in rows.fetchall()]
    return _bury(connection, ids)[0]


def sweep(database: Database) -> None:
    """Bury sessions that are over, delete queues that expired, remove messages nobody wants."""
    now = time.time()
    rows = database.read("SELECT id, boot, until, bell FROM taskq_session")
    moment = lease_clock()
    over = [
        (id, until)
        for id, boot, until, bell in rows
        if boot != BOOT or until < moment or (bell and is_dead(bell))
    ]
    unused = [row[0] for row in database.read(_UNUSED_QUEUES, (now,))]
    old = _find_old(database, now)
    if over or unused or old:
        bells, names = database.write(_clean, over, unused, old, now)
        for name in names:
            remove(name)
        ring_for(database, bells)
    if over:
        logger.info("%s: gave back the messages of %d ended session(s)", database.path, len(over))


_UNUSED_QUEUES = (
    "SELECT id FROM taskq_queue WHERE expires_s IS NOT NULL AND used + expires_s < ? "
    "AND id NOT IN (SELECT queue FROM taskq_consumer)"
)
_OLD = (
    "SELECT r.queue, r.rank, r.place, r.id FROM taskq_ready r "
    "CROSS JOIN taskq_message m ON m.id = r.id WHERE r.queue "
)
_DEAD = _OLD + "IN (SELECT id FROM taskq_queue WHERE ttl_s IS NOT NULL) AND m.dies < ? LIMIT ?"
_STALE = _OLD + "NOT IN (SELECT queue FROM taskq_consumer) AND m.stale < ? LIMIT ?"


def _find_old(database: Database, now: float) -> list[tuple[int, int, int, int]]:
    found: list[tuple[int, int, int, int]] = []
    for column, query, limit in (("dies", _DEAD, now), ("stale", _STALE, now - STALE_AFTER_S)):
        guard = f"SELECT 1 FROM taskq_message WHERE {column} < ? LIMIT 1"
        if database.read(guard, (limit,)):
            found += database.read(query, (limit, OLD_AT_ONCE))
    return found


def _clean(
    connection: sqlite3.Connection,
    over: Sequence[tuple[int, float]],
    unused: Sequence[int],
    old: Sequence[tuple[int, int, int, int]],
    now: float,
) -> tuple[Bells, list[str]]:
    for queue in unused:
        # Declared or consumed again since we looked: it stays.
        if connection.execute(_UNUSED_QUEUES + " AND id = ?", (now, queue)).fetchone():
            delete_queue(connection, queue)
    for row in old:
        key = "queue = ? AND rank = ? AND place = ? AND id = ?"
        if connection.execute(f"DELETE FROM taskq_ready WHERE {key}", row).rowcount:
            connection.execute("DELETE FROM taskq_message WHERE id = ?", row[3:])
    # One that was renewed since we looked is alive: the dead do not renew.
    query = "SELECT id FROM taskq_session WHERE id = ? AND until = ?"
    dead = [row[0] for row in over if connection.execute(query, row).fetchone()]
    return _bury(connection, dead)


# The sessions of this process and the thread that renews them.

_sessions: weakref.WeakSet[Session] = weakref.WeakSet()
_keeping = threading.Lock()
_changed = threading.Event()
_keeper: threading.Thread | None = None


def _keep(session: Session) -> None:
    global _keeper
    with _keeping:
        _sessions.add(session)
        if _keeper is None:
            _keeper = threading.Thread(target=_keep_leases, name="taskq-leases", daemon=True)
            _keeper.start()
        _changed.set()


def _keep_leases() -> None:
    global _keeper
    while True:
        with _keeping:
            sessions = list(_sessions)
            if not sessions:
                _keeper = None
                return
        _renew_all([session for session in sessions if _find_pause(session) <= 0])
        # Not at once again for one that could not be renewed.
        pause = min(max(_find_pause(session), session.lease_s / 30) for session in sessions)
        # Held here, a session its owner dropped without closing would live for ever.
        del sessions
        _changed.wait(pause)
        _changed.clear()


def _find_pause(session: Session) -> float:
    """Give the seconds until a session is to be renewed."""
    return session.renewed + session.lease_s / 3 - lease_clock()


def _renew_all(sessions: Sequence[Session]) -> None:
    for session in sessions:
        try:
            if session in _sessions:
                session.renew()
                sweep(session.database)
        except (DatabaseError, OSError) as exc:
            # OSError: no descriptor left for a look at bells. This thread must not end by it.
            logger.warning("A lease could not be renewed, trying again soon: %s", exc)


def _close_at_exit() -> None:
    for session in list(_sessions):
        try:
            session.close()
        except DatabaseError as exc:
            logger.warning("A session could not be closed, its lease will end: %s", exc)


def _forget_in_child() -> None:
    global _keeper, _keeping, _changed
    _keeper = None
    _keeping = threading.Lock()
    _changed = threading.Event()
    _sessions.clear()


atexit.register(_close_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
