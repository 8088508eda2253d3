"""This package runs tasks: one pool class per way of running; the worker picks one by name."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from taskq.exceptions import ImproperlyConfigured, UnknownPool
from taskq.utils.imports import symbol_by_name

__all__ = ("ALIASES", "get_available_pool_names", "get_implementation", "is_available")

#: Name for `-P` and `worker_pool` -> class of the pool.
ALIASES: dict[str, str | None] = {
    "prefork": "celery.concurrency.prefork:TaskPool",
    "eventlet": "celery.concurrency.eventlet:TaskPool",
    "gevent": "celery.concurrency.gevent:TaskPool",
    "solo": "celery.concurrency.solo:TaskPool",
    "processes": "celery.concurrency.prefork:TaskPool",
    "threads": "celery.concurrency.thread:TaskPool",
    "custom": os.environ.get("TASKQ_CUSTOM_WORKER_POOL")
    or os.environ.get("CELERY_CUSTOM_WORKER_POOL"),
}


def get_implementation(cls: Any) -> Any:
    """Give the pool class for an alias, a "module:Class" name or the class itself.

    Raises UnknownPool (with the closest name) or ImproperlyConfigured (with what there is).
    """
    if not isinstance(cls, str):
        return cls
    if cls in ALIASES:
        return _load_alias(cls)
    if "." not in cls and ":" not in cls:
        raise UnknownPool(cls, ALIASES)
    return symbol_by_name(cls)


def get_available_pool_names() -> tuple[str, ...]:
    """Give all names that `-P` knows."""
    return tuple(ALIASES)


def is_available(alias: str) -> bool:
    """Tell whether the pool behind this alias is part of this version."""
    target = ALIASES.get(alias)
    if target is None:
        return False
    module = target.partition(":")[0]
    if not module.startswith("celery.concurrency."):
        return True
    return find_spec(f"{__name__}.{module.rpartition('.')[2]}") is not None


def _load_alias(alias: str) -> Any:
    target = ALIASES[alias]
    if target is None:
        raise ImproperlyConfigured(
            f"-P {alias} needs the class in the environment variable CELERY_CUSTOM_WORKER_POOL, "
            "as 'module:Class'; it is not set"
        )
    if not is_available(alias):
        raise ImproperlyConfigured(
            f"the {alias} pool is not in this version of taskq yet; there are: {_present()}"
        )
    return symbol_by_name(target)


def _present() -> str:
    return ", ".join(name for name in ALIASES if is_available(name))
