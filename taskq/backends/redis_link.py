"""The connections of one application to one Redis, shared by its threads.

Storing uses connections that are kept and spoken to directly (redis_exchange.py): redis-py's
`execute_command` takes longer than the server. Reading goes through an ordinary client.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from redis import Redis
from redis.connection import ConnectionPool
from redis.exceptions import ConnectionError, NoScriptError, ResponseError, TimeoutError

from taskq.backends.redis_exchange import exchange
from taskq.backends.redis_reader import ResultReader, Retry
from taskq.utils.redis_packing import pack_commands

__all__ = ("STORE", "RedisLink", "find_link")

#: Stores and announces a document; the channel is named like the key, which clients of Celery know.
#: A stored success is never overwritten (1). The common serializer is judged here; any other
#: document found under the key is given back, and replaced only when the caller names it as the
#: one it has judged. Nothing given back: stored.
STORE = """
local key, document, seconds, judged = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3]
local old = redis.call('GET', key)
if old and old ~= judged then
  if string.sub(old, 1, 12) ~= '{"status": "' then return old end
  if string.sub(old, 13, 20) == 'SUCCESS"' then return 1 end
end
if seconds > 0 then
  redis.call('SETEX', key, seconds, document)
else
  redis.call('SET', key, document)
end
redis.call('PUBLISH', key, document)
return false
"""
_STORE_SHA = hashlib.sha1(STORE.encode(), usedforsecurity=False).hexdigest()

_links: WeakKeyDictionary[Any, dict[Hashable, RedisLink]] = WeakKeyDictionary()
_alive: WeakSet[RedisLink] = WeakSet()


class RedisLink:
    """A client, kept connections for storing, and the reader that waits for results.

    `build_pool` makes a connection pool, with more arguments for its connections if given;
    `retry` see ResultReader. `keeps`: False where connections are few and all must share them.
    """

    def __init__(
        self,
        build_pool: Callable[..., ConnectionPool],
        retry: Retry,
        errors: tuple[type[BaseException], ...],
        keeps: bool = True,
    ) -> None:
        self._keeps = keeps
        self.pool = build_pool()
        self.client: Redis = Redis(connection_pool=self.pool)
        self.reader = ResultReader(build_pool, retry, errors)
        #: Held by a thread that reads what it is about to wait for.
        self.looking = threading.Lock()
        self.consumers: WeakSet[Any] = WeakSet()
        # Taking from a list and adding to it are atomic: no lock.
        self._kept: list[Any] = []
        _alive.add(self)

    def store(self, key: bytes, document: Any, seconds: int, judged: Any = b"") -> Any:
        """Store and announce a document with one packet; gives what STORE gives."""
        command = ("EVALSHA", _STORE_SHA, 1, key, document, seconds, judged)
        while True:
            connection, is_new = self._take()
            try:
                return self._ask(connection, command)
            except NoScriptError:
                command = ("EVAL", STORE, 1, key, document, seconds, judged)
            except (ConnectionError, TimeoutError):
                # A kept one may have died long ago; and storing twice does no harm.
                if is_new:
                    raise

    def _take(self) -> tuple[Any, bool]:
        try:
            return self._kept.pop(), False
        except IndexError:
            return self.pool.get_connection(), True

    def _ask(self, connection: Any, command: tuple[Any, ...]) -> Any:
        answered = False
        try:
            answer = exchange(connection, pack_commands(connection, (command,)))
            answered = True
            return answer
        except ResponseError:
            answered = True
            raise
        finally:
            # Any other exception, a time limit's too, may leave an answer behind that the next
            # command would take for its own.
            if answered and self._keeps:
                self._kept.append(connection)
            else:
                if not answered:
                    connection.disconnect()
                self.pool.release(connection)

    def close(self) -> None:
        """Close every connection; the link can be used again."""
        self.reader.stop()
        while self._kept:
            self.pool.release(self._kept.pop())
        self.pool.disconnect()

    def forget_parent(self) -> None:
        """In a forked child: the connections are the parent's, and locks may be held by nobody."""
        self._kept = []
        self.looking = threading.Lock()
        for consumer in list(self.consumers):
            consumer.on_after_fork()
        self.reader.forget_parent()


def find_link(app: Any, key: Hashable, build: Callable[[], RedisLink]) -> RedisLink:
    """The link of `app` with this key, built on first use."""
    links = _links.setdefault(app, {})
    link = links.get(key)
    if link is None:
        link = links.setdefault(key, build())
    return link


def _forget_parent() -> None:
    for link in list(_alive):
        link.forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
