"""This file fits an application into a Django project, and workers into Django's way of life.

Before the journey: `App` calls `fixup` by name, if DJANGO_SETTINGS_MODULE is set. The rest is
signals, as a user's own integration would be.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from datetime import datetime
from datetime import timezone as timezones
from inspect import iscoroutinefunction, unwrap
from typing import Any

from taskq import _state, signals
from taskq.app import settings
from taskq.app.coroutines import run_coroutine
from taskq.app.defaults import NAMES
from taskq.exceptions import FixupWarning
from taskq.utils.log import get_logger

__all__ = ["DjangoFixup", "fixup"]

ERR_NOT_INSTALLED = """\
The environment names Django settings (DJANGO_SETTINGS_MODULE), but there is no Django here: its \
part of taskq stays off. Install Django (pip install 'taskq[django]'), or remove the variable.
"""

logger = get_logger("taskq.fixups.django")


def fixup(app: Any, env: str = "DJANGO_SETTINGS_MODULE") -> DjangoFixup | None:
    """Fit `app` into the Django project that the variable `env` names; None without one."""
    if not os.environ.get(env):
        return None
    try:
        import django  # noqa: F401  # is it there?
    except ImportError:
        warnings.warn(FixupWarning(ERR_NOT_INSTALLED), stacklevel=2)
        return None
    return DjangoFixup(app).install()


class DjangoFixup:
    """What every process of the project gets: tasks that know commits, Django's apps, its clock."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self._worker_fixup: DjangoWorkerFixup | None = None
        # Requests are served by threads that never made the application current.
        if _state.default_app is None:
            app.set_default()

    def install(self) -> DjangoFixup:
        """Take part from now on."""
        # A `taskq` that was installed does not see the project's packages by itself.
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        self.app.loader.now = self.now
        # Given or defined for this application, it is left alone.
        if self.app.task_cls == NAMES["task"] and "task_cls" not in vars(self.app):
            self.app.task_cls = "celery.contrib.django.task:DjangoTask"
        self._read_settings_once()
        signals.import_modules.connect(self.on_import_modules)
        signals.worker_init.connect(self.on_worker_init)
        signals.worker_process_init.connect(self.on_worker_process_init)
        return self

    def _read_settings_once(self) -> None:
        # A look at Django's settings is dear, and a call has many: they are kept as a module's are,
        # until Django announces a change (as override_settings does).
        from django.conf import LazySettings
        from django.core.signals import setting_changed

        if LazySettings not in settings.STEADY_SOURCES:
            settings.STEADY_SOURCES += (LazySettings,)
        setting_changed.connect(self.on_setting_changed)

    def on_setting_changed(self, **kwargs: Any) -> None:
        """Read them anew."""
        self.app.conf.refresh()

    @property
    def worker_fixup(self) -> DjangoWorkerFixup:
        """The part for workers, made when first asked for."""
        if self._worker_fixup is None:
            self._worker_fixup = DjangoWorkerFixup(self.app)
        return self._worker_fixup

    @worker_fixup.setter
    def worker_fixup(self, value: DjangoWorkerFixup) -> None:
        self._worker_fixup = value

    def on_import_modules(self, **kwargs: Any) -> None:
        """Modules with tasks import models: Django's apps are loaded first."""
        self.worker_fixup.validate_models()

    def on_worker_init(self, sender: Any = None, **kwargs: Any) -> None:
        """A worker starts in this process."""
        self.worker_fixup.worker = sender
        self.worker_fixup.install()

    def on_worker_process_init(self, **kwargs: Any) -> None:
        """A child starts; one that was spawned has seen no worker_init."""
        self.worker_fixup.install()
        self.worker_fixup.on_worker_process_init()

    def now(self, utc: bool = False) -> datetime:
        """The time as Django has it: aware with USE_TZ, else local; or aware in UTC."""
        from django.utils import timezone

        return datetime.now(timezones.utc) if utc else timezone.now()

    def autodiscover_tasks(self) -> list[str]:
        """The packages of INSTALLED_APPS, for `app.autodiscover_tasks()`."""
        from django.apps import apps

        return [config.name for config in apps.get_app_configs()]


