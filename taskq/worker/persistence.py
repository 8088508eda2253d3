"""This file keeps revoked ids, and the clock, over a restart: `--statedb FILE`.

The file is a `dbm` of three keys, as Celery's workers write and read it: `zrevoked` (a set,
pickled and compressed), `clock` and `__proto__`. Its moments are of the monotonic clock. After a
reboot they make an id look younger than it is, never older.
"""

from __future__ import annotations

import dbm
import dbm.dumb
import io
import os
import pickle
import time
import zlib
from typing import Any

from taskq.exceptions import ImproperlyConfigured
from taskq.utils.collections import LimitedSet
from taskq.utils.log import get_logger
from taskq.utils.serialization import pickle_dumps

__all__ = ("Persistent",)

#: Version of the file's contents.
FORMAT = 3

#: Seconds after which what was revoked meanwhile is in the file, should the worker be killed.
SAVE_INTERVAL_S = 10.0

#: `dbm.dumb` never uses again what a larger value has left behind: above this it starts anew.
WASTE_BYTES = 1_000_000

CANNOT_BE_OPENED = (
    "the state file {path!r} (--statedb, worker_state_db) cannot be opened: {why}. Name a file in "
    "a directory that exists and may be written to."
)
CANNOT_BE_READ = (
    "the state file {path!r} (--statedb, worker_state_db) cannot be read: {why}. It holds the ids "
    "of revoked tasks. Name another file, or move this one away: then those tasks would run."
)

logger = get_logger("taskq.worker")


class Persistent:
    """The file with the revoked ids of a worker.

    Arguments:
        state: what has them as `revoked` (the module `worker.state`).
        filename: without the endings that some kinds of `dbm` add.
        clock: the application's logical clock.
    """

    def __init__(self, state: Any, filename: str, clock: Any = None) -> None:
        self.state = state
        self.filename = filename
        self.clock = clock
        self._saved: dict[Any, float] = {}
        self._has_failed = False
        self.merge()

    def merge(self) -> None:
        """Take over what the file holds, and see that it can be written.

        Raises:
            ImproperlyConfigured: it cannot be read or written.
        """
        try:
            with self._open() as db:
                revoked, clock = _decode(db)
                db[b"__proto__"] = pickle.dumps(FORMAT, 4)
        except Exception as exc:
            # Of every kind: a damaged file makes any part of dbm and pickle stumble.
            is_missing = isinstance(exc, OSError) and exc.strerror is not None
            text = CANNOT_BE_OPENED if is_missing else CANNOT_BE_READ
            why = getattr(exc, "strerror", None) or exc or type(exc).__name__
            raise ImproperlyConfigured(text.format(path=self.filename, why=why)) from exc
        for moment, item in sorted((moment, item) for item, moment in revoked.items()):
            if item not in self.state.revoked:
                self.state.revoked.add(item, now=moment)
        if self.clock is not None:
            self.clock.adjust(clock)

    def save(self) -> None:
        """Write what is revoked into the file; an error is logged, once."""
        revoked = self.state.revoked.as_dict()
        clock = self.clock.forward() if self.clock is not None else 0
        try:
            with self._open() as db:
                db[b"zrevoked"] = pickle.dumps(_encode(revoked), 4)
                db[b"clock"] = pickle.dumps(clock, 4)
                db[b"__proto__"] = pickle.dumps(FORMAT, 4)
        except (OSError, *dbm.error) as exc:
            if not self._has_failed:
                logger.error(
                    "Cannot save revoked ids in %r, they are only in memory: %s", self.filename, exc
                )
            self._has_failed = True
        else:
            self._saved, self._has_failed = revoked, False

    def save_changes(self) -> None:
        """Write what is revoked, if that has changed."""
        if self.state.revoked.as_dict() != self._saved:
            self.save()

    sync = close = save

    def _open(self) -> Any:
        try:
            size = os.path.getsize(f"{self.filename}.dat")
        except OSError:
            return dbm.open(self.filename, "c", 0o600)
        # Only `dbm.dumb` has a file of this name. Asked for by name: with a damaged index it is not
        # recognised, and an empty database of another kind would be begun beside it.
        # Read first, by the caller that merges; the one that saves writes all there is.
        anew = size > WASTE_BYTES and self._saved
        return dbm.dumb.open(self.filename, "n" if anew else "c", 0o600)


def _encode(revoked: dict[Any, float]) -> bytes:
    """Give the set as Celery's workers read it; without limits, which are those of the reader."""
    to_monotonic = time.monotonic() - time.time()
    kept = LimitedSet(data={item: moment + to_monotonic for item, moment in revoked.items()})
    return zlib.compress(pickle_dumps(kept))


def _decode(db: Any) -> tuple[dict[Any, float], int]:
    """Give {id: moment of this machine's clock} and the logical clock."""
    clock = _loads(db[b"clock"]) if b"clock" in db else 0
    if b"zrevoked" not in db:
        return {}, int(clock)
    kept = _loads(zlib.decompress(_loads(db[b"zrevoked"])))
    now, now_monotonic = time.time(), time.monotonic()
    age = {item: max(now_monotonic - moment, 0) for item, moment in kept.items()}
    return {item: now - seconds for item, seconds in age.items()}, int(clock)


class _Unpickler(pickle.Unpickler):
    """Reads numbers, texts and the one class there is in such a file, as a plain mapping."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("kombu.utils.imports", "symbol_by_name"):
            return lambda address: self.find_class(*address.split(":"))
        if name == "LimitedSet":
            return lambda maxlen=0, expires=0, data=(), minlen=0: dict(data)
        raise pickle.UnpicklingError(f"{module}.{name} is not expected there")


def _loads(data: bytes) -> Any:
    return _Unpickler(io.BytesIO(data)).load()
