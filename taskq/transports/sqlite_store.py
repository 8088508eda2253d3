"""Messages in the tables: publish, reserve, settle, put back; one transaction each.

A message's bytes are written once, into taskq_message; where it stands (ready, delayed, claimed) is
a small row elsewhere, so that reserving a message of 10 MB costs as little as any other.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from taskq.transports.sqlite_topology import Bells, Routes, find_bells

_INSERT_MESSAGE = "INSERT INTO taskq_message (head, body, dies, stale) VALUES (?, ?, ?, ?)"
_INSERT_READY = "INSERT INTO taskq_ready VALUES (?, ?, last_insert_rowid(), last_insert_rowid(), 0)"
_INSERT_DELAYED = "INSERT INTO taskq_delayed VALUES (?, ?, last_insert_rowid(), ?)"
_SELECT_READY = (
    "SELECT rank, place, id, redelivered, queue FROM taskq_ready WHERE queue = ? "
    "ORDER BY rank, place, id LIMIT ?"
)
_SELECT_MESSAGE = "SELECT head, body, dies FROM taskq_message WHERE id = ?"
_DELETE_READY = "DELETE FROM taskq_ready WHERE queue = ? AND rank = ? AND place = ? AND id = ?"
_DELETE_MESSAGE = "DELETE FROM taskq_message WHERE id = ?"
_INSERT_CLAIMED = "INSERT INTO taskq_claimed VALUES (?, ?, ?, ?, ?, ?)"
_DELETE_CLAIMED = "DELETE FROM taskq_claimed WHERE id = ? AND session = ?"

#: A row of taskq_ready as read: (rank, place, id, redelivered, queue).
_Ready = tuple[int, int, int, int, int]


class Outgoing(NamedTuple):
    """A message on its way into the tables."""

    exchange: str
    routing_key: str
    rank: int  #: 9 - priority
    due: float | None  #: seconds since the epoch before which nobody may have it
    stale: float | None  #: seconds since the epoch from which nobody wants it any more
    head: str
    body: bytes


class Reserved(NamedTuple):
    """A message taken out for one consumer."""

    id: int
    session: int
    queue: int
    redelivered: int  #: how often it was put back
    head: str
    body: bytes


class Turn(NamedTuple):
    """What a turn brought."""

    late: list[int]  #: ids of messages that were no longer ours when their ack came
    reserved: list[Reserved]
    due: float | None  #: when the next delayed message is, if fewer were reserved than wanted


class Demand(NamedTuple):
    """What a channel wants to have reserved."""

    session: int
    queues: Sequence[int]  #: in the order of their turns
    unacked: frozenset[int]  #: those of the queues whose messages are gone once delivered
    limit: int
    now: float


def publish(
    connection: sqlite3.Connection, routes: Routes, messages: Iterable[Outgoing], now: float
) -> set[Bells]:
    """Store messages where their exchanges send them; give the bells to ring afterwards."""
    bells: set[Bells] = set()
    execute = connection.execute
    known = routes.refresh(connection)
    for message in messages:
        exchange, routing_key, rank, due, stale, head, body = message
        route = known.get((exchange, routing_key))
        if route is None:
            route = routes.find(connection, exchange, routing_key, now)
        for queue, ttl_s in route.queues:
            dies = None if ttl_s is None else (due or now) + ttl_s
            execute(_INSERT_MESSAGE, (head, body, dies, stale))
            if due is None:
                execute(_INSERT_READY, (queue, rank))
            else:
                execute(_INSERT_DELAYED, (queue, due, rank))
        bells.add(route.bells)
    return bells


def turn(
    connection: sqlite3.Connection, done: Sequence[tuple[int, int]], demand: Demand | None
) -> Turn:
    """End one turn of a consumer: settle what is done, reserve what is wanted.

    `done` holds (message id, session) pairs.
    """
    late = settle(connection, done)
    if demand is None:
        return Turn(late, [], None)
    reserved = reserve(connection, demand)
    due = None
    if len(reserved) < demand.limit:
        due = connection.execute(build_due_query(demand.queues)).fetchone()[0]
    return Turn(late, reserved, due)


def build_due_query(queues: Iterable[int]) -> str:
    """Give the query for the moment at which the next delayed message of these queues is due."""
    marks = ",".join(map(str, queues))
    return (
        "SELECT min((SELECT min(due) FROM taskq_delayed d WHERE d.queue = q.id)) "
        f"FROM taskq_queue q WHERE q.id IN ({marks})"
    )


def build_ready_query(queues: Iterable[int]) -> str:
    """Give the query for the topology's version, whether there is a message, when one is due."""
    queues = list(queues)
    marks = ",".join(map(str, queues))
    return (
        "SELECT (SELECT version FROM taskq_topology), "
        f"EXISTS (SELECT 1 FROM taskq_ready WHERE queue IN ({marks})), "
        f"({build_due_query(queues)})"
    )


