"""This file is `taskq exec`: another program, in which `import celery` means taskq."""

from __future__ import annotations

import os
from pathlib import Path

import click

from taskq.bin.base import CeleryCommand
from taskq.exceptions import CeleryCommandException
from taskq.platforms import EX_UNAVAILABLE

#: Holds the `sitecustomize` that every Python reads as it starts.
STARTUP = Path(__file__).with_name("startup")


@click.command(
    "exec",
    cls=CeleryCommand,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("program")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def exec_(program: str, arguments: tuple[str, ...]) -> None:
    """Run PROGRAM with `import celery` meaning taskq, in it and in the Pythons it starts.

    For web servers, test runs and scripts of a project written for Celery, whose files stay as they
    are: `taskq exec gunicorn shop.wsgi`, `taskq exec pytest`.
    """
    path = [str(STARTUP), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "TASKQ_AS_CELERY": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
    }
    try:
        os.execvpe(program, [program, *arguments], environment)
    except OSError as exc:
        raise CeleryCommandException(
            f"cannot run {program!r}: {exc.strerror}. Give a program that is on PATH, or its path.",
            EX_UNAVAILABLE,
        ) from exc
