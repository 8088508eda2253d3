"""Loaders: where an application's configuration and its task modules come from.

Before the journey: `configuration.py` asks the loader for the source of settings, the worker for
the modules with tasks.
"""

from __future__ import annotations

import importlib
import os
import re
import warnings
from collections.abc import Callable, Iterable
from datetime import datetime
from datetime import timezone as timezones
from functools import cached_property
from types import ModuleType, SimpleNamespace
from typing import Any

from kombu.utils.functional import maybe_list

from taskq import signals
from taskq.app.cmdline import RE_TYPE, parse_settings
from taskq.app.defaults import LOADERS
from taskq.app.discovery import autodiscover_tasks, find_related_module, is_on_the_way
from taskq.app.option import to_bool
from taskq.exceptions import NotConfigured
from taskq.utils.collections import DictAttribute, force_mapping
from taskq.utils.imports import (
    NotAPackage,
    find_module,
    home_module,
    import_from_cwd,
    symbol_by_name,
)

__all__ = [
    "DEFAULT_CONFIG_MODULE",
    "AppLoader",
    "BaseLoader",
    "Loader",
    "autodiscover_tasks",
    "find_related_module",
    "get_loader_cls",
]

LOADER_ALIASES = LOADERS
DEFAULT_CONFIG_MODULE = "celeryconfig"

# Warn when the default loader finds no configuration.
C_WNOCONF = os.environ.get("C_WNOCONF", False)

CONFIG_INVALID_NAME = """\
There is no module {module!r} to take the configuration from: give the name of a module, as in \
an import statement.
"""
CONFIG_WITH_SUFFIX = CONFIG_INVALID_NAME + "Did you mean {suggest!r}?\n"

unconfigured = object()


def get_loader_cls(loader: Any) -> Any:
    """The class of a loader, by alias or path."""
    return symbol_by_name(loader, LOADER_ALIASES, imp=import_from_cwd)


