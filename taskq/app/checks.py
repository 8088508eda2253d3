"""This file refuses options of a call that no broker or worker can make sense of, and says why.

Between steps 1 and 4 of the journey; entered only for options that are not plain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kombu.utils.functional import maybe_list

__all__ = ("add_headers", "as_links", "check_names", "check_priority")


def as_links(given: Any, option: str = "link") -> list[Any]:
    """The signatures of `link` or `link_error`, one or many, as a list; else TypeError."""
    # kombu takes a task for a list of something.
    is_one = callable(given) and not isinstance(given, Mapping)
    links: list[Any] = [given] if is_one else maybe_list(given)
    for link in links:
        # An errback may be the name of a task alone.
        if isinstance(link, Mapping) or (option == "link_error" and isinstance(link, str)):
            continue
        hint = ""
        if isinstance(link, str):
            hint = f": write app.signature({link!r:.80})"
        elif hasattr(link, "s"):
            hint = f": write {link.__name__}.s()"
        raise TypeError(
            f"{option} must be a signature or a list of signatures, not {link!r:.80}{hint}"
        )
    return links


def check_names(name: Any, task_id: Any) -> None:
    """TypeError unless the name of the task and the id of the call are text."""
    if not isinstance(name, str):
        known = getattr(name, "name", None)
        hint = f": write {known!r}, or call its apply_async()" if isinstance(known, str) else ""
        raise TypeError(f"send_task takes the name of a task, not {name!r:.80}{hint}")
    if not isinstance(task_id, str):
        raise TypeError(
            f"task_id must be text, not {type(task_id).__name__}: write str({task_id!r:.80})"
        )


def check_priority(priority: Any) -> None:
    """ValueError for a priority that no broker can put in order."""
    try:
        int(priority)
    except (TypeError, ValueError):
        raise ValueError(
            "priority must be a whole number from 0 to 255 (RabbitMQ) or 0 to 9 (Redis, the "
            f"embedded broker), not {priority!r:.80}"
        ) from None


def add_headers(headers: dict[str, Any], given: Any) -> None:
    """Add those that a call gives to a message's headers; TypeError when they are no mapping."""
    try:
        headers.update(given)
    except (TypeError, ValueError):
        raise TypeError(
            f"headers must be a mapping of names to values, not {given!r:.80}: "
            "write headers={'name': 'value'}"
        ) from None
