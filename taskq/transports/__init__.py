"""The brokers taskq brings itself, as kombu transports; all others are kombu's own."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from kombu.transport import TRANSPORT_ALIASES

from taskq.exceptions import ImproperlyConfigured

__all__ = ("LIBRARIES", "TRANSPORTS", "register", "require_library")

#: Our transport of each URL scheme.
TRANSPORTS: dict[str, str] = {"sqlite": "taskq.transports.sqlite:Transport"}

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
