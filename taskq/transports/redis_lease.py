"""A worker as Redis knows it: its lease, kept alive by a thread with a connection of its own.

What a worker has reserved belongs to it while the key of its lease lives. So a long task is never
delivered twice, whatever the loop of its worker does, and a dead worker's tasks come back soon.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from taskq.transports.redis_line import Line
from taskq.transports.redis_recovery import Keys, Recovery
from taskq.transports.redis_scripts import KEEP
from taskq.utils.log import get_logger

if TYPE_CHECKING:
    from taskq.transports.redis_channel import ReservingChannel

__all__ = ("Session",)

logger = get_logger(__name__)

#: Seconds between looks for dead workers, at most.
SWEEP_S = 10.0

#: Seconds between renewals of scores, and looks at scores of others, at most.
SCORES_S = 60.0


class Session:
    """One consuming connection: its id, its lease, what is held under it."""

    def __init__(
        self, channel: ReservingChannel, keys: Keys, lease_s: float, visibility_s: float
    ) -> None:
        self.id = secrets.token_hex(8)
        self.pid = os.getpid()
        self.keys = keys
        self.lease_s = min(lease_s, visibility_s)
        self.visibility_s = visibility_s
        #: Seconds after a renewal in which our tags are ours without a look.
        self.fresh_s = self.lease_s * 2 / 3
        #: Changed when a call was lost: a script of before then does nothing any more.
        self.epoch = 1
        self.calls = 0
        #: The tags each channel holds.
        self.holders: list[dict[str, Any]] = []
        #: Tags that were put back by somebody else.
        self.gone: set[str] = set()
        #: The lists consumed from, without prefix.
        self.names: list[str] = []
        #: Acks that could not be sent yet.
        self.unsent: list[str] = []
        #: True when something may lie in Redis under our id that we do not know of.
        self.is_torn = False
        timeout = max(self.lease_s / 3, 1.0)
        own = channel.pool.connection_kwargs
        self.recovery = Recovery(
            Line(
                channel.pool,
                # A renewal that hangs is a renewal that was missed.
                socket_timeout=own.get("socket_timeout") or timeout,
                socket_connect_timeout=own.get("socket_connect_timeout") or timeout,
            ),
            keys,
            channel,
        )
        self.line = self.recovery.line
        self.line.teach()
        self.key = keys.worker(self.id)
        self._renewing = threading.RLock()
        self._called = threading.Event()
        self._is_leaving = self._has_left = False
        self.renewed = self._scores_renewed = self._scores_swept = time.monotonic()
        self.renew(check=True)
        threading.Thread(
            target=_keep, args=(weakref.ref(self), self._called), name="taskq-lease", daemon=True
        ).start()

    @property
    def pause_s(self) -> float:
        """Seconds between two renewals, and the longest a wait for messages may take.

        A third of the lease: so a dead worker's waits have ended when its lease has.
        """
        return min(self.lease_s / 3, SWEEP_S)

    def consume(self, names: list[str]) -> None:
        """Say which lists we consume from, before the first message is taken."""
        if set(names) != set(self.names):
            self.names = names
            self.renew(check=True)

    def renew(self, check: bool = False) -> None:
        """Prolong the lease; with `check`, or after a gap, find out which tags are still ours."""
        with self._renewing:
            now = time.monotonic()
            milliseconds = max(int(self.lease_s * 1000), 1)
            facts = ("HSET", self.keys.workers, self.id, json.dumps(self.names))
            check = check or not self._is_fresh(now) or self._are_scores_due(now)
            if not check:
                renewal = ("SET", self.key, self.epoch, "XX", "PX", milliseconds)
                check = not self.line.ask(renewal, facts)[0]
            if check:
                self.line.ask(facts)
                held = [tag for holder in self.holders for tag in list(holder)]
                gone = self.line.run(
                    KEEP, [self.key, self.keys.scores], [self.epoch, milliseconds, *held]
                )
                self._forget(list(map(bytes.decode, gone)))
                self._scores_renewed = now
            self.renewed = now

    def _is_fresh(self, now: float) -> bool:
        return now - self.renewed < self.fresh_s

    def _are_scores_due(self, now: float) -> bool:
        return now - self._scores_renewed >= min(self.visibility_s / 3, SCORES_S)

    def _forget(self, tags: list[str]) -> None:
        for tag in tags:
            for holder in self.holders:
                # Acked meanwhile: then it is not there because it is done.
                if holder.pop(tag, self) is not self:
                    self.gone.add(tag)

    def check(self) -> bool:
        """Say whether what is still held may be started; asks Redis only when it may not be."""
        if time.monotonic() - self.renewed < self.fresh_s:
            return True
        try:
            self.renew()
        except (RedisError, OSError):
            return False
        return True

    def invalidate_calls(self) -> None:
        """See that no call sent before has an effect from now on."""
        self.epoch += 1
        self.renew(check=True)

    def sweep(self) -> None:
        """Put back what dead workers and, by their scores, dead peers have left behind."""
        self.recovery.sweep(self.id)
        now = time.monotonic()
        if now - self._scores_swept >= min(self.visibility_s / 4, SCORES_S):
            self._scores_swept = now
            self.recovery.sweep_scores(self.visibility_s)

    def close(self) -> None:
        """Leave: what is still under our id goes back. Tried again later when Redis is away."""
        if self.pid != os.getpid():
            return
        self._is_leaving = True
        _leaving.add(self)
        try:
            self._leave()
        except (RedisError, OSError) as exc:
            logger.warning("Could not put messages back, trying again soon: %s", exc)
        # Ends the thread, or makes it try.
        self._called.set()

    def _leave(self) -> None:
        with self._renewing:
            if self._has_left:
                return
            # From here on no call of ours has an effect.
            self.line.ask(("DEL", self.key))
            if self.unsent:
                self.line.ask(
                    ("HDEL", self.keys.unacked, *self.unsent),
                    ("ZREM", self.keys.scores, *self.unsent),
                )
                self.unsent.clear()
            if self.is_torn:
                self.recovery.bury(self.id, self.names, worker="")
            else:
                self.line.ask(("HDEL", self.keys.workers, self.id))
            self.line.close()
            self._has_left = True
            _leaving.discard(self)

    def tick(self) -> bool:
        """Do what is due; False when there is nothing more to be done."""
        if self._is_leaving:
            self._leave()
            return False
        self.renew()
        self.sweep()
        return True


def _keep(reference: weakref.ref[Session], called: threading.Event) -> None:
    pause = 0.0
    failed = False
    while True:
        called.wait(pause)
        called.clear()
        session = reference()
        if session is None:
            return
        pause = session.pause_s
        try:
            if not session.tick():
                return
            failed = False
        except (RedisError, OSError) as exc:
            pause = min(pause, 1.0)
            if not failed:
                logger.warning("The lease of this worker could not be renewed: %s", exc)
            failed = True
        # Held here, a session its owner dropped without closing would live for ever.
        del session


#: Sessions that could not leave: kept alive until they have.
_leaving: set[Session] = set()


def _forget_in_child() -> None:
    _leaving.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
