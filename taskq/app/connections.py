"""This file gives an application its connections to the broker: single ones, and pools of them.

Serves step 4 of the journey: `producer_or_acquire` lends the producer a message is sent with.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakSet

from kombu import pools
from kombu.connection import PooledConnection as _KombuPooledConnection
from kombu.exceptions import EncodeError, LimitExceeded, OperationalError, SerializerNotInstalled
from kombu.transport import TRANSPORT_ALIASES

from taskq.app.connection_pool import ConnectionPool
from taskq.app.deadline import TimedConnection
from taskq.app.pipeline import Pipeline
from taskq.exceptions import ImproperlyConfigured, UnknownCompression, UnknownTransport
from taskq.transports import TRANSPORTS, default_options, register, require_library
from taskq.utils.imports import symbol_by_name
from taskq.utils.log import get_logger
from taskq.utils.sqlite_location import parse_url

if TYPE_CHECKING:
    from taskq.app.base import App
    from taskq.app.settings import Settings

__all__ = ("Connection", "ConnectionPool", "Connections", "ProducerPool")

#: Under the name of the module users know: what is logged here is about sending.
logger = get_logger("taskq.app.amqp")

# kombu.Connection asks its own table whether a scheme exists before it asks the class below.
register()

#: Seconds of waiting for a producer that are counted against what sending may take.
_NOTICEABLE_S = 0.05

#: Errors that leave the connection as it was: raised before anything is sent.
_BEFORE_SENDING = (
    EncodeError,
    SerializerNotInstalled,
    UnknownCompression,
    ImproperlyConfigured,
)


class Connection(TimedConnection):
    """kombu's connection, with our transports behind the names of their schemes.

    The transport parameter stays a name: with a class, kombu would open `rediss://` without TLS,
    lose the class at the first failover and print it in URLs.
    """

    def __init__(self, hostname: Any = "localhost", *args: Any, **kwargs: Any) -> None:
        require_library(kwargs.get("transport") or _scheme_of(hostname))
        try:
            super().__init__(hostname, *args, **kwargs)
        except KeyError as exc:
            raise _unknown_transport(exc) from None

    def get_transport_cls(self) -> Any:
        """The class of the transport."""
        name = self.transport_cls
        if isinstance(name, str) and name in TRANSPORTS and self._wants_ours():
            return symbol_by_name(TRANSPORTS[name])
        try:
            return super().get_transport_cls()
        except KeyError as exc:
            raise _unknown_transport(exc) from None

    def _wants_ours(self) -> bool:
        """Read the transport option `lane`: the way to kombu's own transport of a scheme."""
        lane = self.transport_options.get("lane", "taskq")
        if lane not in ("taskq", "kombu"):
            raise ImproperlyConfigured(
                f"broker_transport_options['lane']: expected 'taskq' or 'kombu', got {lane!r}."
            )
        return bool(lane == "taskq")

    def ensure(self, obj: Any, fun: Callable[..., Any], **policy: Any) -> Callable[..., Any]:
        """`fun`, tried again while the broker is away, unless its transport waits by itself."""
        if getattr(self.transport, "waits_by_itself", False):
            return fun

        def ensured(*args: Any, **kwargs: Any) -> Any:
            try:
                return fun(*args, **kwargs)
            except self.errors_to_repeat(policy) as exc:
                return self.repeat(exc, obj, fun, policy)(*args, **kwargs)

        return ensured

    def as_pooled(self, pool: ConnectionPool) -> PooledConnection:
        """A connection like this one that belongs to a pool."""
        return PooledConnection(pool, **dict(self._info(resolve=False)))

    def Pool(self, limit: int | None = None, **kwargs: Any) -> ConnectionPool:
        """A pool of at most `limit` connections like this one; no limit means no pooling."""
        return ConnectionPool(self, limit, **kwargs)


def _scheme_of(hostname: Any) -> str:
    first = hostname if isinstance(hostname, str) else next(iter(hostname or ()), "")
    return str(first).partition("://")[0].partition("+")[0]


