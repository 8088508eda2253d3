"""This file answers Celery's oldest module names: what they hold is a part of the current app.

`celery.execute`, `celery.log`, `celery.messaging` and `celery.registry` are forwarded here.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from taskq._state import get_current_app

#: name -> where it is, from the application on.
SHORTCUTS = {
    "TaskConsumer": "amqp.TaskConsumer",
    "establish_connection": "connection",
    "get_consumer_set": "amqp.TaskConsumer",
    "get_default_logger": "log.get_default_logger",
    "redirect_stdouts_to_logger": "log.redirect_stdouts_to_logger",
    "send_task": "send_task",
    "setup_logging_subsystem": "log.setup_logging_subsystem",
    "tasks": "tasks",
}


def __getattr__(name: str) -> Any:
    path = SHORTCUTS.get(name)
    if path is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return attrgetter(path)(get_current_app())


def __dir__() -> list[str]:
    return sorted({*globals(), *SHORTCUTS})
