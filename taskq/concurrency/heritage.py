"""This file takes a worker's application and logging into a spawned child.

A forked child has everything; a spawned one is a new interpreter. It imports the application by
the name it has in its module, or else unpickles it, and takes over what was set since.
"""

from __future__ import annotations

import os
import pickle
import sys
from importlib import import_module
from typing import Any

from billiard.reduction import DupFd

from taskq.exceptions import ImproperlyConfigured
from taskq.utils import log_handlers

__all__ = ("Heritage", "set_up_log")

CANNOT_TRAVEL = (
    "--pool-start-method spawn (worker_pool_start_method): children import the application, or "
    "unpickle it; {app!r} is no global name of any module, and {error}. Give it such a name, or "
    "have children forked"
)


class Heritage:
    """What a spawned child is given; nothing of it is imported before `take_over`."""

    def __init__(self, app: Any) -> None:
        """Note how to come by `app`; ImproperlyConfigured when there is no way."""
        self.name = _find(app)
        self.settings: list[bytes] = []
        try:
            self.pickled = b"" if self.name else pickle.dumps(app)
        except Exception as exc:  # a setting's own __reduce__ may raise anything
            raise ImproperlyConfigured(CANNOT_TRAVEL.format(app=app, error=exc)) from exc
        for setting in app.__reduce_keys__()["changes"].items():
            try:
                self.settings.append(pickle.dumps(setting))
            except Exception:  # the same: what cannot travel is as the module has set it
                continue

    def __getstate__(self) -> dict[str, Any]:
        turn = log_handlers.share_turn()
        return {**self.__dict__, "turn": None if turn is None else DupFd(turn)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        turn = state.pop("turn")
        if turn is not None:
            log_handlers.take_turn(turn.detach())
        self.__dict__.update(state)

    def take_over(self, hostname: str) -> Any:
        """Give the application, its settings and this process's logging as the parent has them."""
        if self.name:
            module, name = self.name
            app = getattr(import_module(module), name)
        else:
            app = pickle.loads(self.pickled)
        app.conf.update(dict(pickle.loads(setting) for setting in self.settings))
        if "CELERY_LOG_LEVEL" in os.environ:
            set_up_log(app, hostname)
        return app


def _find(app: Any) -> tuple[str, str] | None:
    """Give (module, name) by which anybody who imports the module has this application."""
    for module, content in list(sys.modules.items()):
        # Ours hold the current application, whichever that is.
        if module.partition(".")[0] not in ("taskq", "celery"):
            for name, value in list(getattr(content, "__dict__", {}).items()):
                if value is app:
                    return module, name
    return None


def set_up_log(app: Any, hostname: str) -> None:
    """Set logging up as the worker has, by what it has left in the environment."""
    app.log.already_setup = False
    app.log.setup(
        int(os.environ.get("CELERY_LOG_LEVEL") or 0),
        os.environ.get("CELERY_LOG_FILE") or None,
        bool(os.environ.get("CELERY_LOG_REDIRECT")),
        os.environ.get("CELERY_LOG_REDIRECT_LEVEL") or "WARNING",
        hostname=hostname,
    )
