"""This file says to type checkers what a task decorator makes of a function; it does nothing.

The decorators are `Registration.task` and `shared_task`. A task of an `async def` function has the
type of the awaited value in its results, and gives a coroutine when it is called here and now.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from taskq.app.task import Task

__all__ = ("AsyncTask", "BoundDecorator", "Decorator")

P = ParamSpec("P")
R = TypeVar("R")


class AsyncTask(Task[P, R]):
    """A task whose function is `async def`."""

    if TYPE_CHECKING:

        def __call__(  # type: ignore[override]  # no task is used where any may stand
            self, *args: P.args, **kwargs: P.kwargs
        ) -> Coroutine[Any, Any, R]: ...


class Decorator(Protocol):
    """`@app.task(...)`"""

    @overload
    def __call__(self, fun: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, fun: Callable[P, R], /) -> Task[P, R]: ...


class BoundDecorator(Protocol):
    """`@app.task(bind=True, ...)`"""

    @overload
    def __call__(
        self, fun: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
    ) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, fun: Callable[Concatenate[Any, P], R], /) -> Task[P, R]: ...
