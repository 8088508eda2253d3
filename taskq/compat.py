"""Forwarding addresses: Celery's module names answered by taskq's modules.

How it works
    One finder class, two roots. The finder of root `taskq` answers only addresses that moved
    (`taskq.app.utils` lives in `taskq.app.settings`). The finder of root `celery`, put in place by
    `install_as_celery()`, answers all of them, so that `import celery` means taskq in this process.
    Both hand out an `AliasModule`: reads, writes and deletes go to the home module, so a patched
    `celery.app.trace.build_tracer` is the one the worker calls. The alias keeps its own name
    (import hooks look for "celery...") and an empty `__path__`: with a real path every submodule
    would be loaded a second time.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Iterable, Sequence
from types import FunctionType, ModuleType
from typing import Any

#: Celery's address below the package -> the module(s) that hold its names now; first match wins.
MOVED: dict[str, tuple[str, ...]] = {
    "app.autoretry": ("app.retry",),
    "app.backends": ("backends.lookup",),
    "app.utils": (
        "app.settings", "app.censor", "app.detection", "app.spelling", "app.discovery",
        "app.description", "app.pickling",
    ),
    "apps": (),
    "apps.worker": ("worker.program", "worker.shutdown"),
    "bin.call": ("bin.messages",),
    "bin.celery": ("bin.main",),
    "bin.control": ("bin.remote",),
    "bin.purge": ("bin.messages",),
    "bin.result": ("bin.messages",),
    "execute": ("app.shortcuts",),
    "fixups": (),
    "fixups.django": ("contrib.django.fixup",),
    "loaders": ("app.loader",),
    "loaders.app": ("app.loader",),
    "loaders.base": ("app.loader", "app.discovery"),
    "loaders.default": ("app.loader",),
    "local": ("utils.proxy",),
    "log": ("app.shortcuts",),
    "messaging": ("app.shortcuts",),
    "registry": ("app.shortcuts",),
    "utils.iso8601": ("utils.time",),
    "utils.saferepr": ("utils.text",),
    "utils.dispatch": ("utils.signalling",),
    "utils.dispatch.signal": ("utils.signalling",),
    "worker.consumer.agent": ("worker.consumer.steps",),
    "worker.consumer.connection": ("worker.consumer.steps",),
    "worker.consumer.control": ("worker.consumer.steps",),
    "worker.consumer.delayed_delivery": ("worker.consumer.steps",),
    "worker.consumer.tasks": ("worker.consumer.steps",),
}  # fmt: skip

_NOT_FORWARDED = frozenset({"__path__", "__name__", "__spec__", "__loader__", "__package__"})


class AliasModule(ModuleType):
    """A module that is a second name for one or more home modules.

    Its own dict holds only what makes it a module, and its child aliases; everything else is read
    from, written to and deleted in the homes.
    """

    def __init__(self, name: str, homes: Sequence[str]) -> None:
        super().__init__(name)
        self.__dict__["__path__"] = []
        self.__dict__["_homes"] = tuple(homes)

    def __getattr__(self, name: str) -> Any:
        for home in self._loaded_homes():
            try:
                value = getattr(home, name)
            except AttributeError:
                continue
            return self._renamed(name, value)
        if name == "__all__":
            return [name for name in dir(self) if not name.startswith("_")]
        child = self._child(name)
        if child is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return child

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system binds every loaded child to its parent. A child alias belongs to this
        # name only: written through, it would replace the home's real submodule.
        if name in _NOT_FORWARDED or isinstance(value, AliasModule) or not self._homes:
            super().__setattr__(name, value)
        else:
            setattr(self._holder(name), name, value)

    def __delattr__(self, name: str) -> None:
        if name in self.__dict__:
            super().__delattr__(name)
        else:
            delattr(self._holder(name), name)

    def __dir__(self) -> list[str]:
        names: set[str] = set(self.__dict__)
        for home in self._loaded_homes():
            names.update(dir(home))
        return sorted(names)

    def _loaded_homes(self) -> list[ModuleType]:
        return [importlib.import_module(home) for home in self.__dict__["_homes"]]

    def _holder(self, name: str) -> ModuleType:
        homes = self._loaded_homes()
        return next((home for home in homes if name in vars(home)), homes[0])

    def _renamed(self, name: str, value: Any) -> Any:
        """A real submodule must not be seen under the alias: hand out its alias instead."""
        # The type is asked, not isinstance: a proxy (current_app) would make its target.
        if issubclass(type(value), ModuleType) and value.__name__ == f"{self._homes[0]}.{name}":
            return importlib.import_module(f"{self.__name__}.{name}")
        return value

    def _child(self, name: str) -> ModuleType | None:
        if name.startswith("__"):
            return None
        full = f"{self.__name__}.{name}"
        return importlib.import_module(full) if _find_spec(full) else None


class ForwardingFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules below `root` and answers with an alias of their home."""

    def __init__(self, root: str) -> None:
        self.root = root

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        homes = self._homes_of(fullname)
        if homes is None:
            return None
        spec = importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        spec.loader_state = homes
        return spec

    def _homes_of(self, fullname: str) -> tuple[str, ...] | None:
        root, _, below = fullname.partition(".")
        if root != self.root:
            return None
        if below in MOVED:
            return tuple(f"taskq.{home}" for home in MOVED[below])
        if self.root == "taskq":
            return None
        home = f"taskq.{below}" if below else "taskq"
        return (home,) if _find_spec(home) else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return AliasModule(spec.name, spec.loader_state)

    def exec_module(self, module: ModuleType) -> None:
        for home in module.__dict__["_homes"]:
            importlib.import_module(home)


