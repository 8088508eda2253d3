"""From a URL and the redis_* settings to the arguments of redis-py's connections.

What the URL says wins over the settings, except that credentials are completed from them.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from kombu.utils.url import url_to_parts
from redis.connection import (
    URL_QUERY_ARGUMENT_PARSERS,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.credentials import CredentialProvider

from taskq.exceptions import ImproperlyConfigured
from taskq.utils.imports import symbol_by_name
from taskq.utils.log import get_logger

__all__ = ("from_settings", "from_url")

# Logging configurations know the backend under its public name.
logger = get_logger("taskq.backends.redis")

E_REDIS_SSL_PARAMS_AND_SCHEME_MISMATCH = (
    "The URL of the Redis result backend has TLS options (ssl_...), but its scheme is redis://, "
    "which does not encrypt. Write rediss://."
)
E_REDIS_SSL_CERT_REQS_MISSING_INVALID = (
    "A Redis result backend with TLS (rediss://, redis_backend_use_ssl) needs ssl_cert_reqs: "
    "one of CERT_REQUIRED, CERT_OPTIONAL and CERT_NONE."
)
W_REDIS_SSL_CERT_OPTIONAL = (
    "ssl_cert_reqs=CERT_OPTIONAL: the identity of the Redis server may go unchecked, so that "
    "somebody in between could read and change results. Use CERT_REQUIRED."
)
W_REDIS_SSL_CERT_NONE = (
    "ssl_cert_reqs=CERT_NONE: the identity of the Redis server is not checked, so that somebody "
    "in between can read and change results. Use CERT_REQUIRED."
)

_CERT_REQS: dict[Any, ssl.VerifyMode] = {
    spelling: mode
    for mode, short in (
        (ssl.CERT_REQUIRED, "required"),
        (ssl.CERT_OPTIONAL, "optional"),
        (ssl.CERT_NONE, "none"),
    )
    for spelling in (mode, short, f"CERT_{short.upper()}")
}


def from_settings(
    conf: Any,
    host: str | None = None,
    port: int | None = None,
    db: Any = None,
    password: str | None = None,
    max_connections: int | None = None,
    ssl_class: type = SSLConnection,
) -> dict[str, Any]:
    """The arguments of a connection as the settings and the backend's own arguments say."""
    timeout = conf.redis_socket_timeout
    connect_timeout = conf.redis_socket_connect_timeout
    parameters: dict[str, Any] = {
        "host": host or conf.redis_host or "localhost",
        "port": port or conf.redis_port or 6379,
        "db": db or conf.redis_db or 0,
        "password": password or conf.redis_password,
        "max_connections": max_connections,
        "socket_timeout": timeout and float(timeout),
        "retry_on_timeout": conf.redis_retry_on_timeout or False,
        "socket_connect_timeout": connect_timeout and float(connect_timeout),
        "client_name": conf.redis_client_name,
    }
    if conf.redis_username:
        # Servers older than 6.0 refuse a user name, even an empty one.
        parameters["username"] = conf.redis_username
    if conf.redis_backend_health_check_interval:
        parameters["health_check_interval"] = conf.redis_backend_health_check_interval
    if conf.redis_socket_keepalive:
        parameters["socket_keepalive"] = conf.redis_socket_keepalive
    if conf.redis_backend_credential_provider:
        _use_provider(parameters, conf.redis_backend_credential_provider)
    if conf.redis_backend_use_ssl:
        if not isinstance(conf.redis_backend_use_ssl, Mapping):
            raise ImproperlyConfigured(
                "redis_backend_use_ssl is a mapping such as {'ssl_cert_reqs': 'required', "
                f"'ssl_ca_certs': '/path/ca.pem'}}, got: {conf.redis_backend_use_ssl!r}"
            )
        parameters.update(conf.redis_backend_use_ssl, connection_class=ssl_class)
    return parameters


def from_url(url: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`defaults` (see from_settings()) with what a redis://, rediss:// or socket:// URL says."""
    scheme, host, port, username, password, path, query = url_to_parts(url)
    parameters = {**defaults}
    if scheme == "socket":
        parameters.update(connection_class=UnixDomainSocketConnection, path=f"/{path or ''}")
        for of_tcp in ("host", "port", "socket_connect_timeout", "socket_keepalive"):
            parameters.pop(of_tcp, None)
    else:
        parameters.update(host=host or parameters["host"], port=port or parameters["port"])
        parameters["db"] = path or parameters["db"]
    given = {key: _parse(key, value) for key, value in query.items()}
    provider = given.pop("credential_provider", None)
    parameters["db"] = given.pop("virtual_host", parameters["db"])
    if username:
        parameters["username"] = username
    if password:
        parameters["password"] = password
    if provider or "credential_provider" in parameters:
        _use_provider(parameters, provider or parameters["credential_provider"])
    if scheme == "rediss":
        parameters["connection_class"] = parameters.get("connection_class", SSLConnection)
    elif scheme == "redis" and any(key.startswith("ssl_") for key in given):
        raise ValueError(E_REDIS_SSL_PARAMS_AND_SCHEME_MISMATCH)
    parameters.update(given)
    parameters["db"] = _as_database(parameters["db"])
    return parameters


def check_certificates(parameters: dict[str, Any]) -> None:
    """Where TLS is used: how certificates are checked must be said, and is turned into a mode."""
    if not issubclass(parameters.get("connection_class", object), SSLConnection):
        return
    try:
        mode = _CERT_REQS[parameters.get("ssl_cert_reqs")]
    except (KeyError, TypeError):
        raise ValueError(E_REDIS_SSL_CERT_REQS_MISSING_INVALID) from None
    parameters["ssl_cert_reqs"] = mode
    if mode == ssl.CERT_OPTIONAL:
        logger.warning(W_REDIS_SSL_CERT_OPTIONAL)
    elif mode == ssl.CERT_NONE:
        logger.warning(W_REDIS_SSL_CERT_NONE)
        # Python refuses to check the name on a certificate that is not checked itself.
        parameters.setdefault("ssl_check_hostname", False)


def _parse(key: str, value: str) -> Any:
    parser: Any = URL_QUERY_ARGUMENT_PARSERS.get(key)
    try:
        return parser(value) if parser else value
    except ValueError as exc:
        raise ValueError(f"{key}={value!r} in the URL of the Redis result backend: {exc}") from None


def _as_database(name: Any) -> int:
    try:
        return int(name.strip("/") if isinstance(name, str) else name)
    except ValueError:
        raise ValueError(
            f"the path of the Redis result backend's URL is the number of a database, got {name!r}"
        ) from None


def _use_provider(parameters: dict[str, Any], provider: Any) -> None:
    """Let a credential provider (an instance, a class or its path) take the password's place."""
    if isinstance(provider, str):
        provider = symbol_by_name(provider)
    if isinstance(provider, type) and issubclass(provider, CredentialProvider):
        provider = provider()
    if not isinstance(provider, CredentialProvider):
        raise ValueError(
            "redis_backend_credential_provider is a redis.CredentialProvider, a subclass of it or "
            f"the path of one, got: {provider!r}"
        )
    parameters.pop("username", None)
    parameters.pop("password", None)
    parameters["credential_provider"] = provider
