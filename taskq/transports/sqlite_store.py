"""Messages in the tables: publish, reserve, settle, put back; one transaction each.

A message's bytes are written once, into taskq_message; where it stands (ready, delayed, claimed) is
a small row elsewhere, so that reserving a message of 10 MB costs as little as any other.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from taskq.transports.sqlite_topology import (
    Bells,
    Route,
    Routes,
    find_bells,
    find_route,
    read_version,
)
from taskq.utils.sqlite import Database

_PUBLISH_ONE = "INSERT INTO taskq_publish VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT_MESSAGE = "INSERT INTO taskq_message VALUES (?, ?, ?, ?, ?)"
_INSERT_READY = "INSERT INTO taskq_ready VALUES (?, ?, ?, ?, 0)"
_INSERT_DELAYED = "INSERT INTO taskq_delayed VALUES (?, ?, ?, ?)"
_SELECT_RANKS = "SELECT rank FROM taskq_ready WHERE queue = ? ORDER BY rank, place, id LIMIT ?"
_SELECT_READY = (
    "SELECT r.queue, r.rank, r.place, r.id, r.redelivered, m.head, m.body, m.dies "
    "FROM taskq_ready r LEFT JOIN taskq_message m ON m.id = r.id WHERE r.queue = ? "
    "ORDER BY r.rank, r.place, r.id LIMIT ?"
)
_DELETE_READY = "DELETE FROM taskq_ready WHERE queue = ? AND rank = ? AND place = ? AND id = ?"
_DELETE_MESSAGE = "DELETE FROM taskq_message WHERE id = ?"
_INSERT_CLAIMED = "INSERT INTO taskq_claimed VALUES (?, ?, ?, ?, ?, ?)"
_FIND_CLAIMED = "SELECT queue FROM taskq_claimed WHERE id = ? AND session = ?"
_DELETE_OURS = (
    "DELETE FROM taskq_message "
    "WHERE id = (SELECT id FROM taskq_claimed WHERE id = ? AND session = ?)"
)
_DELETE_CLAIMED = "DELETE FROM taskq_claimed WHERE id = ? AND session = ?"

#: A message that is ready, as _SELECT_READY reads it.
_Ready = tuple[int, int, int, int, int, str | None, bytes, float | None]


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


def publish_one(database: Database, route: Route, message: Outgoing, now: float) -> bool:
    """Store a message for one queue, at once; False when it takes `publish` to do so."""
    if message.due is not None or len(route.queues) != 1:
        return False
    queue, ttl_s = route.queues[0]
    dies = None if ttl_s is None else now + ttl_s
    _, _, rank, _, stale, head, body = message
    row = (route.version, queue, rank, int(now * 1e6), head, body, dies, stale)
    try:
        database.write_one(_PUBLISH_ONE, row)
    except sqlite3.IntegrityError:
        # The topology has changed: nothing was stored.
        return False
    return True


def publish(
    connection: sqlite3.Connection, known: Routes, messages: Iterable[Outgoing], now: float
) -> Routes:
    """Store messages where their exchanges send them; give the routes they have taken."""
    taken: Routes = {}
    stored: list[tuple[int, str, bytes, float | None, float | None]] = []
    ready: list[tuple[int, int, int, int]] = []
    delayed: list[tuple[int, float, int, int]] = []
    version = read_version(connection)
    id = find_free_id(connection, now)
    for exchange, routing_key, rank, due, stale, head, body in messages:
        key = (exchange, routing_key)
        route = taken.get(key)
        if route is None:
            route = known.get(key)
            if route is None or route.version != version:
                route = find_route(connection, exchange, routing_key, now)
            taken[key] = route
        for queue, ttl_s in route.queues:
            dies = None if ttl_s is None else (due or now) + ttl_s
            stored.append((id, head, body, dies, stale))
            if due is None:
                ready.append((queue, rank, id, id))
            else:
                delayed.append((queue, due, id, rank))
            id += 1
    connection.executemany(_INSERT_MESSAGE, stored)
    connection.executemany(_INSERT_READY, ready)
    connection.executemany(_INSERT_DELAYED, delayed)
    return taken


def find_free_id(connection: sqlite3.Connection, now: float) -> int:
    """Give an id that is above all there are; by the clock, so that none comes again."""
    newest = connection.execute("SELECT max(id) FROM taskq_message").fetchone()[0]
    return max(int(now * 1e6), (newest or 0) + 1)


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
    if done and connection.executemany(_DELETE_OURS, done).rowcount != len(done):
        late = [pair[0] for pair in done if not connection.execute(_FIND_CLAIMED, pair).fetchone()]
    connection.executemany(_DELETE_CLAIMED, done)
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
    """Read the messages to take, in their order."""
    order, limit = demand.queues, demand.limit
    if len(order) == 1:
        return connection.execute(_SELECT_READY, (order[0], limit)).fetchall()
    order = _take_turns(connection, demand)
    picked = {
        queue: iter(connection.execute(_SELECT_READY, (queue, order.count(queue))).fetchall())
        for queue in set(order)
    }
    return [next(picked[queue]) for queue in order]


def _take_turns(connection: sqlite3.Connection, demand: Demand) -> list[int]:
    """Give the queues from which the next messages are to be taken, one for each message."""
    # The nth message of each queue and priority belongs to the nth round of that priority.
    turns: list[tuple[int, int, int, int]] = []
    for order, queue in enumerate(demand.queues):
        rounds: dict[int, int] = {}
        for (rank,) in connection.execute(_SELECT_RANKS, (queue, demand.limit)).fetchall():
            number = rounds[rank] = rounds.get(rank, 0) + 1
            turns.append((rank, number, order, queue))
    turns.sort()
    return [entry[3] for entry in turns[: demand.limit]]


def _take(
    connection: sqlite3.Connection, demand: Demand, picked: Sequence[_Ready]
) -> list[Reserved]:
    session, now, unacked = demand.session, demand.now, demand.unacked
    reserved: list[Reserved] = []
    gone: list[tuple[int]] = []
    claims: list[tuple[int, int, int, int, int, int]] = []
    for queue, rank, place, id, redelivered, head, body, dies in picked:
        if head is None:
            continue
        if dies is not None and dies <= now:
            gone.append((id,))
            continue
        reserved.append(Reserved(id, session, queue, redelivered, head, body))
        if queue in unacked:
            gone.append((id,))
        else:
            claims.append((id, session, queue, rank, place, redelivered))
    connection.executemany(_DELETE_READY, [row[:4] for row in picked])
    connection.executemany(_INSERT_CLAIMED, claims)
    connection.executemany(_DELETE_MESSAGE, gone)
    return reserved


def put_back(connection: sqlite3.Connection, taken: Sequence[tuple[int, int]], tries: int) -> Bells:
    """Give messages back to where they stood, at the consuming end; give the bells to ring.

    `taken` holds (message id, session) pairs; `tries` is 1 when a consumer has seen them, else 0.
    """
    queues: set[int] = set()
    for pair in taken:
        row = connection.execute(_FIND_CLAIMED, pair).fetchone()
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


def requeue(connection: sqlite3.Connection, id: int, session: int, now: float) -> Bells | None:
    """Put a rejected message at the end of its queue; None when it was no longer ours."""
    row = connection.execute(_FIND_CLAIMED, (id, session)).fetchone()
    if row is None:
        return None
    # As if it were published now: behind all that is there, before all that will come.
    new = find_free_id(connection, now)
    connection.execute("UPDATE taskq_message SET id = ? WHERE id = ?", (new, id))
    connection.execute(
        "INSERT INTO taskq_ready SELECT queue, rank, ?, ?, redelivered + 1 "
        "FROM taskq_claimed WHERE id = ?",
        (new, new, id),
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
