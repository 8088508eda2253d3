"""The brokers taskq brings itself, as kombu transports; all others are kombu's own."""

from __future__ import annotations

import socket
from importlib import import_module
from typing import Any

from kombu.transport import TRANSPORT_ALIASES

from taskq.exceptions import ImproperlyConfigured

__all__ = ("LIBRARIES", "TRANSPORTS", "default_options", "register", "require_library")

#: Our transport of each URL scheme.
TRANSPORTS: dict[str, str] = {
    "amqp": "taskq.transports.amqp:Transport",
    "amqps": "taskq.transports.amqp:SSLTransport",
    "pyamqp": "taskq.transports.amqp:Transport",
    "redis": "taskq.transports.redis:Transport",
    "rediss": "taskq.transports.redis:Transport",
    "sentinel": "taskq.transports.redis:SentinelTransport",
    "sqlite": "taskq.transports.sqlite:Transport",
}

#: Schemes whose transport needs a package that comes with an extra: scheme -> (package, extra).
LIBRARIES = {
    "consul": ("consul", "consul"),
    "gcpubsub": ("google.cloud.pubsub_v1", "gcpubsub"),
    "mongodb": ("pymongo", "mongodb"),
    "pyro": ("Pyro4", "pyro"),
    "redis": ("redis", "redis"),
    "rediss": ("redis", "redis"),
    "sentinel": ("redis", "redis"),
    "slmq": ("softlayer_messaging", "slmq"),
    "sqla": ("sqlalchemy", "sqlalchemy"),
    "sqlalchemy": ("sqlalchemy", "sqlalchemy"),
    "sqs": ("boto3", "sqs"),
    "zookeeper": ("kazoo", "zookeeper"),
}


def default_options(scheme: str, connect_timeout: Any) -> dict[str, Any]:
    """Transport options that stand where the application sets none.

    kombu lets a Redis client wait for ever on a connection whose other end has vanished: here the
    system gives it up after 20 seconds, and a server that says nothing counts as lost after 30.
    """
    if LIBRARIES.get(scheme, ("",))[0] != "redis":
        return {}
    wanted = {"KEEPIDLE": 10, "KEEPINTVL": 5, "KEEPCNT": 3, "USER_TIMEOUT": 20_000}
    known = {getattr(socket, f"TCP_{name}", None): value for name, value in wanted.items()}
    known.pop(None, None)
    return {
        "socket_connect_timeout": connect_timeout,
        "socket_timeout": 30,
        "socket_keepalive": True,
        "socket_keepalive_options": known,
    }


def register() -> None:
    """Teach kombu those of our schemes that it does not know.

    Those it knows keep their entries, for other users of kombu in this process; app.amqp.Connection
    asks the table above first.
    """
    for name, transport in TRANSPORTS.items():
        TRANSPORT_ALIASES.setdefault(name, transport)


def require_library(scheme: Any) -> None:
    """Raise ImproperlyConfigured when the package behind kombu's transport is not installed."""
    # Without its package a transport of kombu fails later, and says less.
    package, extra = LIBRARIES.get(scheme, ("", ""))
    if not package:
        return
    try:
        import_module(package)
    except ImportError as exc:
        raise ImproperlyConfigured(
            f"the broker {scheme}:// needs the package {package}: it comes with taskq[{extra}]"
        ) from exc
