"""This file gives the tasks of a Django project calls that wait for the commit.

`fixup.py` makes `DjangoTask` the base class of all tasks of the project.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ParamSpec, TypeVar

from django.db import transaction

from taskq.app.task import Task

__all__ = ["DjangoTask"]

P = ParamSpec("P")
R = TypeVar("R")


class DjangoTask(Task[P, R]):
    """A task that can be called once the open transaction is committed, and not if it is not.

    There is no call before the commit, so there is no result to give.
    """

    abstract = True

    def delay_on_commit(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """`delay`, when the transaction of the default database is committed."""
        transaction.on_commit(partial(self.delay, *args, **kwargs))

    def apply_async_on_commit(self, *args: Any, using: str | None = None, **kwargs: Any) -> None:
        """`apply_async`, when the transaction is committed; `using` names another database."""
        transaction.on_commit(partial(self.apply_async, *args, **kwargs), using=using)