def forward_moved_modules() -> None:
    """Answer moved addresses below `taskq`; done once, when the package is imported."""
    if not any(isinstance(f, ForwardingFinder) and f.root == "taskq" for f in sys.meta_path):
        # Last: only what no file answers is forwarded.
        sys.meta_path.append(ForwardingFinder("taskq"))


def install_as_celery() -> None:
    """Make `import celery` and everything below it mean taskq in this process.

    Call it before anything imports Celery. Calling it again does nothing.

    Raises:
        RuntimeError: the real Celery has already been imported; the message says by whom.
    """
    present = sys.modules.get("celery")
    if isinstance(present, AliasModule):
        return
    if present is not None:
        raise RuntimeError(
            "install_as_celery() came too late: the real celery was already imported"
            f"{_importers_of('celery')}. Call it before that import, or start the program with "
            "`taskq --as-celery` or TASKQ_AS_CELERY=1."
        )
    if not any(isinstance(f, ForwardingFinder) and f.root == "celery" for f in sys.meta_path):
        # First: it must win even where Celery is installed.
        sys.meta_path.insert(0, ForwardingFinder("celery"))


def as_celery_wanted(environ: dict[str, str] | None = None) -> bool:
    """Whether TASKQ_AS_CELERY asks for Celery's names in this process and its children."""
    value = (os.environ if environ is None else environ).get("TASKQ_AS_CELERY", "")
    return value.strip().lower() in {"1", "true", "yes", "on"}


def _find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ModuleNotFoundError, ValueError):
        return None


def _importers_of(package: str) -> str:
    """Which modules hold names of `package`, as text for an error message."""

    def uses(module: ModuleType) -> bool:
        return any(_belongs_to(_module_of(value), package) for value in list(vars(module).values()))

    modules: Iterable[tuple[str, ModuleType]] = list(sys.modules.items())
    names = sorted(
        name
        for name, module in modules
        if isinstance(module, ModuleType) and not _belongs_to(name, package) and uses(module)
    )
    return f" by {', '.join(names[:5])}" if names else ""


def _module_of(value: object) -> object:
    """Where a class, function or module is from; nothing else is asked: it may be a proxy."""
    if issubclass(type(value), ModuleType):
        return vars(value).get("__name__")
    return value.__module__ if issubclass(type(value), (type, FunctionType)) else None


def _belongs_to(name: object, package: str) -> bool:
    return isinstance(name, str) and (name == package or name.startswith(package + "."))
