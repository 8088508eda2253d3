"""Finding code: the task modules of packages, and the application a name on the command line means.

Before the journey: `loader.py` and the command line ask it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from taskq.utils.imports import home_module, import_from_cwd, symbol_by_name

__all__ = ["autodiscover_tasks", "find_app", "find_related_module"]

# Importing one task module may ask for the tasks again, which would start it all over.
_discovering = False

_by_name = symbol_by_name


def autodiscover_tasks(
    packages: Iterable[str], related_name: str | None = "tasks"
) -> list[ModuleType | None] | tuple[()]:
    """Import the module `related_name` of each package; None for a package without one."""
    global _discovering
    if _discovering:
        return ()
    _discovering = True
    try:
        return [find_related_module(package, related_name) for package in packages]
    finally:
        _discovering = False


def find_related_module(package: str, related_name: str | None) -> ModuleType | None:
    """The module `related_name` of `package`, or None if it has none.

    Without `related_name`, the package. A path that ends in a class (Django's application
    configurations) stands for the package around it. Errors inside the modules are raised.
    """
    try:
        module = importlib.import_module(home_module(package))
        if not related_name:
            return module
    except ModuleNotFoundError as exc:
        around = package.rpartition(".")[0]
        if not around or not is_on_the_way(exc.name, package):
            raise
        package = around
    name = home_module(f"{package}.{related_name}")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name == name:
            return None
        raise


def find_app(
    app: Any,
    symbol_by_name: Callable[..., Any] = symbol_by_name,
    imp: Callable[..., ModuleType] = import_from_cwd,
) -> Any:
    """The application that `-A` names: `module`, `module:attribute` or `package`.

    In a module it is `app`, or `celery`, or that of the submodule `celery`, or any other.
    """
    try:
        found = symbol_by_name(app, imp=imp)
    except AttributeError:
        # `package.module` reads like an attribute of a package that has not been imported.
        found = imp(app)
    if isinstance(found, ModuleType) and ":" not in str(app):
        return _app_of_module(found, app, symbol_by_name, imp)
    return found


def _app_of_module(
    module: ModuleType,
    name: str,
    symbol_by_name: Callable[..., Any],
    imp: Callable[..., ModuleType],
) -> Any:
    for attribute in ("app", "celery"):
        found = getattr(module, attribute, None)
        if found is not None and not isinstance(found, ModuleType):
            return found
        if isinstance(found, ModuleType) and attribute == "app":
            found = getattr(found, "celery", None)
            if found is not None and not isinstance(found, ModuleType):
                return found
    below = f"{module.__name__}.celery"
    if getattr(module, "__path__", None):
        try:
            return find_app(below, symbol_by_name=symbol_by_name, imp=imp)
        except ModuleNotFoundError as exc:
            if exc.name != below:
                raise
    app_class = _by_name("celery.app.base:App")
    for value in vars(module).values():
        if isinstance(value, app_class):
            return value
    raise AttributeError(
        f"module {name!r} has no attribute 'celery': it holds no application. Name the module and"
        f" the attribute that does, as in {name}:app."
    )


def is_on_the_way(missing: str | None, path: str) -> bool:
    """Whether the module that is missing is `path` or one of the packages it lies in."""
    return missing is not None and (path == missing or path.startswith(missing + "."))
