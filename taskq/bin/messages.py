"""This file sends and looks after single tasks: `taskq call`, `taskq result`, `taskq purge`."""

from __future__ import annotations

from typing import Any

import click

from taskq.bin.base import (
    COMMA_SEPARATED_LIST,
    ISO8601,
    ISO8601_OR_FLOAT,
    JSON_ARRAY,
    JSON_OBJECT,
    CeleryCommand,
    handle_preload_options,
    option,
)
from taskq.utils.text import pluralize

__all__ = ("call", "purge", "result")

CALLING, ROUTING = "Calling Options", "Routing Options"


@click.command("call", cls=CeleryCommand)
@click.argument("name")
@option("-a", "--args", group=CALLING, type=JSON_ARRAY, default="[]", help="JSON list.")
@option("-k", "--kwargs", group=CALLING, type=JSON_OBJECT, default="{}", help="JSON object.")
@option("--eta", group=CALLING, type=ISO8601, help="When to run (ISO 8601).")
@option("--countdown", group=CALLING, type=float, help="Seconds until it runs.")
@option("--expires", group=CALLING, type=ISO8601_OR_FLOAT, help="Moment or seconds of expiry.")
@option("--serializer", group=CALLING, default="json", help="Serializer.")
@option("--queue", group=ROUTING, help="Queue.")
@option("--exchange", group=ROUTING, help="Exchange.")
@option("--routing-key", group=ROUTING, help="Routing key.")
@click.pass_context
@handle_preload_options
def call(ctx: click.Context, name: str, args: Any, kwargs: Any, **options: Any) -> None:
    """Send a task by name and print its id."""
    given = {key: value for key, value in options.items() if value is not None}
    ctx.obj.echo(ctx.obj.app.send_task(name, args=args, kwargs=kwargs, **given).id)


@click.command("result", cls=CeleryCommand)
@click.argument("task_id")
@option("-t", "--task", group=CALLING, help="Task whose result backend to ask.")
@option("--traceback", group=CALLING, is_flag=True, help="Print the traceback instead.")
@click.pass_context
@handle_preload_options
def result(
    ctx: click.Context, task_id: str, task: str | None, traceback: bool, **kwargs: Any
) -> None:
    """Wait for a task and print its return value."""
    app = ctx.obj.app
    make = app.tasks[task].AsyncResult if task else app.AsyncResult
    found = make(task_id)
    ctx.obj.echo(found.traceback if traceback else found.get())


@click.command("purge", cls=CeleryCommand)
@option("-f", "--force", group="Purging Options", is_flag=True, help="Do not ask.")
@option("-Q", "--queues", group="Purging Options", type=COMMA_SEPARATED_LIST,
         help="Queues to empty; by default all of the application.")  # fmt: skip
@option("-X", "--exclude-queues", group="Purging Options", type=COMMA_SEPARATED_LIST,
         help="Queues to leave alone.")  # fmt: skip
@click.pass_context
@handle_preload_options
def purge(ctx: click.Context, force: bool, queues: Any, exclude_queues: Any, **kwargs: Any) -> None:
    """Throw away all messages that wait in the queues; there is no undo."""
    app = ctx.obj.app
    names = sorted(set(queues or app.amqp.queues) - set(exclude_queues or ()))
    if not names:
        return
    count = len(names)
    shown = pluralize(count, "queue")
    if not force:
        click.confirm(
            f"This will remove all tasks from {shown}: {', '.join(names)}.\n"
            "There is no undo. Are you sure?",
            abort=True,
        )
    with app.connection_for_write() as connection:
        total = sum(_purge_queue(connection, name) for name in names)
    if total:
        messages = pluralize(total, "message")
        ctx.obj.echo(f"Purged {total} {messages} from {count} known task {shown}.")
    else:
        ctx.obj.echo(f"No messages purged from {count} {shown}.")


def _purge_queue(connection: Any, name: str) -> int:
    try:
        return int(connection.default_channel.queue_purge(name) or 0)
    except connection.channel_errors:
        # A queue that does not exist has no messages.
        return 0
