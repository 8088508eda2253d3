"""Who may wait for a result, and where: the ground all kinds of results stand on.

A task that waits for another task holds the slot which that task may need, so waiting is refused
while a task runs unless the caller says otherwise. The journey comes here just before its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from taskq._state import _set_task_join_will_block, task_join_will_block

__all__ = (
    "E_WOULDBLOCK",
    "ResultBase",
    "ReadyHook",
    "allow_join_result",
    "assert_will_not_block",
    "denied_join_result",
)

E_WOULDBLOCK = """\
Never call result.get() within a task!
A task that waits keeps a worker slot busy which the awaited task may need.
Chain the tasks or use a callback instead (see "Avoid launching synchronous subtasks" in the guide),
or pass disable_sync_subtasks=False when you are sure that nothing can be starved.
"""

ReadyHook = Callable[[Any], Any]


class ResultBase:
    """What AsyncResult, EagerResult, ResultSet and GroupResult have in common."""

    #: Result of the step before this one in a chain, or None.
    parent: Any = None


def assert_will_not_block() -> None:
    """Raise RuntimeError when a task is running here that has not been allowed to wait."""
    if task_join_will_block():
        raise RuntimeError(E_WOULDBLOCK)


@contextmanager
def allow_join_result() -> Iterator[None]:
    """Inside this block a task may wait for results."""
    yield from _with_join_will_block(False)


@contextmanager
def denied_join_result() -> Iterator[None]:
    """Inside this block waiting for results raises RuntimeError."""
    yield from _with_join_will_block(True)


def _with_join_will_block(blocks: bool) -> Iterator[None]:
    before = task_join_will_block()
    _set_task_join_will_block(blocks)
    try:
        yield
    finally:
        _set_task_join_will_block(before)
