"""This file shows and releases tasks that wait in the broker for their time: `taskq delayed`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import click

from taskq.bin.base import (
    COMMA_SEPARATED_LIST,
    CeleryCommand,
    handle_preload_options,
    option,
)
from taskq.exceptions import CeleryCommandException
from taskq.platforms import EX_UNAVAILABLE
from taskq.utils.text import pluralize

__all__ = ("delayed",)

CANNOT = (
    "The broker {uri} does not show what waits in it. In RabbitMQ tasks wait in the queues "
    "celery_delayed_0 to celery_delayed_27, each for any queue: `rabbitmqctl list_queues` counts "
    "them, and they come back by themselves when their time has come."
)

#: How much of the arguments is shown.
SHOWN = 60

queues_option = option(
    "-Q", "--queues", group="Delayed Options", type=COMMA_SEPARATED_LIST,
    help="Queues to look at; by default all of the application.",
)  # fmt: skip


@click.group("delayed")
def delayed() -> None:
    """Tasks that wait in the broker until their ETA (SQLite, Redis)."""


@delayed.command("list", cls=CeleryCommand)
@queues_option
@option("-j", "--json", group="Delayed Options", is_flag=True, help="Print one JSON list.")
@click.pass_context
@handle_preload_options
def list_(ctx: click.Context, queues: Any, json: bool, **kwargs: Any) -> None:
    """Show the tasks that wait, the next one of each queue first."""
    with _channel(ctx) as channel:
        rows = [
            _as_row(queue, due, message)
            for queue in _names(ctx, queues)
            for due, message in channel.list_parked(queue)
        ]
    if json:
        ctx.obj.echo(_dumps(rows))
        return
    for row in rows:
        shown = f"{row['due']}  {row['queue']}  {row['task']}[{row['id']}]  {row['args']:.{SHOWN}}"
        ctx.obj.echo(shown.rstrip())
    ctx.obj.echo(f"{len(rows)} {pluralize(len(rows), 'task')} waiting.")


@delayed.command("release", cls=CeleryCommand)
@queues_option
@click.pass_context
@handle_preload_options
def release(ctx: click.Context, queues: Any, **kwargs: Any) -> None:
    """Put all tasks that wait into their queues now, as for workers that hold them themselves.

    A task keeps its ETA: a worker of taskq has it wait again, unless worker_eta_in_broker is off.
    """
    with _channel(ctx) as channel:
        total = sum(channel.release_parked(queue) for queue in _names(ctx, queues))
    ctx.obj.echo(f"Released {total} {pluralize(total, 'task')}.")


@contextmanager
def _channel(ctx: click.Context) -> Iterator[Any]:
    with ctx.obj.app.connection_for_write() as connection:
        channel = connection.default_channel
        if not hasattr(channel, "list_parked"):
            raise CeleryCommandException(CANNOT.format(uri=connection.as_uri()), EX_UNAVAILABLE)
        yield channel


def _names(ctx: click.Context, queues: Any) -> list[str]:
    return sorted(set(queues or ctx.obj.app.amqp.queues))


def _as_row(queue: str, due: float, message: Any) -> dict[str, Any]:
    headers = message.headers
    return {
        "due": datetime.fromtimestamp(due, timezone.utc).isoformat(timespec="seconds"),
        "queue": queue,
        "task": headers.get("task", ""),
        "id": headers.get("id", ""),
        "args": headers.get("argsrepr") or "",
    }


def _dumps(rows: list[dict[str, Any]]) -> str:
    return json.dumps(rows)
