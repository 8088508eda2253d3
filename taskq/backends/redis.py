"""Outcomes in Redis: `redis://`, `rediss://`, `sentinel://`, `socket://`.

The documents, keys and channels are Celery's. Storing is one script call (redis_link.py); who
waits is woken by the announcement that comes with it (redis_reader.py, redis_consumer.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from kombu.exceptions import DecodeError
from kombu.utils.functional import retry_over_time
from kombu.utils.url import maybe_sanitize_url

from taskq import states
from taskq.backends.asynchronous import AsyncBackendMixin
from taskq.backends.base import BaseKeyValueStoreBackend
from taskq.backends.redis_consumer import ResultConsumer
from taskq.exceptions import BackendStoreError, ImproperlyConfigured
from taskq.utils.imports import symbol_by_name
from taskq.utils.log import get_logger
from taskq.utils.time import humanize_seconds

try:
    import redis
    from kombu.transport.redis import get_redis_error_classes
    from redis import sentinel
    from redis.connection import BlockingConnectionPool, ConnectionPool, SSLConnection

    from taskq.backends.redis_link import RedisLink, find_link
    from taskq.backends.redis_parameters import (
        E_REDIS_SSL_CERT_REQS_MISSING_INVALID,
        E_REDIS_SSL_PARAMS_AND_SCHEME_MISMATCH,
        W_REDIS_SSL_CERT_NONE,
        W_REDIS_SSL_CERT_OPTIONAL,
        check_certificates,
        from_settings,
        from_url,
    )

    class SentinelManagedSSLConnection(sentinel.SentinelManagedConnection, SSLConnection):
        """A TLS connection to whichever server Sentinel names."""

except ModuleNotFoundError:
    redis = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from taskq.context import Context

__all__ = (
    "RedisBackend",
    "SentinelBackend",
    # what else is imported from here
    "E_LOST",
    "E_REDIS_MISSING",
    "E_REDIS_SENTINEL_MISSING",
    "E_REDIS_SSL_CERT_REQS_MISSING_INVALID",
    "E_REDIS_SSL_PARAMS_AND_SCHEME_MISMATCH",
    "ResultConsumer",
    "SentinelManagedSSLConnection",
    "W_REDIS_COMPRESSION_DISABLED",
    "W_REDIS_SSL_CERT_NONE",
    "W_REDIS_SSL_CERT_OPTIONAL",
    "get_redis_error_classes",
)

logger = get_logger(__name__)

E_REDIS_MISSING = (
    "The Redis result backend needs the package redis, which is not installed: "
    'pip install "taskq[redis]".'
)
E_REDIS_SENTINEL_MISSING = E_REDIS_MISSING
E_LOST = "Connection to Redis lost: Retry (%s/%s) %s."
W_REDIS_COMPRESSION_DISABLED = (
    "result_compression is ignored: with decode_responses the Redis result backend reads text, "
    "and compressed results are bytes."
)
E_NO_MASTER_NAME = (
    "Sentinel has to be asked for a master by name: result_backend_transport_options = "
    '{"master_name": "mymaster"}.'
)

#: The longest string that Redis keeps, in bytes.
_MAX_STR_VALUE_SIZE = 536_870_912


class RedisBackend(BaseKeyValueStoreBackend, AsyncBackendMixin):
    """Results in a Redis server.

    host, port, db, password, max_connections: for when no `url` says them; default to the
    redis_* settings. connection_pool: connections of one's own, instead of all these.
    """

    ResultConsumer = ResultConsumer

    #: The module, or None where it is not installed.
    redis = redis
    connection_class_ssl: Any = SSLConnection if redis else None
    max_connections: int | None = None

    supports_autoexpire = True
    supports_native_join = True
    supports_result_compression = True
    supports_failure_expires = True
    implements_incr = True

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        db: Any = None,
        password: str | None = None,
        max_connections: int | None = None,
        url: str | None = None,
        connection_pool: Any = None,
        **kwargs: Any,
    ) -> None:
        if redis is None:
            raise ImproperlyConfigured(E_REDIS_MISSING.strip())
        if host and "://" in host:
            url, host = host, None
        conf = kwargs["app"].conf
        self.max_connections = max_connections or conf.redis_max_connections or self.max_connections
        given = (host, port, db, password, self.max_connections)
        self.connparams: dict[str, Any] = from_settings(conf, *given, self.connection_class_ssl)
        if url:
            self.connparams = self._params_from_url(url, self.connparams)
        self._check_certificates()
        super().__init__(url=url, expires_type=int, **kwargs)
        failure = conf.result_failure_expires
        self.failure_expires = (
            self.expires if failure is None else self.prepare_expires(failure, int)
        )
        self.connection_errors, self.channel_errors = cast(Any, get_redis_error_classes)()
        self.connection_errors += self._additional_errors()
        build = partial(
            RedisLink,
            (lambda **_: connection_pool) if connection_pool else self._pool_builder(),
            partial(_retry, self.retry_policy, self.connection_errors),
            self.connection_errors,
            keeps=not (connection_pool or self.connparams["max_connections"]),
        )
        #: The connections, shared by all backend objects that are configured alike.
        self.link: RedisLink = (
            build()
            if connection_pool
            else find_link(self.app, (type(self), url, *map(str, given)), build)
        )
        self.result_consumer = self.ResultConsumer(
            self, self.app, self.accept, self._pending_results, self._pending_messages
        )

    # -- connections

    def _params_from_url(self, url: str, defaults: dict[str, Any]) -> dict[str, Any]:
        return from_url(url, defaults)

    def _check_certificates(self) -> None:
        check_certificates(self.connparams)

    def _pool_builder(self) -> Callable[..., Any]:
        return partial(_build_pool, self.ConnectionPool, self.connparams)

    @property
    def ConnectionPool(self) -> Any:
        """The class of connection pools; one that is limited lets threads wait for a connection."""
        return BlockingConnectionPool if self.connparams.get("max_connections") else ConnectionPool

    @property
    def client(self) -> Any:
        """A redis-py client for anything that is wanted of the server."""
        return self.link.client

    @property
    def retry_policy(self) -> dict[str, Any]:  # type: ignore[override]  # Celery's is a property too
        """How storing is retried: the default, and what the transport option of this name says."""
        return {**super().retry_policy, **self._transport_options.get("retry_policy", {})}

    @property
    def _transport_options(self) -> dict[str, Any]:
        return self.app.conf.result_backend_transport_options or {}

    def _additional_errors(self) -> tuple[type[BaseException], ...]:
        given = self._transport_options.get("additional_connection_errors") or ()
        found = []
        for each in [given] if isinstance(given, (str, type)) else given:
            try:
                found.append(symbol_by_name(each))
            except (ImportError, AttributeError, ValueError) as exc:
                logger.warning("additional_connection_errors: %r is left out: %r", each, exc)
        return tuple(found)

    def ensure(self, fun: Callable[..., Any], args: Sequence[Any], **policy: Any) -> Any:
        """Call `fun`, and again after connection errors as the retry policy says."""
        policy = {**self.retry_policy, **policy}
        return retry_over_time(
            fun,
            self.connection_errors,
            args,
            errback=partial(self.on_connection_error, policy.get("max_retries")),
            **policy,
        )

    def on_connection_error(
        self,
        max_retries: float | None,
        exc: BaseException,
        intervals: Iterator[float],
        retries: int,
    ) -> float:
        """Log that the connection was lost; gives the seconds until it is tried again."""
        return _log_lost(max_retries, exc, intervals, retries)

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        return isinstance(exc, self.connection_errors)

    # -- documents

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Context | None = None,
        **kwargs: Any,
    ) -> Any:
        document = self._check_size(
            self._write_document(task_id, result, state, traceback, request)
        )
        seconds = self.failure_expires if state == states.FAILURE else self.expires
        arguments = (self.get_key_for_task(task_id), document, seconds or 0)
        try:
            self._store(*arguments)
        except self.connection_errors:
            if self.always_retry:
                raise  # store_result counts the tries
            self.ensure(self._store, arguments)
        return result

    def _store(self, key: bytes, document: Any, seconds: int) -> None:
        try:
            found = self.link.store(key, document, seconds)
        except redis.exceptions.NoPermissionError:
            # A user who may not run scripts: in two steps, as Celery does it.
            if not self._is_success(self.get(key)):
                self._set(key, document, seconds)
            return
        # Found in another serializer than JSON: only we can tell whether it may go.
        while isinstance(found, (bytes, str)) and not self._is_success(found):
            found = self.link.store(key, document, seconds, judged=found)

    def _is_success(self, document: Any) -> bool:
        try:
            stored = self.decode(document)
        except DecodeError:
            return False
        return isinstance(stored, dict) and stored.get("status") == states.SUCCESS

    def _check_size(self, value: Any) -> Any:
        if len(value) > _MAX_STR_VALUE_SIZE:
            raise BackendStoreError(
                f"a result of {len(value):,} bytes is too large for Redis, which keeps at most "
                f"{_MAX_STR_VALUE_SIZE:,}: store it elsewhere and return where"
            )
        return value

    def get(self, key: Any) -> Any:
        return self.client.get(key)

    def mget(self, keys: list[Any]) -> Any:
        return self.client.mget(keys)

    def set(self, key: Any, value: Any, expires: float | None = None, **retry_policy: Any) -> None:
        """Store `value` for `expires` seconds (default: result_expires) and announce it."""
        seconds = self.expires if expires is None else expires
        self.ensure(self._set, (key, self._check_size(value), seconds), **retry_policy)

    def _set(self, key: Any, value: Any, seconds: Any) -> None:
        with self.client.pipeline() as pipe:
            pipe.set(key, value, ex=int(seconds) if seconds else None)
            pipe.publish(key, value)
            pipe.execute()

    def delete(self, key: Any) -> None:
        self.client.delete(key)

    def incr(self, key: Any) -> int:
        return int(self.client.incr(key))

    def expire(self, key: Any, value: Any) -> Any:
        return self.client.expire(key, int(value))

    def forget(self, task_id: str) -> None:
        """Remove what is stored about a task, and wait for it no more."""
        super().forget(task_id)
        self.result_consumer.cancel_for(task_id)

    # -- settings, names

    def prepare_compression(self, compression: str | None) -> str | None:
        if compression and self.connparams.get("decode_responses"):
            warnings.warn(W_REDIS_COMPRESSION_DISABLED, stacklevel=3)
            return None
        return super().prepare_compression(compression)

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        return super().__reduce__(
            args, {"expires": self.expires, "url": self.url, **(kwargs or {})}
        )


class SentinelBackend(RedisBackend):
    """Results in whichever server Sentinel says is the master.

    The URL lists the Sentinels: `sentinel://host:26379/0;sentinel://host2:26379/0`; the transport
    option `master_name` says which master, `sentinel_kwargs` and `min_other_sentinels` go to
    redis-py's Sentinel.
    """

    #: The module, or None where redis-py is not installed.
    sentinel = sentinel if redis else None
    connection_class_ssl = SentinelManagedSSLConnection if redis else None

    def _params_from_url(self, url: str, defaults: dict[str, Any]) -> dict[str, Any]:
        hosts = [from_url(part.strip(), defaults) for part in url.split(";") if part.strip()]
        parameters = {key: defaults[key] for key in defaults if key not in ("host", "port")}
        # What to say to the master stands in the first URL.
        parameters.update({k: v for k, v in hosts[0].items() if k not in ("host", "port")})
        return {**parameters, "hosts": hosts}

    def _pool_builder(self) -> Callable[..., Any]:
        return partial(_build_sentinel_pool, self.connparams, self._transport_options)

    def as_uri(self, include_password: bool = False) -> str:
        """The list of Sentinels, with passwords masked unless asked for."""
        url = self.url or ""
        if include_password:
            return url
        return ";".join(str(maybe_sanitize_url(part.strip())) for part in url.split(";"))


# At module level: a link must not keep a backend, and with it the application, alive.


def _build_pool(cls: Any, parameters: dict[str, Any], **more: Any) -> Any:
    return cls(**{**parameters, **more})


def _build_sentinel_pool(parameters: dict[str, Any], options: dict[str, Any], **more: Any) -> Any:
    if not options.get("master_name"):
        raise ImproperlyConfigured(E_NO_MASTER_NAME)
    rest = {key: value for key, value in parameters.items() if key != "hosts"}
    manager: Any = cast(Any, sentinel).Sentinel(
        [(each["host"], each["port"]) for each in parameters["hosts"]],
        min_other_sentinels=options.get("min_other_sentinels", 0),
        sentinel_kwargs=options.get("sentinel_kwargs"),
        **{**rest, **more},
    )
    return manager.master_for(options["master_name"]).connection_pool


def _retry(
    policy: dict[str, Any],
    errors: tuple[type[BaseException], ...],
    fun: Callable[[], Any],
    callback: Callable[[], None],
) -> Any:
    errback = partial(_log_lost, policy.get("max_retries"))
    return retry_over_time(fun, errors, errback=errback, callback=callback, **policy)


def _log_lost(
    max_retries: float | None, exc: BaseException, intervals: Iterator[float], retries: int
) -> float:
    seconds = next(intervals)
    often = "Inf" if max_retries is None else max_retries
    logger.error(E_LOST.strip(), retries, often, humanize_seconds(seconds, "in "))
    return seconds