def _unknown_transport(exc: KeyError) -> BaseException:
    # kombu says "No such transport: NAME. Did you mean ...?".
    prefix, _, rest = str(exc.args[0]).partition("No such transport: ")
    return exc if prefix or not rest else UnknownTransport(rest.split(".")[0], TRANSPORT_ALIASES)


class PooledConnection(_KombuPooledConnection, Connection):
    """A connection that belongs to a pool; a copy of it does not."""

    def clone(self, **kwargs: Any) -> Connection:  # type: ignore[override]  # leaves the pool
        return Connection(**dict(self._info(resolve=False), **kwargs))

    def __reduce__(self) -> tuple[Any, ...]:
        return Connection, tuple(self.info().values())


class ProducerPool(pools.ProducerPool):
    """A pool of producers that keep their connection while they are idle.

    kombu's pool takes a connection and binds the producer anew each time, which is most of what a
    publish costs. Here an idle producer gives its connection up only when somebody else waits.

    Arguments:
        connections: the pool of connections; it has the same limit.
        limit: number of producers.
        acquire_timeout: seconds to wait for a connection; None waits for ever.
    """

    close_after_fork = False

    def __init__(
        self,
        connections: ConnectionPool,
        limit: int | None = None,
        acquire_timeout: float | None = None,
        **kwargs: Any,
    ) -> None:
        self.acquire_timeout = acquire_timeout
        self._begun = threading.local()
        super().__init__(connections, limit=limit, **kwargs)
        connections.on_exhausted = self.give_up_connection

    def lend(self, timeout: float | None) -> Any:
        """A producer, with a connection; waits up to `timeout` seconds (None: for ever).

        Raises kombu.exceptions.LimitExceeded when none is free.
        """
        idle = self._resource
        # The usual case, without the conditions and closures of kombu's pool.
        with idle.mutex:
            producer = idle.queue.pop() if idle.queue and _is_ready(idle.queue[-1]) else None
            if producer is not None:
                self._dirty.add(producer)
                return producer
        begun = self._begun.at = monotonic()
        self.acquire_timeout = timeout
        producer = self.acquire(block=True, timeout=timeout)
        waited = monotonic() - begun
        if waited > _NOTICEABLE_S and producer.__connection__ is not None:
            producer.__connection__.waited_s = waited
        return producer

    def _acquire_connection(self) -> Any:
        timeout = self.acquire_timeout
        if timeout is not None:
            # What waiting for the producer has left.
            timeout = max(timeout - (monotonic() - getattr(self._begun, "at", monotonic())), 0.0)
        return self.connections.acquire(block=True, timeout=timeout)

    def prepare(self, producer: Any) -> Any:
        if callable(producer) or producer._channel is None:
            return super().prepare(producer)
        if not producer.__connection__.connected:
            producer.revive(producer.__connection__)
        return producer

    def release(self, producer: Any) -> None:
        connection = producer.__connection__
        if not self.limit or connection is None or connection._closed:
            super().release(producer)
            return
        idle = self._resource
        with idle.mutex:
            self._dirty.discard(producer)
            idle.queue.append(producer)
            idle.not_empty.notify()
        if self.connections.waiting:
            self.give_up_connection()

    def give_up_connection(self) -> bool:
        """Put the connection of one idle producer back into its pool; False if none has one."""
        idle = self._resource
        with idle.mutex:  # what is in the queue now cannot be taken meanwhile
            for producer in idle.queue:
                if not callable(producer) and producer._channel is not None:
                    producer.channel = None
                    producer.__connection__.release()
                    return True
        return False


def _is_ready(producer: Any) -> bool:
    """Has it a connection that is open?"""
    if callable(producer) or producer._channel is None:
        return False
    is_open: bool = producer.__connection__.connected
    return is_open


class _Loan:
    """`with` acquires something, which is released at the end of the block."""

    __slots__ = ("_acquire", "_held")

    def __init__(self, acquire: Callable[[], Any]) -> None:
        self._acquire = acquire
        self._held: Any = None

    def __enter__(self) -> Any:
        self._held = held = self._acquire()
        return held

    def __exit__(self, exc_type: type[BaseException] | None, *exc_info: Any) -> None:
        if exc_type is None or issubclass(exc_type, _BEFORE_SENDING):
            self._held.release()
        else:
            # kombu closes the connection: half a message may have gone out on it.
            self._held.__exit__(exc_type, *exc_info)


