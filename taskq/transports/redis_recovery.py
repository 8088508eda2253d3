"""Puts messages back into their lists: a worker's own, those of dead workers, those of kombu peers.

Candidates are read, decoded and marked as redelivered here; then one script moves those that
nobody has touched meanwhile.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kombu.utils.json import dumps, loads

from taskq.transports.redis_line import Line
from taskq.transports.redis_scripts import GIVE_BACK, MOVE
from taskq.utils.log import get_logger

if TYPE_CHECKING:
    from taskq.transports.redis_channel import ReservingChannel

__all__ = ("Keys", "Recovery")

logger = get_logger(__name__)

#: Messages moved at most in one step, so that others need not wait long.
AT_ONCE = 50

#: Seconds a dead worker is still looked at: a wait of its may be answered late.
GRACE_S = 600.0


class Keys(NamedTuple):
    """Names of the keys this transport keeps, with the user's prefix."""

    prefix: str
    unacked: str
    scores: str

    @property
    def workers(self) -> str:
        """Hash of all workers: id -> the lists it consumes from, as JSON."""
        return f"{self.prefix}taskq.workers"

    def worker(self, id: str) -> str:
        """Lease of a worker."""
        return f"{self.prefix}taskq.worker.{id}"

    def inflight(self, id: str, name: str) -> str:
        """Where what a waiting worker was given from a list lies until it is reserved."""
        return f"{self.prefix}taskq.worker.{id}:inflight:{name}"

    def delayed(self, name: str) -> tuple[str, str]:
        """Give where messages of a list wait for their time: tags by moment, messages by tag."""
        return f"{self.prefix}taskq.delayed.{name}", f"{self.prefix}taskq.delayed:messages.{name}"

    def delayed_triples(self, names: Iterable[str]) -> list[str]:
        """Give both of these and the list, by turns."""
        return [key for name in names for key in (*self.delayed(name), self.prefix + name)]

    def list_pairs(self, id: str, names: Iterable[str]) -> list[str]:
        """Give list and in-flight list by turns."""
        return [key for name in names for key in (self.prefix + name, self.inflight(id, name))]


