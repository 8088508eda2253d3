"""Tools that know nothing about tasks; each file one trade, Celery's short names answered here.

Names are loaded on first use: `taskq.exceptions` needs `utils.text`, and importing that must not
pull in the rest.
"""

from __future__ import annotations

import importlib
from typing import Any

#: name -> module that defines it
_HOMES = {
    "LOG_LEVELS": "taskq.utils.log",
    "cached_property": "kombu.utils.objects",
    "chunks": "taskq.utils.functional",
    "gen_task_name": "taskq.utils.imports",
    "gen_unique_id": "kombu.utils.uuid",
    "get_cls_by_name": "taskq.utils.imports",
    "get_full_cls_name": "taskq.utils.imports",
    "import_from_cwd": "taskq.utils.imports",
    "instantiate": "taskq.utils.imports",
    "memoize": "taskq.utils.functional",
    "nodename": "taskq.utils.nodenames",
    "nodesplit": "taskq.utils.nodenames",
    "noop": "taskq.utils.functional",
    "uuid": "kombu.utils.uuid",
    "worker_direct": "taskq.utils.nodenames",
}
_NAMES_THERE = {
    "gen_unique_id": "uuid",
    "get_cls_by_name": "symbol_by_name",
    "get_full_cls_name": "qualname",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), _NAMES_THERE.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
