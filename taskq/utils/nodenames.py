"""Names of nodes (`name@host`) and the texts in which they can be filled in."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import lru_cache, partial

from kombu.entity import Exchange, Queue

from taskq.utils.log import current_process_index
from taskq.utils.text import simple_format

__all__ = (
    "anon_nodename",
    "default_nodename",
    "gethostname",
    "host_format",
    "node_format",
    "nodename",
    "nodesplit",
    "worker_direct",
)

WORKER_DIRECT_EXCHANGE = Exchange("C.dq2")
WORKER_DIRECT_QUEUE_FORMAT = "{hostname}.dq2"

NODENAME_SEP = "@"
NODENAME_DEFAULT = "celery"


@lru_cache(maxsize=1)
def gethostname() -> str:
    """This machine's name, asked for once."""
    return socket.gethostname()


def worker_direct(hostname: str | Queue) -> Queue:
    """The queue only the worker of that node name consumes from."""
    if isinstance(hostname, Queue):
        return hostname
    return Queue(
        WORKER_DIRECT_QUEUE_FORMAT.format(hostname=hostname),
        WORKER_DIRECT_EXCHANGE,
        hostname,
    )


def nodename(name: str, hostname: str) -> str:
    """`name@hostname`."""
    return f"{name}{NODENAME_SEP}{hostname}"


def anon_nodename(hostname: str | None = None, prefix: str = "gen") -> str:
    """The name of a process that is no worker: `gen<pid>@<host>`."""
    return nodename(f"{prefix}{os.getpid()}", hostname or gethostname())


def nodesplit(name: str) -> tuple[str | None, str]:
    """(name, host) of a node name; (None, host) of a plain host name."""
    first, sep, host = name.partition(NODENAME_SEP)
    return (first, host) if sep else (None, name)


def default_nodename(hostname: str | None, default_name: str = NODENAME_DEFAULT) -> str:
    """A whole node name, with `celery` and this host for what is missing."""
    name, host = nodesplit(hostname or "")
    return nodename(name or default_name, host or gethostname())


def node_format(s: str | None, name: str, **extra: str | Callable[[], str]) -> str | None:
    """`s` with %n %h %d %p %i %I filled in from a node name."""
    short, host = nodesplit(name)
    return host_format(s, host, short or NODENAME_DEFAULT, p=name, **extra)


def _pool_index(before: str = "", after: str = "") -> str:
    index = current_process_index()
    return f"{before}{index or 0}{after}" if index or not before else ""


def host_format(
    s: str | None,
    host: str | None = None,
    name: str | None = None,
    **extra: str | Callable[[], str],
) -> str | None:
    """`s` with %h (host), %n (name), %d (domain), %i (pool index) and %I (-index) filled in.

    Without a name, %n is the host up to its first dot.
    """
    host = host or gethostname()
    short, _, domain = host.partition(".")
    keys: dict[str, str | Callable[[], str]] = {
        "h": host,
        "n": name or short,
        "d": domain,
        "i": _pool_index,
        "I": partial(_pool_index, "-"),
        **extra,
    }
    return simple_format(s, keys)
