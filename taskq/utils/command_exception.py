"""The error that ends a command. A file of its own, because click comes with it.

`taskq.exceptions` gives it on when it is asked for: clients that send tasks do without click.
"""

from __future__ import annotations

from click import ClickException

__all__ = ("CeleryCommandException",)


class CeleryCommandException(ClickException):
    """A command ends with a message and an exit code."""

    exit_code: int  # type: ignore[misc]  # click has a class variable, Celery one per error

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message=message)
        self.exit_code = exit_code


CeleryCommandException.__module__ = "taskq.exceptions"