class Recovery:
    """Puts messages back, over a connection of its own."""

    def __init__(self, line: Line, keys: Keys, channel: ReservingChannel) -> None:
        self.line, self.keys = line, keys
        #: Knows lists, priorities and bindings.
        self.channel = channel

    def put_back(
        self,
        tags: Collection[str],
        worker: str = "",
        command: str = "RPUSH",
        unmarked: Collection[str] = (),
    ) -> list[str]:
        """Put messages back, oldest to be consumed first; gives the tags that were moved.

        `worker` is the key of a lease that must have ended. `unmarked` were not delivered.
        """
        moved: list[str] = []
        for batch in _split(sorted(tags, key=_order, reverse=True)):
            found = self.line.ask(
                ("HMGET", self.keys.unacked, *batch), ("ZMSCORE", self.keys.scores, *batch)
            )
            lists: dict[str, int] = {}
            arguments: list[Any] = []
            for tag, copy, score in zip(batch, *found, strict=True):
                if score is None:
                    continue
                names, message = self._read(tag, copy, tag not in unmarked)
                places = [
                    lists.setdefault(self.keys.prefix + name, len(lists) + 1) for name in names
                ]
                # All but the last are copies: the last one ends the message's time in `unacked`.
                for place in [-place for place in places[:-1]] + (places[-1:] or [0]):
                    arguments += [tag, repr(float(score)), place, command, message]
            if arguments:
                keys = [self.keys.unacked, self.keys.scores, worker, *lists]
                moved += map(bytes.decode, self.line.run(MOVE, keys, arguments))
        return moved

    def _read(self, tag: str, copy: bytes | None, mark: bool) -> tuple[list[str], bytes | str]:
        """Give the lists a stored message belongs to, and the message as it goes back."""
        if copy is None:
            return [], b""
        try:
            payload, exchange, routing_key = loads(copy)
            names = self.channel.find_lists(payload, exchange, routing_key, self.line)
        except (ValueError, TypeError, LookupError, AttributeError) as exc:
            # What some program has stored there must not keep the others from coming back.
            if ":" not in tag:
                logger.critical("A message could not be put back, it is lost: %r (%s)", copy, exc)
                return [], b""
            raw, _, queue = copy[1:].rpartition(b', "", ')
            return [json.loads(b"[" + queue)[0]], raw
        if not mark:
            return names, copy[1:].rpartition(b', "", ')[0]
        try:
            payload["headers"]["redelivered"] = True
            payload["properties"]["delivery_info"]["redelivered"] = True
        except (KeyError, TypeError):
            pass
        return names, dumps(payload)

    def give_back(self, id: str, names: Iterable[str], worker: str = "") -> None:
        """Put what lies in in-flight lists back to the consuming end of their lists."""
        self.line.run(GIVE_BACK, [worker, *self.keys.list_pairs(id, names)], [])

    def find_tags(self, id: str) -> list[str]:
        """Give all tags of a worker."""
        found: list[str] = []
        cursor: Any = 0
        while True:
            cursor, pairs = self.line.ask(
                ("ZSCAN", self.keys.scores, cursor, "MATCH", f"{id}:*", "COUNT", 1000)
            )[0]
            # Flat, or in pairs: as the protocol has it.
            members = [pair[0] for pair in pairs] if _has_pairs(pairs) else pairs[::2]
            found += map(bytes.decode, members)
            if int(cursor) == 0:
                return found

    # -- others

    def sweep(self, own: str) -> None:
        """Put back what dead workers held, at once when their lease has ended."""
        entries = _as_dict(self.line.ask(("HGETALL", self.keys.workers))[0])
        ids = [field.decode() for field in entries if field.decode().lstrip("~") != own]
        if not ids:
            return
        alive = self.line.ask(*[("EXISTS", self.keys.worker(id.lstrip("~"))) for id in ids])
        for id, is_alive in zip(ids, alive, strict=True):
            if not is_alive:
                facts = json.loads(entries[id.encode()])
                if id.startswith("~"):
                    self._look_again(id, facts)
                else:
                    self.bury(id, facts)

    def bury(self, id: str, names: list[str], worker: str | None = None) -> None:
        """Put back all a worker held, and remember for a while that it was there."""
        lease = self.keys.worker(id) if worker is None else worker
        self.give_back(id, names, lease)
        moved = self.put_back(self.find_tags(id), lease)
        self.line.ask(
            ("HDEL", self.keys.workers, id),
            ("HSET", self.keys.workers, f"~{id}", json.dumps([time.time(), names])),
        )
        if moved:
            logger.info("Put back %d message(s) of worker %s, which is gone", len(moved), id)

    def _look_again(self, field: str, facts: list[Any]) -> None:
        buried, names = facts
        id = field[1:]
        lease = self.keys.worker(id)
        self.give_back(id, names, lease)
        # It may have been alive when it was buried, only late, and have died since.
        self.put_back(self.find_tags(id), lease)
        if abs(time.time() - buried) > GRACE_S:
            self.line.ask(("HDEL", self.keys.workers, field))

    def sweep_scores(self, timeout_s: float) -> None:
        """Put back what nobody has renewed for `timeout_s`: kombu peers know nothing else."""
        seconds, micros = self.line.ask(("TIME",))[0]
        limit = int(seconds) + int(micros) / 1e6 - timeout_s
        found = self.line.ask(
            ("ZRANGE", self.keys.scores, "-inf", repr(limit), "BYSCORE", "LIMIT", 0, 1000)
        )[0]
        tags = list(map(bytes.decode, found))
        if tags:
            # A living worker's are its own, whatever the score: it may be about to renew it.
            owners = self.line.ask(
                *[("EXISTS", self.keys.worker(tag.partition(":")[0])) for tag in tags]
            )
            self.put_back([tag for tag, is_alive in zip(tags, owners, strict=True) if not is_alive])


def _split(tags: Sequence[str]) -> Iterable[Sequence[str]]:
    return (tags[start : start + AT_ONCE] for start in range(0, len(tags), AT_ONCE))


def _order(tag: str) -> tuple[str, int, int]:
    """Sort tags of one worker as they were reserved."""
    id, _, rest = tag.partition(":")
    call, _, number = rest.partition(":")
    return (id, int(call), int(number)) if number.isdigit() and call.isdigit() else (tag, 0, 0)


def _has_pairs(reply: Any) -> bool:
    return bool(reply) and isinstance(reply[0], (list, tuple))


def _as_dict(reply: Any) -> dict[bytes, bytes]:
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