def settle(connection: sqlite3.Connection, done: Sequence[tuple[int, int]]) -> list[int]:
    """Remove messages that were acked (or dropped); give the ids that were no longer ours."""
    late: list[int] = []
    for pair in done:
        if connection.execute(_DELETE_CLAIMED, pair).rowcount:
            connection.execute(_DELETE_MESSAGE, pair[:1])
        else:
            late.append(pair[0])
    return late


def reserve(connection: sqlite3.Connection, demand: Demand) -> list[Reserved]:
    """Take up to `limit` messages: highest priority first, the queues in turn, oldest first."""
    for queue in demand.queues:
        _promote_due(connection, queue, demand.now)
    while True:
        picked = _pick(connection, demand)
        if not picked:
            return []
        reserved = _take(connection, demand, picked)
        # All that were picked may have outlived their time to live: look for younger ones.
        if reserved:
            return reserved


def get_one(connection: sqlite3.Connection, demand: Demand) -> Reserved | None:
    """Take one message without consuming; that counts as use of a queue that expires."""
    connection.execute(
        "UPDATE taskq_queue SET used = ? WHERE id = ? AND expires_s IS NOT NULL",
        (demand.now, demand.queues[0]),
    )
    reserved = reserve(connection, demand)
    return reserved[0] if reserved else None


def _promote_due(connection: sqlite3.Connection, queue: int, now: float) -> None:
    row = connection.execute(
        "SELECT min(due) FROM taskq_delayed WHERE queue = ?", (queue,)
    ).fetchone()
    if row[0] is not None and row[0] <= now:
        connection.execute(
            "INSERT INTO taskq_ready SELECT queue, rank, id, id, 0 FROM taskq_delayed "
            "WHERE queue = ? AND due <= ?",
            (queue, now),
        )
        connection.execute("DELETE FROM taskq_delayed WHERE queue = ? AND due <= ?", (queue, now))


def _pick(connection: sqlite3.Connection, demand: Demand) -> list[_Ready]:
    limit = demand.limit
    found = [
        rows
        for queue in demand.queues
        if (rows := connection.execute(_SELECT_READY, (queue, limit)).fetchall())
    ]
    if len(found) < 2:
        return found[0] if found else []
    # The nth message of each queue and priority belongs to the nth round of that priority.
    turns: list[tuple[int, int, int, _Ready]] = []
    for order, rows in enumerate(found):
        rounds: dict[int, int] = {}
        for row in rows:
            number = rounds[row[0]] = rounds.get(row[0], 0) + 1
            turns.append((row[0], number, order, row))
    turns.sort(key=lambda entry: entry[:3])
    return [entry[3] for entry in turns[:limit]]


def _take(
    connection: sqlite3.Connection, demand: Demand, picked: Sequence[_Ready]
) -> list[Reserved]:
    session, now, unacked = demand.session, demand.now, demand.unacked
    reserved: list[Reserved] = []
    gone: list[tuple[int]] = []
    claims: list[tuple[int, int, int, int, int, int]] = []
    for rank, place, id, redelivered, queue in picked:
        row = connection.execute(_SELECT_MESSAGE, (id,)).fetchone()
        if row is None:
            continue
        head, body, dies = row
        if dies is not None and dies <= now:
            gone.append((id,))
            continue
        reserved.append(Reserved(id, session, queue, redelivered, head, body))
        if queue in unacked:
            gone.append((id,))
        else:
            claims.append((id, session, queue, rank, place, redelivered))
    connection.executemany(_DELETE_READY, [(row[4], *row[:3]) for row in picked])
    connection.executemany(_INSERT_CLAIMED, claims)
    connection.executemany(_DELETE_MESSAGE, gone)
    return reserved


