"""The table of all settings, and the names of what this layer refers to above itself.

Before the journey: `settings.py` reads every value by this table, and the reference page of
settings is written from it. Its rows stand in three files: tasks and broker, worker, backends.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from taskq.app.defaults_backends import BACKENDS, RESULT
from taskq.app.defaults_tasks import (
    APP,
    BROKER,
    DEFAULT_ACCEPT_CONTENT,
    DEFAULT_SECURITY_DIGEST,
    SECURITY,
    TASK,
)
from taskq.app.defaults_worker import (
    BEAT,
    CONTROL,
    DEFAULT_POOL,
    DEFAULT_PROCESS_LOG_FMT,
    DEFAULT_TASK_LOG_FMT,
    EVENT,
    EVENTS,
    WORKER,
)
from taskq.app.option import OLD_NS, OLD_NS_BEAT, OLD_NS_WORKER, Namespace, Option, old_ns
from taskq.exceptions import CDeprecationWarning, CPendingDeprecationWarning

__all__ = [
    "NAMESPACES", "Option", "find", "flatten",
    "DEFAULTS", "GUIDE_NAMES", "LOADERS", "NAMES", "OLD_NAMES", "OLD_NAME_OF", "OPTIONS",
    "SETTING_KEYS", "find_deprecated_settings", "searchresult",
    "DEFAULT_ACCEPT_CONTENT", "DEFAULT_POOL", "DEFAULT_PROCESS_LOG_FMT", "DEFAULT_SECURITY_DIGEST",
    "DEFAULT_TASK_LOG_FMT", "Namespace", "OLD_NS", "OLD_NS_BEAT", "OLD_NS_WORKER", "old_ns",
]  # fmt: skip

# A short name is looked up in this order: `url` is the broker's, not the database's.
NAMESPACES: dict[str, Any] = {
    **APP,
    "beat": BEAT,
    "broker": BROKER,
    "cache": BACKENDS["cache"],
    "control": CONTROL,
    "event": EVENT,
    "result": RESULT,
    **{name: rows for name, rows in BACKENDS.items() if name != "cache"},
    "security": SECURITY,
    "task": TASK,
    "worker": WORKER,
    "events": EVENTS,
}

# What the application refers to above itself, by name only. The names keep Celery's spelling, since
# applications show and override them; symbol_by_name() reads them as ours.
NAMES: dict[str, str] = {
    "amqp": "celery.app.amqp:AMQP",
    "beat": "celery.apps.beat:Beat",
    "build_tracer": "celery.app.trace:build_tracer",
    "control": "celery.app.control:Control",
    "django": "celery.fixups.django:fixup",
    "events": "celery.app.events:Events",
    "log": "celery.app.log:Logging",
    "models": "celery.app.models:Models",
    "registry": "celery.app.registry:TaskRegistry",
    "request": "celery.worker.request:Request",
    "strategy": "celery.worker.strategy:default",
    "task": "celery.app.task:Task",
    "work_controller": "celery.worker:WorkController",
    "worker": "celery.apps.worker:Worker",
}

LOADERS: dict[str, str] = {
    "app": "celery.loaders.app:AppLoader",
    "default": "celery.loaders.default:Loader",
}

# Celery's guide gives these settings old names that Celery itself never read; people use them.
GUIDE_NAMES: dict[str, str] = {
    "CASSANDRA_COLUMN_FAMILY": "cassandra_table",
    "CELERYD_REDIRECT_STDOUTS": "worker_redirect_stdouts",
    "CELERYD_REDIRECT_STDOUTS_LEVEL": "worker_redirect_stdouts_level",
    "CELERYD_SOFT_TIME_LIMIT": "task_soft_time_limit",
    "CELERYD_TIME_LIMIT": "task_time_limit",
    "CELERY_EAGER_PROPAGATES": "task_eager_propagates",
    "CELERY_ENABLE_UTC": "enable_utc",
    "CELERY_PUBLISH_RETRY": "task_publish_retry",
    "CELERY_PUBLISH_RETRY_POLICY": "task_publish_retry_policy",
    "CELERY_RESULT_DB_TABLE_NAMES": "database_table_names",
    "CELERY_RESULT_EXPIRES": "result_expires",
    "CELERY_SEND_SENT_EVENT": "task_send_sent_event",
    "CELERY_TASK_ALWAYS_EAGER": "task_always_eager",
    "CELERY_TASK_REJECT_ON_WORKER_LOST": "task_reject_on_worker_lost",
    "CELERY_TASK_TRACK_STARTED": "task_track_started",
    "CELERY_WORKER_LOG_FORMAT": "worker_log_format",
    "CELERY_WORKER_TASK_LOG_FORMAT": "worker_task_log_format",
}


class searchresult(NamedTuple):
    """A row that was found: the namespace it was found in (None: by its whole name), its name."""

    namespace: str | None
    key: str
    type: Any


def _join_keys(namespace: str, key: str) -> list[str]:
    return [namespace + key]


def flatten(
    d: Mapping[str, Any],
    root: str = "",
    keyfilter: Callable[[str, str], list[str]] = _join_keys,
) -> Iterator[tuple[str, Any]]:
    """All rows of a table with namespaces, as pairs of whole name and row."""
    stack: deque[tuple[str, Mapping[str, Any]]] = deque([(root, d)])
    while stack:
        prefix, table = stack.popleft()
        for key, row in table.items():
            if isinstance(row, dict):
                stack.append((f"{prefix}{key}_", row))
            else:
                for name in keyfilter(prefix, key):
                    yield name, row


OPTIONS: dict[str, Option] = dict(flatten(NAMESPACES))
DEFAULTS: dict[str, Any] = {
    name: option.default for name, option in OPTIONS.items() if option.declared
}
SETTING_KEYS: set[str] = set(DEFAULTS)


def _list_old_names() -> Iterator[tuple[str, str]]:
    for space, rows in NAMESPACES.items():
        table = rows if isinstance(rows, dict) else {"": rows}
        for key, option in table.items():
            if option.declared:
                name = f"{space}_{key}" if key else space
                patterns = option.old or {name}
                for pattern in sorted(patterns):
                    yield pattern.format(key or name).upper(), name


OLD_NAMES: dict[str, str] = dict(_list_old_names())
OLD_NAME_OF: dict[str, str] = {new: old for old, new in OLD_NAMES.items()}


def find(name: str, namespace: str = "celery") -> searchresult:
    """The row with this name: first in the namespace, then in any, then by its whole name.

    Raises KeyError when there is none.
    """
    namespace, name = namespace.lower(), name.lower()
    rows = NAMESPACES.get(namespace)
    if isinstance(rows, dict) and name in rows:
        return searchresult(namespace, name, rows[name])
    for space, rows in NAMESPACES.items():
        if space == name:
            return searchresult(None, space, rows)
        if isinstance(rows, dict) and name in rows:
            return searchresult(space, name, rows[name])
    return searchresult(None, name, OPTIONS[name])


def find_deprecated_settings(source: Any) -> Any:
    """Warn of each setting of `source` that has a value and is on its way out; give it back."""
    for name, option in OPTIONS.items():
        if (option.deprecate_by or option.remove_by) and getattr(source, name, None) is not None:
            category: type[Warning] = CDeprecationWarning
            text = f"The setting {name!r} will be removed in version {option.remove_by}."
            if option.deprecate_by:
                category = CPendingDeprecationWarning
            warnings.warn(f"{text} Use {option.alt} instead.", category, stacklevel=2)
    return source
