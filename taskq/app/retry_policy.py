"""This file reads retry policies: how often and how patiently a publish is tried again.

Serves step 4 of the journey, for calls that give a policy of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taskq.utils.text import closest

__all__ = ("merge_policy",)

#: What a policy may say; the rest would be a TypeError deep in kombu.
_KEYS = frozenset(
    {"max_retries", "interval_start", "interval_step", "interval_max"}
    | {"retry_errors", "errback", "on_revive"}
)


def merge_policy(policy: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The policy of the settings with what a call gives laid over it.

    Raises TypeError for what is no mapping, and for a key that no policy has, naming the closest.
    """
    if not isinstance(given, Mapping):
        raise TypeError(
            f"retry_policy must be a mapping such as {{'max_retries': 3}}, not {given!r:.80}"
        )
    unknown = given.keys() - _KEYS
    if unknown:
        name = min(unknown)
        near = closest(name, _KEYS)
        hint = f"did you mean {near!r}?" if near else f"known are {', '.join(sorted(_KEYS))}"
        raise TypeError(f"unknown key {name!r} in a retry policy; {hint}")
    return {**policy, **given}