class Connections:
    """The part of an application that connects it to its broker."""

    if TYPE_CHECKING:
        conf: Settings
        amqp: Any
        on_after_fork: Any

    #: Made at first use.
    _pool: ConnectionPool | None = None
    _producer_pool: ProducerPool | None = None

    def connection_for_read(self, url: str | None = None, **kwargs: Any) -> Connection:
        """A connection to consume with (broker_read_url, else broker_url); not open yet."""
        return self._connection(url or self.conf.broker_read_url, **kwargs)

    def connection_for_write(self, url: str | None = None, **kwargs: Any) -> Connection:
        """A connection to send with (broker_write_url, else broker_url); not open yet."""
        return self._connection(url or self.conf.broker_write_url, **kwargs)

    def connection(
        self,
        hostname: Any = None,
        userid: str | None = None,
        password: str | None = None,
        virtual_host: str | None = None,
        port: int | None = None,
        ssl: Any = None,
        connect_timeout: float | None = None,
        transport: str | None = None,
        transport_options: dict[str, Any] | None = None,
        heartbeat: float | None = None,
        login_method: str | None = None,
        failover_strategy: Any = None,
        **kwargs: Any,
    ) -> Connection:
        """A connection to the broker that is not open yet; what is not given, settings say.

        `hostname` may be a host, a URL, or several of them; times are seconds.
        """
        return self.connection_for_write(
            hostname,
            userid=userid,
            password=password,
            virtual_host=virtual_host,
            port=port,
            ssl=ssl,
            connect_timeout=connect_timeout,
            transport=transport,
            transport_options=transport_options,
            heartbeat=heartbeat,
            login_method=login_method,
            failover_strategy=failover_strategy,
            **kwargs,
        )

    broker_connection = connection

    def _connection(self, url: Any, **given: Any) -> Connection:
        """A connection; `given` are the arguments of `connection`, of which others are no error."""
        conf, find = self.conf, given.get
        transport = find("transport") or conf.broker_transport
        timeout = self.either("broker_connection_timeout", find("connect_timeout"))
        options = default_options(transport or _scheme_of(url), timeout)
        options.update(conf.broker_transport_options, **find("transport_options") or {})
        connection: Connection = self.amqp.Connection(
            url,
            find("userid") or conf.broker_user,
            find("password") or conf.broker_password,
            find("virtual_host") or conf.broker_vhost,
            find("port") or conf.broker_port,
            transport=transport,
            ssl=self.either("broker_use_ssl", find("ssl")),
            heartbeat=find("heartbeat"),
            login_method=find("login_method") or conf.broker_login_method,
            failover_strategy=find("failover_strategy") or conf.broker_failover_strategy,
            transport_options=options,
            connect_timeout=timeout,
        )
        return connection

    def either(self, default_key: str, *defaults: Any) -> Any:
        """The first of `defaults` that is not None, else the setting `default_key`."""
        for value in defaults:
            if value is not None:
                return value
        return self.conf[default_key]

    def connection_or_acquire(
        self, connection: Any = None, pool: bool = True, *_: Any, **__: Any
    ) -> Any:
        """`with` this: the connection given, or one from the pool (or a new one) for the block.

        Raises OperationalError when none is free within broker_pool_acquire_timeout seconds.
        """
        if connection is not None:
            return nullcontext(connection)
        return _Loan(self._acquire_connection if pool else self.connection_for_write)

    default_connection = connection_or_acquire

    def producer_or_acquire(self, producer: Any = None) -> Any:
        """`with` this: the producer given, or one from the pool for the block.

        Raises OperationalError when none is free within broker_pool_acquire_timeout seconds.
        """
        if producer is not None:
            return nullcontext(producer)
        return _Loan(self._acquire_producer)

    default_producer = producer_or_acquire

    def pipeline(self, producer: Any = None) -> Pipeline:
        """`with` this: what this thread calls in the block is sent together at its end.

        Raises OperationalError, or BatchPublishError when some of it may have been sent.
        """
        return Pipeline(cast("App", self), producer)

    @property
    def pool(self) -> ConnectionPool:
        """The connections of this application: at most broker_pool_limit at a time."""
        if self._pool is None:
            with _creating:
                if self._pool is None:
                    self._pool = self.connection_for_write().Pool(self.conf.broker_pool_limit or 0)
                    _with_pools.add(self)
                    _log_embedded(self.conf.broker_write_url)
        return self._pool

    @property
    def producer_pool(self) -> ProducerPool:
        """The producers of this application, over the connections of `pool`."""
        if self._producer_pool is None:
            with _creating:
                if self._producer_pool is None:
                    self._producer_pool = ProducerPool(
                        self.pool,
                        limit=self.conf.broker_pool_limit or 0,
                        acquire_timeout=self.conf.broker_pool_acquire_timeout,
                        Producer=self.amqp.Producer,
                    )
        return self._producer_pool

    def _acquire_connection(self, pool: bool = True) -> Any:
        if not pool:
            return self.connection_for_write()
        timeout = self.conf.broker_pool_acquire_timeout
        try:
            return self.pool.acquire(block=True, timeout=timeout)
        except LimitExceeded as exc:
            raise self._all_in_use("connection", timeout) from exc

    def _lend_producer(self, producer: Any, policy: Mapping[str, Any] | None) -> Any:
        """As producer_or_acquire, for one message with this retry policy (None: the settings')."""
        if policy is None:
            policy = self.conf.task_publish_retry_policy
        # What is no mapping is refused when the policies are merged.
        is_policy = type(policy) is dict or isinstance(policy, Mapping)
        if producer is not None or not is_policy or policy.get("max_retries", 0) is not None:
            return self.producer_or_acquire(producer)
        return _Loan(partial(self._acquire_producer, endless=True))

    def _acquire_producer(self, endless: bool = False) -> Any:
        producers = self._producer_pool or self.producer_pool
        timeout = self.conf.broker_pool_acquire_timeout
        patience = self.conf.broker_publish_timeout
        if patience is not None and not endless and (timeout is None or timeout > patience):
            timeout = patience
        try:
            return producers.lend(timeout)
        except LimitExceeded as exc:
            raise self._all_in_use("producer", timeout) from exc

    def _all_in_use(self, what: str, timeout: float | None) -> OperationalError:
        limit = self.conf.broker_pool_limit
        return OperationalError(
            f"Timed out waiting for a broker {what} after {timeout}s. "
            f"All {limit} connections are in use. Consider increasing broker_pool_limit "
            f"(currently {limit}) or broker_pool_acquire_timeout (currently {timeout}s)."
        )

    def _close_pools(self) -> None:
        """Close the pools and all connections in them; the next use makes new ones."""
        pool, self._pool = self._pool, None
        producers, self._producer_pool = self._producer_pool, None
        if producers is not None:
            producers.force_close_all()
        if pool is not None:
            pool.force_close_all()

    def _after_fork(self) -> None:
        """In a new child: forget the parent's connections, and say so to `on_after_fork`."""
        _inherited.append((self._pool, self._producer_pool))
        self._pool = self._producer_pool = None
        if self.on_after_fork is not None:
            self.on_after_fork.send(sender=self)


#: Held while pools are made; pools of one application need each other.
_creating = threading.RLock()

#: Files of embedded brokers this process has logged.
_logged: set[str] = set()


def _log_embedded(url: Any) -> None:
    # Where the messages are is otherwise a question of the working directory.
    if not isinstance(url, str) or not url.startswith("sqlite:"):
        return
    path = parse_url(url).path
    if path not in _logged:
        _logged.add(path)
        logger.info("Embedded broker: %s", path)


#: Applications that have pools.
_with_pools: WeakSet[Any] = WeakSet()

#: The parent's pools, kept alive in a child: collected, they would shut the parent's sockets down.
_inherited: list[Any] = []


def _forget_pools_in_child() -> None:
    global _creating
    _creating = threading.RLock()  # its holder may have been another thread
    for app in tuple(_with_pools):
        app._after_fork()
    _with_pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pools_in_child)
