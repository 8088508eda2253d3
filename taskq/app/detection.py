"""Settings made of a source: which names it uses, and the defaults laid beneath it.

Before the journey: `configuration.py` has it done when the first setting is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from copy import deepcopy
from typing import Any

from taskq.app.defaults import DEFAULTS
from taskq.app.settings import Settings
from taskq.app.spelling import Spelling, refuse_mixed_names
from taskq.utils.collections import force_mapping

__all__ = ["detect_settings", "fresh_defaults"]


def fresh_defaults(more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The defaults of all settings, and `more` over them, for one application to keep."""
    defaults = {**DEFAULTS, **(more or {})}
    # What can be changed in place, such as beat_schedule, is not shared between applications.
    return {
        name: deepcopy(value) if isinstance(value, (dict, list)) else value
        for name, value in defaults.items()
    }


def detect_settings(
    conf: Any,
    preconf: MutableMapping[str, Any] | None = None,
    ignore_keys: Iterable[str] | None = None,
    prefix: str | None = None,
    all_keys: Iterable[str] | None = None,
    old_keys: Iterable[str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Settings:
    """Settings of the source `conf`, whichever names it uses.

    Arguments:
        conf: mapping or object.
        preconf: what was set before; it is preferred to `conf` and takes later changes.
        ignore_keys: names that say nothing about the style of the source.
        prefix: what names in the source begin with; then old and new ones may be mixed.
        all_keys, old_keys: the new and the old names; those of the table when not given.
        defaults: an application's own defaults, over those of the table.

    Raises ImproperlyConfigured when old and new names are mixed.
    """
    source = force_mapping(conf) if conf is not None else {}
    ignored = set(ignore_keys or ())
    keys = {str(key) for key in source if key not in ignored}
    if not prefix:
        refuse_mixed_names(keys, all_keys, old_keys)
    spelling = Spelling(prefix)
    changes = {spelling.canonical(key): value for key, value in (preconf or {}).items()}
    return Settings(
        changes,
        [source, fresh_defaults(defaults)],
        prefix=prefix,
        deprecated_settings=spelling.old_names_in(keys),
    )
