"""Exchanges, queues, bindings and who consumes: the broker's tables that route a message.

Every function here changes or reads inside a transaction its caller opened (Database.write). Each
change raises the topology's version, by which other processes notice that what they remember of
routes and queues is old.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from kombu.exceptions import ChannelError

#: Routes remembered at most, per process and file.
MOST_ROUTES = 10_000

SCHEMA: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE taskq_topology (version INTEGER NOT NULL)",
        # Random: a file made anew must not look like the one that was removed.
        "INSERT INTO taskq_topology VALUES (abs(random() % 1000000000))",
        """CREATE TABLE taskq_exchange (
            name TEXT PRIMARY KEY, type TEXT NOT NULL, auto_delete INTEGER NOT NULL)""",
        # owner: the session an exclusive queue ends with. expires_s and ttl_s in seconds; used:
        # when it last had a consumer or was declared, in seconds since the epoch.
        """CREATE TABLE taskq_queue (
            id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
            auto_delete INTEGER NOT NULL, owner INTEGER, expires_s REAL, ttl_s REAL,
            used REAL NOT NULL)""",
        """CREATE TABLE taskq_binding (
            exchange TEXT NOT NULL, routing_key TEXT NOT NULL, queue INTEGER NOT NULL,
            PRIMARY KEY (exchange, routing_key, queue)) WITHOUT ROWID""",
        # A connection that consumes. until: when its lease ends, by the machine's lease clock.
        """CREATE TABLE taskq_session (
            id INTEGER PRIMARY KEY AUTOINCREMENT, boot TEXT NOT NULL, until REAL NOT NULL,
            pid INTEGER NOT NULL, bell TEXT NOT NULL, audible INTEGER NOT NULL)""",
        """CREATE TABLE taskq_consumer (
            queue INTEGER NOT NULL, session INTEGER NOT NULL, tag TEXT NOT NULL,
            PRIMARY KEY (queue, session, tag)) WITHOUT ROWID""",
        """CREATE TABLE taskq_message (
            id INTEGER PRIMARY KEY AUTOINCREMENT, head TEXT NOT NULL, body BLOB NOT NULL,
            dies REAL, stale REAL)""",
        "CREATE INDEX taskq_message_dies ON taskq_message (dies) WHERE dies IS NOT NULL",
        "CREATE INDEX taskq_message_stale ON taskq_message (stale) WHERE stale IS NOT NULL",
        # The queues: small rows, so that reserving never rewrites a message. rank: 9 - priority.
        """CREATE TABLE taskq_ready (
            queue INTEGER NOT NULL, rank INTEGER NOT NULL, place INTEGER NOT NULL,
            id INTEGER NOT NULL, redelivered INTEGER NOT NULL,
            PRIMARY KEY (queue, rank, place, id)) WITHOUT ROWID""",
        """CREATE TABLE taskq_delayed (
            queue INTEGER NOT NULL, due REAL NOT NULL, id INTEGER NOT NULL, rank INTEGER NOT NULL,
            PRIMARY KEY (queue, due, id)) WITHOUT ROWID""",
        """CREATE TABLE taskq_claimed (
            id INTEGER PRIMARY KEY, session INTEGER NOT NULL, queue INTEGER NOT NULL,
            rank INTEGER NOT NULL, place INTEGER NOT NULL, redelivered INTEGER NOT NULL)""",
        "INSERT INTO taskq_exchange VALUES ('amq.direct', 'direct', 0)",
        "INSERT INTO taskq_exchange VALUES ('amq.topic', 'topic', 0)",
        "INSERT INTO taskq_exchange VALUES ('amq.fanout', 'fanout', 0)",
    ),
    (
        # id: when it was published, in microseconds since the epoch, or one more than the newest.
        # So the ids rise and do not come again without a counter, which every message would write.
        """CREATE TABLE taskq_message_2 (
            id INTEGER PRIMARY KEY, head TEXT NOT NULL, body BLOB NOT NULL,
            dies REAL, stale REAL)""",
        "INSERT INTO taskq_message_2 SELECT id, head, body, dies, stale FROM taskq_message",
        "DROP TABLE taskq_message",
        "ALTER TABLE taskq_message_2 RENAME TO taskq_message",
        "CREATE INDEX taskq_message_dies ON taskq_message (dies) WHERE dies IS NOT NULL",
        "CREATE INDEX taskq_message_stale ON taskq_message (stale) WHERE stale IS NOT NULL",
        # What is inserted here becomes a message in a queue, by one statement instead of five;
        # version: of the topology in which the queue was found, which must be that of now.
        """CREATE VIEW taskq_publish AS
            SELECT 0 AS version, 0 AS queue, 0 AS rank, id AS moment, head, body, dies, stale
            FROM taskq_message""",
        """CREATE TRIGGER taskq_publishing INSTEAD OF INSERT ON taskq_publish BEGIN
            SELECT RAISE(ABORT, 'old route')
            WHERE NEW.version <> (SELECT version FROM taskq_topology);
            INSERT INTO taskq_message VALUES (
                max(NEW.moment, coalesce((SELECT max(id) + 1 FROM taskq_message), 0)),
                NEW.head, NEW.body, NEW.dies, NEW.stale);
            INSERT INTO taskq_ready
            VALUES (NEW.queue, NEW.rank, last_insert_rowid(), last_insert_rowid(), 0);
            END""",
    ),
)

#: Bells of the consumers of a queue: their socket's path, and whether others can ring it.
Bells = tuple[tuple[str, int], ...]


class QueueOptions(NamedTuple):
    """What a queue was declared with, as far as the tables act on it."""

    auto_delete: bool = False
    owner: int | None = None
    expires_s: float | None = None
    ttl_s: float | None = None


class Route(NamedTuple):
    """Where one exchange sends one routing key."""

    queues: tuple[tuple[int, float | None], ...]  #: (queue id, seconds a message lives)
    bells: Bells
    version: int  #: the topology's version; the route holds while that is the same


#: Routes by (exchange, routing key).
Routes = dict[tuple[str, str], Route]


def find_route(
    connection: sqlite3.Connection, exchange: str, routing_key: str, now: float
) -> Route:
    """Give the route of now; a queue named through '' is made when it is missing."""
    if not exchange:
        queue = find_queue(connection, routing_key)
        if queue is None:
            queue = declare_queue(connection, routing_key, QueueOptions(), now)
        queues = [queue]
    else:
        queues = match_queues(connection, exchange, routing_key)
    marks = ",".join(map(str, queues))
    rows = connection.execute(
        f"SELECT id, ttl_s FROM taskq_queue WHERE id IN ({marks}) ORDER BY id"
    ).fetchall()
    return Route(tuple(rows), find_bells(connection, queues), read_version(connection))


def remember_routes(known: Routes, found: Routes) -> None:
    """Keep routes for later; only once the transaction that found them has been stored.

    Before, they may name a queue that is made in a change which is undone yet.
    """
    if len(known) > MOST_ROUTES:
        known.clear()
    known.update(found)


def read_version(connection: sqlite3.Connection) -> int:
    """Give the number that changes with every change of queues, bindings or consumers."""
    return int(connection.execute("SELECT version FROM taskq_topology").fetchone()[0])


def touch(connection: sqlite3.Connection) -> None:
    """Tell every process that what it remembers of the topology is old."""
    connection.execute("UPDATE taskq_topology SET version = version + 1")


def declare_exchange(
    connection: sqlite3.Connection, name: str, kind: str, auto_delete: bool
) -> None:
    """Make an exchange; it may exist, with the same type."""
    existing = find_exchange(connection, name)
    if existing is None:
        connection.execute(
            "INSERT INTO taskq_exchange VALUES (?, ?, ?)", (name, kind, int(auto_delete))
        )
        touch(connection)
    elif existing != kind:
        raise ChannelError(
            f"PRECONDITION_FAILED - exchange {name!r} exists with type {existing!r}, cannot "
            f"become {kind!r}; delete it first or use another name",
            (40, 10),
            "Channel.exchange_declare",
            "406",
        )


def find_exchange(connection: sqlite3.Connection, name: str) -> str | None:
    """Give the type of an exchange, None when there is no such."""
    row = connection.execute("SELECT type FROM taskq_exchange WHERE name = ?", (name,)).fetchone()
    return row[0] if row else None


def delete_exchange(connection: sqlite3.Connection, name: str, if_unused: bool) -> None:
    """Remove an exchange and its bindings; the queues stay."""
    used = connection.execute("SELECT 1 FROM taskq_binding WHERE exchange = ?", (name,)).fetchone()
    if if_unused and used:
        return
    connection.execute("DELETE FROM taskq_binding WHERE exchange = ?", (name,))
    connection.execute("DELETE FROM taskq_exchange WHERE name = ?", (name,))
    touch(connection)


def find_queue(connection: sqlite3.Connection, name: str) -> int | None:
    """Give the id of a queue, None when there is no such."""
    row = connection.execute("SELECT id FROM taskq_queue WHERE name = ?", (name,)).fetchone()
    return row[0] if row else None


def declare_queue(
    connection: sqlite3.Connection, name: str, options: QueueOptions, now: float
) -> int:
    """Make a queue or take over its new expiry and time to live; give its id."""
    queue = find_queue(connection, name)
    expires_s, ttl_s = options.expires_s, options.ttl_s
    if queue is not None:
        connection.execute("UPDATE taskq_queue SET used = ? WHERE id = ?", (now, queue))
        changed = connection.execute(
            "UPDATE taskq_queue SET expires_s = ?, ttl_s = ? "
            "WHERE id = ? AND (expires_s IS NOT ? OR ttl_s IS NOT ?)",
            (expires_s, ttl_s, queue, expires_s, ttl_s),
        )
        if changed.rowcount:
            touch(connection)
        return queue
    connection.execute(
        "INSERT INTO taskq_queue (name, auto_delete, owner, expires_s, ttl_s, used) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (name, int(options.auto_delete), options.owner, expires_s, ttl_s, now),
    )
    touch(connection)
    return int(connection.execute("SELECT last_insert_rowid()").fetchone()[0])


def bind(connection: sqlite3.Connection, queue: int, exchange: str, routing_key: str) -> None:
    """Let an exchange send messages with this key to a queue."""
    added = connection.execute(
        "INSERT OR IGNORE INTO taskq_binding VALUES (?, ?, ?)", (exchange, routing_key, queue)
    )
    if added.rowcount:
        touch(connection)


def unbind(connection: sqlite3.Connection, queue: int, exchange: str, routing_key: str) -> None:
    """Take a binding back."""
    connection.execute(
        "DELETE FROM taskq_binding WHERE exchange = ? AND routing_key = ? AND queue = ?",
        (exchange, routing_key, queue),
    )
    _delete_unbound_exchanges(connection, [exchange])
    touch(connection)


def delete_queue(connection: sqlite3.Connection, queue: int) -> None:
    """Remove a queue with all its messages, bindings and consumers."""
    purge(connection, queue)
    connection.execute(
        "DELETE FROM taskq_message WHERE id IN (SELECT id FROM taskq_claimed WHERE queue = ?)",
        (queue,),
    )
    connection.execute("DELETE FROM taskq_claimed WHERE queue = ?", (queue,))
    rows = connection.execute(
        "SELECT DISTINCT exchange FROM taskq_binding WHERE queue = ?", (queue,)
    ).fetchall()
    connection.execute("DELETE FROM taskq_binding WHERE queue = ?", (queue,))
    connection.execute("DELETE FROM taskq_consumer WHERE queue = ?", (queue,))
    connection.execute("DELETE FROM taskq_queue WHERE id = ?", (queue,))
    _delete_unbound_exchanges(connection, [row[0] for row in rows])
    touch(connection)


def _delete_unbound_exchanges(connection: sqlite3.Connection, names: Iterable[str]) -> None:
    for name in names:
        connection.execute(
            "DELETE FROM taskq_exchange WHERE name = ? AND auto_delete "
            "AND NOT EXISTS (SELECT 1 FROM taskq_binding WHERE exchange = ?)",
            (name, name),
        )


def purge(connection: sqlite3.Connection, queue: int) -> int:
    """Remove all messages nobody has reserved, delayed ones too; give their number."""
    removed = 0
    for table in ("taskq_ready", "taskq_delayed"):
        connection.execute(
            f"DELETE FROM taskq_message WHERE id IN (SELECT id FROM {table} WHERE queue = ?)",
            (queue,),
        )
        removed += connection.execute(f"DELETE FROM {table} WHERE queue = ?", (queue,)).rowcount
    return removed


def list_bindings(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """Give all bindings as (queue, exchange, routing key)."""
    return connection.execute(
        "SELECT q.name, b.exchange, b.routing_key FROM taskq_binding b "
        "JOIN taskq_queue q ON q.id = b.queue ORDER BY 2, 3, 1"
    ).fetchall()


def match_queues(connection: sqlite3.Connection, exchange: str, routing_key: str) -> list[int]:
    """Give the ids of the queues an exchange sends this key to."""
    kind = find_exchange(connection, exchange)
    if kind is None:
        raise ChannelError(
            f"NOT_FOUND - no exchange {exchange!r}; declare it before publishing to it",
            (60, 40),
            "Channel.basic_publish",
            "404",
        )
    rows: Sequence[Any] = connection.execute(
        "SELECT routing_key, queue FROM taskq_binding WHERE exchange = ?", (exchange,)
    ).fetchall()
    if kind == "direct":
        rows = [row for row in rows if row[0] == routing_key]
    elif kind == "topic":
        rows = [row for row in rows if build_pattern(row[0]).fullmatch("." + routing_key)]
    return sorted({row[1] for row in rows})


def build_pattern(binding_key: str) -> re.Pattern[str]:
    """Give what a topic binding matches, in keys with a dot put in front of them."""
    words = {"*": r"\.[^.]+", "#": r"(?:\.[^.]*)*"}
    return re.compile(
        "".join(words.get(word, r"\." + re.escape(word)) for word in binding_key.split("."))
    )


def find_bells(connection: sqlite3.Connection, queues: Iterable[int]) -> Bells:
    """Give the bells of all who consume from these queues."""
    marks = ",".join(map(str, queues))
    rows = connection.execute(
        "SELECT DISTINCT s.bell, s.audible FROM taskq_consumer c "
        f"JOIN taskq_session s ON s.id = c.session WHERE c.queue IN ({marks})"
    ).fetchall()
    return tuple(rows)
