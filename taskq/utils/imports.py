"""Modules and objects by name: the one place where a string becomes code.

Names are spelled as Celery spells them ("celery.worker.consumer:Consumer") because app.conf shows
them; `symbol_by_name` reads a leading "celery." as ours.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from kombu.utils import imports as kombu_imports

from taskq.utils.text import closest

__all__ = (
    "NotAPackage",
    "closest",
    "cwd_in_path",
    "find_module",
    "gen_task_name",
    "home_module",
    "import_from_cwd",
    "instantiate",
    "lazy_function",
    "load_extension_class_names",
    "load_extension_classes",
    "module_file",
    "qualname",
    "reload_from_cwd",
    "symbol_by_name",
)

#: Where the program's main module is, when billiard has started this process by spawning.
MP_MAIN_FILE = os.environ.get("MP_MAIN_FILE")

Importer = Callable[..., ModuleType]


class NotAPackage(Exception):
    """A submodule was asked of something that is a plain module."""


def qualname(obj: Any) -> str:
    """`module.Name` of a class or function; of another object, that of its class."""
    if not hasattr(obj, "__name__") and hasattr(obj, "__class__"):
        obj = obj.__class__
    name: str = getattr(obj, "__qualname__", obj.__name__)
    return name if "." in name else f"{obj.__module__}.{name}"


def home_module(module: str) -> str:
    """Our name of a module that may be spelled as Celery's: `celery.x` -> `taskq.x`.

    A name inside the module may follow: `celery.x:Y` -> `taskq.x:Y`.
    """
    if module.startswith(("celery.", "celery:")) or module == "celery":
        return "taskq" + module[6:]
    return module


def symbol_by_name(
    name: Any,
    aliases: Mapping[str, str] | None = None,
    imp: Importer | None = None,
    package: str | None = None,
    sep: str = ".",
    default: Any = None,
    **kwargs: Any,
) -> Any:
    """The object called `package.module:Name` or `package.module.Name`.

    Arguments:
        name: what is not text is returned as it is.
        aliases: short names, looked up first.
        imp: imports a module by name.
        package: where relative names start.
        default: returned instead of an ImportError or AttributeError.
    """
    if not isinstance(name, str):
        return name
    name = (aliases and aliases.get(name)) or name
    return kombu_imports.symbol_by_name(
        home_module(name),
        None,
        imp,
        home_module(package) if package else package,
        sep,
        default,
        **kwargs,
    )


def instantiate(name: Any, *args: Any, **kwargs: Any) -> Any:
    """Call the class of that name: `instantiate("celery.app.log:Logging", app)`."""
    return symbol_by_name(name)(*args, **kwargs)


def lazy_function(name: str) -> Callable[..., Any]:
    """A function that is imported when it is first called: for what most clients never need."""
    found: Callable[..., Any] | None = None

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal found
        if found is None:
            found = symbol_by_name(name)
        return found(*args, **kwargs)

    return call


@contextmanager
def cwd_in_path() -> Iterator[None]:
    """The working directory can be imported from, as long as the block runs."""
    try:
        cwd = os.getcwd()
    except FileNotFoundError:
        # The directory was removed: there is nothing in it to import.
        cwd = None
    if cwd is None or cwd in sys.path:
        yield
        return
    sys.path.insert(0, cwd)
    try:
        yield
    finally:
        try:
            sys.path.remove(cwd)
        except ValueError:
            # The imported code has cleaned up by itself.
            pass


def find_module(module: str, path: Any = None, imp: Importer | None = None) -> ModuleType:
    """Import `module`, with the working directory in the path.

    Raises:
        NotAPackage: a dotted name goes through a plain module. It stands for more than "not
            found": the name probably means an attribute.
    """
    imp = imp or importlib.import_module
    with cwd_in_path():
        try:
            return imp(module)
        except ImportError:
            package = _plain_module_on_the_way(module, imp)
            if package is not None:
                raise NotAPackage(package) from None
            raise


def _plain_module_on_the_way(module: str, imp: Importer) -> str | None:
    parts = module.split(".")
    for end in range(1, len(parts)):
        name = ".".join(parts[:end])
        try:
            parent = imp(name)
        except ImportError:
            return None
        if not hasattr(parent, "__path__"):
            return name
    return None


def import_from_cwd(
    module: str, imp: Importer | None = None, package: str | None = None
) -> ModuleType:
    """Import `module`, with the working directory in the path."""
    imp = imp or importlib.import_module
    with cwd_in_path():
        return imp(module, package=package)


def reload_from_cwd(
    module: ModuleType, reloader: Callable[[ModuleType], ModuleType] | None = None
) -> ModuleType:
    """Reload `module`, with the working directory in the path."""
    with cwd_in_path():
        return (reloader or importlib.reload)(module)


def module_file(module: ModuleType) -> str:
    """The source file of a module, also where it was loaded from bytecode."""
    name = module.__file__
    if name is None:
        raise ValueError(f"{module.__name__} has no file")
    return name[:-1] if name.endswith((".pyc", ".pyo")) else name


def gen_task_name(app: Any, name: str, module_name: str | None) -> str:
    """The automatic name of a task: its module and its own name.

    A task of the main program is named after `app.main`: worker and client run different programs,
    but must agree on the name.
    """
    module_name = module_name or "__main__"
    module = sys.modules.get(module_name)
    if module is not None:
        # Under `python -m`, the module's real name stands in its spec.
        main_file = getattr(module, "__file__", None)
        if MP_MAIN_FILE and main_file == MP_MAIN_FILE:
            module_name = "__main__"
        else:
            module_name = module.__name__
    if module_name == "__main__" and app.main:
        return f"{app.main}.{name}"
    return ".".join(part for part in (module_name, name) if part)


def load_extension_class_names(namespace: str) -> Iterator[tuple[str, str]]:
    """(name, "module:Class") of all entry points of the group `namespace`.

    A group of Celery's name is followed by ours: `celery.commands`, then `taskq.commands`.
    """
    groups = [namespace]
    if namespace.startswith("celery."):
        groups.append(home_module(namespace))
    seen: set[tuple[str, str]] = set()
    installed = entry_points()  # once: it opens a file of every installed package
    for group in groups:
        for point in installed.select(group=group):
            if (point.name, point.value) not in seen:
                seen.add((point.name, point.value))
                yield point.name, point.value


def load_extension_classes(namespace: str) -> Iterator[tuple[str, Any]]:
    """(name, class) of the entry points of a group; one that cannot be loaded is a warning."""
    for name, class_name in load_extension_class_names(namespace):
        try:
            cls = symbol_by_name(class_name)
        except (ImportError, SyntaxError) as exc:
            warnings.warn(
                f"Cannot load {namespace} extension {class_name!r}: {exc!r}", stacklevel=2
            )
        else:
            yield name, cls