def put_back(connection: sqlite3.Connection, taken: Sequence[tuple[int, int]], tries: int) -> Bells:
    """Give messages back to where they stood, at the consuming end; give the bells to ring.

    `taken` holds (message id, session) pairs; `tries` is 1 when a consumer has seen them, else 0.
    """
    queues: set[int] = set()
    for pair in taken:
        row = connection.execute(
            "SELECT queue FROM taskq_claimed WHERE id = ? AND session = ?", pair
        ).fetchone()
        if row is None:
            continue
        queues.add(row[0])
        connection.execute(
            "INSERT INTO taskq_ready SELECT queue, rank, place, id, redelivered + ? "
            "FROM taskq_claimed WHERE id = ?",
            (tries, pair[0]),
        )
        connection.execute(_DELETE_CLAIMED, pair)
    return find_bells(connection, queues)


def put_back_all(connection: sqlite3.Connection, session: int) -> list[int]:
    """Give back everything a session has reserved; give the queues concerned."""
    rows = connection.execute(
        "SELECT DISTINCT queue FROM taskq_claimed WHERE session = ?", (session,)
    ).fetchall()
    if rows:
        connection.execute(
            "INSERT INTO taskq_ready SELECT queue, rank, place, id, redelivered + 1 "
            "FROM taskq_claimed WHERE session = ?",
            (session,),
        )
        connection.execute("DELETE FROM taskq_claimed WHERE session = ?", (session,))
    return [row[0] for row in rows]


def requeue(connection: sqlite3.Connection, id: int, session: int) -> Bells | None:
    """Put a rejected message at the end of its queue; None when it was no longer ours."""
    row = connection.execute(
        "SELECT queue FROM taskq_claimed WHERE id = ? AND session = ?", (id, session)
    ).fetchone()
    if row is None:
        return None
    # One past the newest id: behind all that is there, before all that will come.
    connection.execute(
        "INSERT INTO taskq_ready SELECT queue, rank, "
        "(SELECT seq + 1 FROM sqlite_sequence WHERE name = 'taskq_message'), id, redelivered + 1 "
        "FROM taskq_claimed WHERE id = ?",
        (id,),
    )
    connection.execute(_DELETE_CLAIMED, (id, session))
    return find_bells(connection, (row[0],))


def delay(connection: sqlite3.Connection, id: int, session: int, due: float) -> Bells | None:
    """Put a message back for nobody to have before `due`; None when it was no longer ours."""
    row = connection.execute(
        "SELECT queue, ?, id, rank FROM taskq_claimed WHERE id = ? AND session = ?",
        (due, id, session),
    ).fetchone()
    if row is None:
        return None
    connection.execute("INSERT INTO taskq_delayed VALUES (?, ?, ?, ?)", row)
    connection.execute(_DELETE_CLAIMED, (id, session))
    return find_bells(connection, (row[0],))


def list_delayed(connection: sqlite3.Connection, queue: int) -> list[tuple[float, str, bytes]]:
    """Give (due, head, body) of what waits in a queue for its time, the next one first."""
    return connection.execute(
        "SELECT d.due, m.head, m.body FROM taskq_delayed d JOIN taskq_message m ON m.id = d.id "
        "WHERE d.queue = ? ORDER BY d.due, d.id",
        (queue,),
    ).fetchall()


def release_delayed(connection: sqlite3.Connection, queue: int) -> tuple[int, Bells]:
    """Put all that waits into the queue now; give the number of messages, and whom to ring."""
    query = "SELECT count(*) FROM taskq_delayed WHERE queue = ?"
    number: int = connection.execute(query, (queue,)).fetchone()[0]
    _promote_due(connection, queue, float("inf"))
    return number, find_bells(connection, (queue,))


def count(connection: sqlite3.Connection, queue: int) -> tuple[int, int]:
    """Give the number of messages waiting in a queue (delayed ones too) and of its consumers."""
    row = connection.execute(
        "SELECT (SELECT count(*) FROM taskq_ready WHERE queue = :queue) "
        "+ (SELECT count(*) FROM taskq_delayed WHERE queue = :queue), "
        "(SELECT count(*) FROM taskq_consumer WHERE queue = :queue)",
        {"queue": queue},
    ).fetchone()
    return row[0], row[1]