class BaseLoader:
    """What every loader does; a loader of one's own overrides some of it.

    The `on_*` methods are called as the worker goes on, and do nothing by themselves.
    """

    builtin_modules: frozenset[str] = frozenset()
    configured = False
    override_backends: dict[str, str] = {}
    worker_initialized = False

    _conf: Any = unconfigured

    def __init__(self, app: Any, **kwargs: Any) -> None:
        self.app = app
        self.task_modules: set[str] = set()

    # -- the source of settings

    @property
    def conf(self) -> Any:
        """The source of settings: a mapping, or None when there is none."""
        if self._conf is unconfigured:
            self._conf = self.read_configuration()
        return self._conf

    def read_configuration(self, env: str = "CELERY_CONFIG_MODULE") -> Any:
        """The module that this environment variable, or its TASKQ_ twin, names; else None."""
        name = os.environ.get(env.replace("CELERY_", "TASKQ_", 1)) or os.environ.get(env)
        return DictAttribute(self._import_config_module(name)) if name else None

    def config_from_object(self, obj: Any, silent: bool = False) -> bool:
        """Take settings from an object, a mapping, or the path of one.

        Whether there was one: with `silent`, an object that cannot be imported gives False.
        """
        if isinstance(obj, str):
            try:
                obj = self._import_config_object(obj)
            except (ImportError, AttributeError):
                if silent:
                    return False
                raise
        self._conf = force_mapping(obj)
        override = self._conf.get("override_backends") if hasattr(self._conf, "get") else None
        if override is not None:
            self.override_backends = override
        return True

    def _import_config_object(self, path: str) -> Any:
        if ":" in path:
            return symbol_by_name(path, imp=self.import_from_cwd)
        try:
            return self.import_from_cwd(path)
        except ModuleNotFoundError as exc:
            # Only when the path itself is no module may its end be an attribute.
            if "." not in path or not is_on_the_way(exc.name, path):
                raise
        if path.endswith(".py"):
            message = CONFIG_WITH_SUFFIX.format(module=path, suggest=path[:-3])
            raise ModuleNotFoundError(message, name=path)
        return symbol_by_name(path, imp=self.import_from_cwd)

    def _import_config_module(self, name: str) -> ModuleType:
        try:
            return self.find_module(name)
        except NotAPackage:
            text = CONFIG_WITH_SUFFIX if name.endswith(".py") else CONFIG_INVALID_NAME
            message = text.format(module=name, suggest=name.removesuffix(".py"))
            raise NotAPackage(message) from None

    def cmdline_config_parser(
        self,
        args: Iterable[str],
        namespace: str = "celery",
        re_type: re.Pattern[str] = RE_TYPE,
        extra_types: dict[str, Callable[[str], Any]] | None = None,
        override_types: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """Settings of the command line: `ns.name=value`, or `.name=value` within `namespace`.

        `(type)value` reads the value as an int, float, bool, tuple, list, dict or json. Raises
        ImproperlyConfigured for what is no setting or no value of it.
        """
        return parse_settings(args, namespace, re_type, extra_types, override_types)

    # -- modules with tasks

    @cached_property
    def default_modules(self) -> tuple[str, ...]:
        """The modules a worker imports: those of the settings `imports` and `include`."""
        conf = self.app.conf
        return (
            *self.builtin_modules,
            *(maybe_list(conf.imports) or ()),
            *(maybe_list(conf.include) or ()),
        )

    def import_default_modules(self) -> list[ModuleType]:
        """Import the worker's modules, after all that the signal import_modules asks for."""
        for _, answer in signals.import_modules.send(sender=self.app):
            # A signal hands errors back; here one means that tasks are missing.
            if isinstance(answer, Exception):
                raise answer
        return [self.import_task_module(module) for module in self.default_modules]

    def autodiscover_tasks(
        self, packages: Iterable[str] | None, related_name: str | None = "tasks"
    ) -> None:
        """Import the module `related_name` of each package that has one."""
        found = autodiscover_tasks(packages or (), related_name)
        self.task_modules.update(module.__name__ for module in found if module)

    def import_task_module(self, module: str) -> ModuleType:
        self.task_modules.add(module)
        return self.import_from_cwd(module)

    def import_module(self, module: str, package: str | None = None) -> ModuleType:
        return importlib.import_module(home_module(module), package=package)

    def import_from_cwd(
        self,
        module: str,
        imp: Callable[..., ModuleType] | None = None,
        package: str | None = None,
    ) -> ModuleType:
        """Import a module; the working directory counts as a place for modules."""
        return import_from_cwd(module, imp or self.import_module, package)

    def find_module(self, module: str) -> ModuleType:
        return find_module(module)

    def now(self, utc: bool = True) -> datetime:
        return datetime.now(timezones.utc) if utc else datetime.now()

    # -- the worker's life

    def init_worker(self) -> None:
        """Called by the worker, once: import the modules with tasks."""
        if not self.worker_initialized:
            self.worker_initialized = True
            self.import_default_modules()
            self.on_worker_init()

    def init_worker_process(self) -> None:
        self.on_worker_process_init()

    def shutdown_worker(self) -> None:
        self.on_worker_shutdown()

    def on_worker_init(self) -> None:
        """The worker has imported its modules and is about to start."""

    def on_worker_process_init(self) -> None:
        """A child of the pool has started."""

    def on_worker_shutdown(self) -> None:
        """The worker is about to end."""

    def on_task_init(self, task_id: str, task: Any) -> None:
        """A task is about to run."""

    def on_process_cleanup(self) -> None:
        """A task has run, and what it left behind is being put away."""


class AppLoader(BaseLoader):
    """The loader of an application that is configured by its own code."""


class Loader(BaseLoader):
    """The loader of the default application: settings come from a module `celeryconfig`."""

    def setup_settings(self, settingsdict: Any) -> DictAttribute:
        return DictAttribute(settingsdict)

    def read_configuration(  # type: ignore[override]  # Celery's signature
        self, fail_silently: bool = True
    ) -> Any:
        """The module the environment names, or `celeryconfig`; nothing when there is none."""
        name = (
            os.environ.get("TASKQ_CONFIG_MODULE")
            or os.environ.get("CELERY_CONFIG_MODULE")
            or DEFAULT_CONFIG_MODULE
        )
        try:
            module = self._import_config_module(name)
        except ImportError:
            if not fail_silently:
                raise
            if C_WNOCONF and to_bool(C_WNOCONF):
                warnings.warn(
                    NotConfigured(f"No module {name!r}: set up one that can be imported."),
                    stacklevel=2,
                )
            # A dict would have its methods taken for settings.
            return self.setup_settings(SimpleNamespace())
        self.configured = True
        return self.setup_settings(module)
