"""This file is run by every Python that `taskq exec` starts: it answers Celery's names."""

from __future__ import annotations

import importlib
import os
import sys

from taskq.compat import as_celery_wanted, install_as_celery

if as_celery_wanted():
    install_as_celery()

# Python runs one file of this name; the one that ours hides shall run too.
sys.path[:] = [path for path in sys.path if os.path.abspath(path) != os.path.dirname(__file__)]
ours = sys.modules.pop("sitecustomize", None)
try:
    importlib.import_module("sitecustomize")
except ModuleNotFoundError as exc:
    if exc.name != "sitecustomize":
        raise
    if ours is not None:
        sys.modules["sitecustomize"] = ours
