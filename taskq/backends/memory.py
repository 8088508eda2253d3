"""Outcomes in this process's memory: `memory://` and `cache+memory://`, for tests and trials.

One store for the whole process, whichever app asks, keeping the 5000 documents used last.
Who waits is woken by the thread that stores.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from taskq.backends.base import KeyValueStoreBackend

__all__ = ("MemoryBackend", "MemoryStore")


class MemoryStore:
    """Values under keys, each with a life of its own; the oldest make room for new ones.

    `clock` gives seconds.
    """

    def __init__(self, limit: int = 5000, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self.clock = clock
        self.changes = 0
        self._entries: OrderedDict[Any, tuple[Any, float | None]] = OrderedDict()
        self.renew_lock()

    def renew_lock(self) -> None:
        """A lock nobody holds: in a forked child its owner does not exist."""
        self.changed = threading.Condition(threading.RLock())

    def get(self, key: Any) -> Any:
        """The value under `key`, or None."""
        with self.changed:
            entry = self._entries.get(key)
            if entry is None:
                return None
            value, end = entry
            if end is not None and self.clock() >= end:
                del self._entries[key]
                return None
            self._entries.move_to_end(key)
            return value

    def set(self, key: Any, value: Any, expires: float | None = None) -> None:
        """Keep `value` under `key` for `expires` seconds; None or 0 is for ever."""
        with self.changed:
            self._entries[key] = (value, self.clock() + expires if expires else None)
            self._entries.move_to_end(key)
            while len(self._entries) > self.limit:
                self._entries.popitem(last=False)
            self._tell()

    def delete(self, key: Any) -> None:
        """Remove `key` if it is there."""
        with self.changed:
            self._entries.pop(key, None)

    def incr(self, key: Any) -> int:
        """Add one to the number under `key`, from 0, and give it."""
        with self.changed:
            value = int(self.get(key) or 0) + 1
            end = self._entries[key][1] if key in self._entries else None
            self._entries[key] = (value, end)
            self._tell()
            return value

    def touch(self, key: Any, expires: float | None) -> None:
        """Let `key` live for `expires` seconds from now."""
        with self.changed:
            value = self.get(key)
            if value is not None:
                self._entries[key] = (value, self.clock() + expires if expires else None)

    def clear(self) -> None:
        """Remove everything."""
        with self.changed:
            self._entries.clear()

    def wait(self, since: int, seconds: float) -> None:
        """Come back when something was stored after the change number `since`, or in `seconds`."""
        with self.changed:
            self.changed.wait_for(lambda: self.changes != since, timeout=seconds)

    def _tell(self) -> None:
        self.changes += 1
        self.changed.notify_all()


_STORE = MemoryStore()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_STORE.renew_lock)


class MemoryBackend(KeyValueStoreBackend):
    """Results that only this process can read, gone when it ends."""

    store: MemoryStore = _STORE

    supports_autoexpire = True
    supports_native_join = True
    implements_incr = True

    def __init__(
        self, app: Any, expires: Any = None, url: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(app, expires=expires, expires_type=int, url=url, **kwargs)

    def get(self, key: Any) -> Any:
        return self.store.get(key)

    def mget(self, keys: list[Any]) -> list[Any]:
        return [self.store.get(key) for key in keys]

    def set(self, key: Any, value: Any) -> None:
        self.store.set(key, value, self.expires)

    def delete(self, key: Any) -> None:
        self.store.delete(key)

    def incr(self, key: Any) -> int:
        return self.store.incr(key)

    def expire(self, key: Any, value: Any) -> None:
        self.store.touch(key, value)

    def _store_result(self, *args: Any, **kwargs: Any) -> Any:
        # Reading the old state and writing the new one are one step.
        with self.store.changed:
            return super()._store_result(*args, **kwargs)

    def change_mark(self) -> int:
        return self.store.changes

    def wait_for_change(self, mark: int, seconds: float) -> None:
        self.store.wait(mark, seconds)

    def as_uri(self, include_password: bool = False) -> str:
        return "memory:///"

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = {"url": self.url, "expires": self.expires, **(kwargs or {})}
        return super().__reduce__(args, kwargs)
