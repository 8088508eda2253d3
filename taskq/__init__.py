"""Public names of taskq, loaded on first use.

`import taskq` reads two small files; everything else is imported when one of its names is asked
for. `PUBLIC` says where each name lives. The block under TYPE_CHECKING is its twin for type
checkers and editors; a test holds the two together.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from taskq.compat import as_celery_wanted, forward_moved_modules, install_as_celery
from taskq.version import (
    SERIES,
    VERSION,
    VERSION_BANNER,
    __version__,
    version_info,
    version_info_t,
)

#: public name -> module that defines it
PUBLIC = {
    "App": "taskq.app.base",
    "Celery": "taskq.app.base",
    "Task": "taskq.app.task",
    "bugreport": "taskq.app",
    "shared_task": "taskq.app",
    "Signature": "taskq.canvas",
    "chain": "taskq.canvas",
    "group": "taskq.canvas",
    "maybe_signature": "taskq.canvas",
    "signature": "taskq.canvas",
    "subtask": "taskq.canvas",
    "current_app": "taskq._state",
    "current_task": "taskq._state",
    "uuid": "kombu.utils.uuid",
}

#: modules that may be reached as attributes after a plain `import taskq`
SUBMODULES = frozenset({
    "_state", "app", "apps", "backends", "bin", "bootsteps", "canvas", "concurrency", "context",
    "exceptions", "execute", "fixups", "loaders", "local", "log", "messaging", "platforms",
    "protocol", "registry", "result", "signals", "states", "transports", "utils", "worker",
})  # fmt: skip

__all__ = [
    *PUBLIC,
    "SERIES",
    "VERSION",
    "VERSION_BANNER",
    "__version__",
    "install_as_celery",
    "version_info",
    "version_info_t",
]

if TYPE_CHECKING:
    from kombu.utils.uuid import uuid as uuid

    from taskq._state import current_app as current_app
    from taskq._state import current_task as current_task
    from taskq.app import bugreport as bugreport
    from taskq.app import shared_task as shared_task
    from taskq.app.base import App as App
    from taskq.app.base import Celery as Celery
    from taskq.app.task import Task as Task
    from taskq.canvas import Signature as Signature
    from taskq.canvas import chain as chain
    from taskq.canvas import group as group
    from taskq.canvas import maybe_signature as maybe_signature
    from taskq.canvas import signature as signature
    from taskq.canvas import subtask as subtask


def __getattr__(name: str) -> Any:
    home = PUBLIC.get(name)
    if home is not None:
        value = globals()[name] = getattr(importlib.import_module(home), name)
        return value
    if name in SUBMODULES:
        return importlib.import_module(f"taskq.{name}")
    raise AttributeError(f"module 'taskq' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC, *SUBMODULES})


forward_moved_modules()
if as_celery_wanted():
    # Here and not in the command line: children that are spawned import taskq, not its main.
    install_as_celery()
