"""This file is how an application, and what is bound to it, travels through pickle.

An application is sent as its class and the settings that are not defaults; its tasks are looked up
by name where it arrives.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from taskq._state import get_current_app

if TYPE_CHECKING:
    from taskq.app.base import App


class AppPickler:
    """Old style of pickling: an application class with a `__reduce_args__` of its own."""

    def __call__(self, cls: type[App], *args: Any) -> App:
        kwargs = self.build_kwargs(*args)
        app = self.construct(cls, **kwargs)
        self.prepare(app, **kwargs)
        return app

    def prepare(self, app: App, **kwargs: Any) -> None:
        """Give the new application the settings that were changed."""
        app.conf.update(kwargs["changes"])

    def build_kwargs(self, *args: Any) -> dict[str, Any]:
        """The constructor's keyword arguments of what was pickled."""
        return self.build_standard_kwargs(*args)

    def build_standard_kwargs(
        self,
        main: str | None,
        changes: Mapping[str, Any],
        loader: Any,
        backend: Any,
        amqp: Any,
        events: Any,
        log: Any,
        control: Any,
        accept_magic_kwargs: Any,
        config_source: Any = None,
        config_source_silent: bool = False,
    ) -> dict[str, Any]:
        """The keyword arguments of an application pickled by `App.__reduce_args__`."""
        return {
            "main": main,
            "loader": loader,
            "backend": backend,
            "amqp": amqp,
            "changes": changes,
            "events": events,
            "log": log,
            "control": control,
            "set_as_current": False,
            "config_source": config_source,
            "config_source_silent": config_source_silent,
        }

    def construct(self, cls: type[App], **kwargs: Any) -> App:
        """Make the application."""
        return cls(**kwargs)


def _unpickle_app(cls: type[App], pickler: type[AppPickler], *args: Any) -> App:
    return pickler()(cls, *args)


def _unpickle_app_v2(cls: type[App], kwargs: dict[str, Any]) -> App:
    return cls(**{"set_as_current": False, **kwargs})


def _unpickle_appattr(path: str, args: tuple[Any, ...]) -> Any:
    """Call `app.<path>(*args)` of the current application."""
    return attrgetter(path)(get_current_app())(*args)