class DjangoWorkerFixup:
    """What a worker does beyond that: no connection outlives its task or a fork.

    With the setting CELERY_DB_REUSE_MAX a database connection serves so many tasks. Django's
    CONN_MAX_AGE is about requests and has no say here.
    """

    #: the worker that runs here, once there is one
    worker: Any = None

    def __init__(self, app: Any) -> None:
        from django.db import DatabaseError, InterfaceError

        self.app = app
        self.db_reuse_max = app.conf.first("CELERY_DB_REUSE_MAX", "DB_REUSE_MAX")
        self.DatabaseError = DatabaseError
        self.interface_errors = (InterfaceError,)
        self._pid = os.getpid()
        self._spared = 0
        #: kept as they are: to close them would say good-bye to the server in the parent's name
        self._parents: list[Any] = []

    def django_setup(self) -> None:
        """Load Django's settings and apps, and its logging."""
        import django

        django.setup()
        # LOGGING turns off what it does not name, unless told otherwise: tasks would fail unheard.
        for name, ours in logging.Logger.manager.loggerDict.items():
            if name.startswith("celery.") and isinstance(ours, logging.Logger):
                ours.disabled = False

    def validate_models(self) -> None:
        """Load Django and log what its checks find (--skip-checks: do not run them)."""
        from django.core import checks

        self.django_setup()
        if not (os.environ.get("TASKQ_SKIP_CHECKS") or os.environ.get("CELERY_SKIP_CHECKS")):
            for message in checks.run_checks():
                if not message.is_silenced():
                    logger.log(message.level, "Django check: %s", message)

    def install(self) -> DjangoWorkerFixup:
        """Take part from now on."""
        signals.beat_embedded_init.connect(self.close_database)
        signals.task_prerun.connect(self.on_task_prerun)
        signals.task_postrun.connect(self.on_task_postrun)
        return self

    def on_worker_process_init(self, **kwargs: Any) -> None:
        """Begin without the connections of the parent, and leave them to it."""
        if os.getpid() != self._pid:
            self._pid = os.getpid()
            self._leave_connections()
        self._close_connections()
        self.close_cache()

    def on_task_prerun(self, sender: Any, **kwargs: Any) -> None:
        """A task begins with new connections; one that runs in its caller has the caller's."""
        if not sender.request.is_eager:
            self._where_it_runs(sender, self.close_database)

    def on_task_postrun(self, sender: Any, **kwargs: Any) -> None:
        """A task leaves none behind."""
        if not sender.request.is_eager:
            self._where_it_runs(sender, self._close_both)

    def _where_it_runs(self, task: Any, close: Callable[[], None]) -> None:
        from asgiref.sync import sync_to_async

        if iscoroutinefunction(unwrap(task.run)):
            # What a coroutine awaits of Django is done in a thread of Django's choice.
            run_coroutine(sync_to_async(close)())
        else:
            close()

    def _close_both(self) -> None:
        self.close_database()
        self.close_cache()

    def close_database(self, **kwargs: Any) -> None:
        """Close this thread's connections, unless CELERY_DB_REUSE_MAX has them serve on."""
        # Asked twice a task: before it and after.
        if self.db_reuse_max and self._spared < 2 * self.db_reuse_max:
            self._spared += 1
            return
        self._spared = 1
        self._close_connections()

    def close_cache(self) -> None:
        """Close this thread's connections to caches."""
        from django.core.cache import close_caches

        close_caches()

    def _close_connections(self) -> None:
        from django.db import connections

        for connection in connections.all(initialized_only=True):
            try:
                connection.close()
            except (self.DatabaseError, *self.interface_errors) as exc:
                logger.warning("Database %r: closing failed: %r", connection.alias, exc)

    def _leave_connections(self) -> None:
        from django.db import connections

        for connection in connections.all(initialized_only=True):
            # A pool of the database's own (Django 5.1) has left its threads in the parent.
            pool = getattr(connection, "_connection_pools", {}).pop(connection.alias, None)
            self._parents.append((connection.connection, pool))
            connection.connection = None
