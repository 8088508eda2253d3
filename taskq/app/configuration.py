"""An application's configuration: what is set where, and when it is loaded; a part of `App`.

Before the journey. Nothing is imported or decided until somebody reads a setting: then the source
is imported once and laid over the defaults, and what was written before lies on top.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping
from functools import cached_property
from threading import RLock, get_ident
from typing import Any, ClassVar

from taskq.app.defaults import find_deprecated_settings
from taskq.app.detection import detect_settings, fresh_defaults
from taskq.app.loader import BaseLoader, get_loader_cls
from taskq.app.pending import PendingConfiguration
from taskq.app.settings import Settings
from taskq.exceptions import ImproperlyConfigured

__all__ = ["Configuration", "PendingConfiguration"]

ERR_ENVVAR_NOT_SET = """\
The environment variable {0!r} is not set, but the configuration is to be loaded from the module \
it names. Set it, for example: {0}="proj.celeryconfig".\
"""


class Configuration:
    """The part of an application that knows its settings and its loader."""

    # An application class's own defaults, between those of the table and what the user sets.
    default_settings: ClassVar[Mapping[str, Any]] = {}

    loader_cls: Any = None
    configured: bool
    namespace: str | None
    on_configure: Any = None
    on_after_configure: Any = None

    def _init_configuration(
        self,
        *,
        loader: Any = None,
        settings: Mapping[str, Any] | None = None,
        changes: Mapping[str, Any] | None = None,
        config_source: Any = None,
        config_source_silent: bool = False,
        namespace: str | None = None,
    ) -> None:
        """Keep what the constructor was given.

        Arguments:
            settings: what its own arguments set.
            changes: what was changed where the application comes from.
        """
        self.loader_cls = loader or self._get_default_loader()
        self.namespace = namespace
        self.configured = False
        self._config_source = config_source
        self._config_source_silent = config_source_silent
        self._pending_defaults: deque[Callable[[], Any]] = deque()
        self._preconf: dict[str, Any] = {**(changes or {}), **(settings or {})}
        self._configuring = RLock()
        self._configured_by: int | None = None

    @cached_property
    def conf(self) -> Settings:
        """The settings; the object stays the same for the life of the application."""
        return Settings(PendingConfiguration(self._preconf, self._finalize_pending_conf))

    # -- sources

    def config_from_object(
        self, obj: Any, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> Any:
        """Take the settings from an object, a mapping, a module, or the path of one.

        It is imported when the first setting is read, or now with `force` and when settings were
        read before; what was changed since then is forgotten.

        Arguments:
            silent: a path that cannot be imported is no error.
            namespace: names in the source begin with it, as in CELERY_TASK_SERIALIZER.
        """
        self._config_source = obj
        self._config_source_silent = silent
        self.namespace = namespace or self.namespace
        if not (force or self.configured):
            return None
        with self._configuring:
            found = self.loader.config_from_object(obj, silent=silent)
            settings = self._load_config()
        return settings if found else None

    def config_from_envvar(
        self, variable_name: str, silent: bool = False, force: bool = False
    ) -> Any:
        """Take the settings from the module this environment variable names.

        Raises ImproperlyConfigured when it is not set, unless `silent`.
        """
        module = os.environ.get(variable_name)
        if module:
            return self.config_from_object(module, silent=silent, force=force)
        if silent:
            return False
        raise ImproperlyConfigured(ERR_ENVVAR_NOT_SET.format(variable_name))

    def config_from_cmdline(self, argv: list[str], namespace: str = "celery") -> None:
        """Change settings as the command line says: `ns.name=value`."""
        self.conf.update(self.loader.cmdline_config_parser(argv, namespace))

    def add_defaults(self, fun: Any) -> Any:
        """Add settings, a mapping or a function that gives one, that the user's changes override.

        A function is called when the configuration is loaded.
        """
        make = fun if callable(fun) else lambda: fun
        if self.configured:
            return self.conf.add_defaults(make())
        self._pending_defaults.append(make)
        return None

    def prepare_config(self, c: Any) -> Any:
        """The source of settings before it is used; to be overridden."""
        return find_deprecated_settings(c)

    # -- loading

    def _finalize_pending_conf(self) -> Settings:
        """Load the configuration because a setting is read for the first time."""
        if self._configured_by == get_ident():
            # A receiver of on_configure, or the source itself, reads a setting on the way.
            return Settings(self._preconf, [fresh_defaults(self.default_settings)])
        with self._configuring:
            if isinstance(self.conf.changes, PendingConfiguration):
                self._load_config()
        return self.conf

    def _load_config(self) -> Settings:
        self._configured_by = get_ident()
        try:
            settings = self._read_config()
        finally:
            self._configured_by = None
        self.conf.swap_with(settings)
        self.configured = True
        while self._pending_defaults:
            self.conf.add_defaults(self._pending_defaults.popleft()())
        self.on_after_configure.send(sender=self, source=self.conf)
        return self.conf

    def _read_config(self) -> Settings:
        self.on_configure.send(sender=self)
        if self._config_source is not None:
            self.loader.config_from_object(self._config_source, silent=self._config_source_silent)
        return detect_settings(
            self.prepare_config(self.loader.conf),
            self._preconf,
            prefix=self.namespace,
            defaults=self.default_settings,
        )

    # -- the loader

    @cached_property
    def loader(self) -> BaseLoader:
        """Where the configuration and the modules with tasks come from."""
        loader: BaseLoader = get_loader_cls(self.loader_cls)(app=self)
        return loader

    def _get_default_loader(self) -> Any:
        return (
            os.environ.get("TASKQ_LOADER")
            or os.environ.get("CELERY_LOADER")
            or self.loader_cls
            or "celery.loaders.app:AppLoader"
        )
