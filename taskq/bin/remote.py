"""This file asks and commands running workers: `taskq status`, `taskq inspect`, `taskq control`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click
from kombu.exceptions import OperationalError

from taskq.app.control import flatten_reply
from taskq.bin.base import (
    COMMA_SEPARATED_LIST,
    CeleryCommand,
    CeleryOption,
    handle_preload_options,
)
from taskq.exceptions import CeleryCommandException
from taskq.platforms import EX_UNAVAILABLE
from taskq.utils.text import pluralize
from taskq.worker.control import Panel

__all__ = ("control", "inspect", "status")

NO_REPLY = "No nodes replied within time constraint"

GROUP = "Remote Control Options"


def _common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    options = (
        click.option("-t", "--timeout", cls=CeleryOption, type=float, default=1.0, help_group=GROUP,
                     help="Seconds to wait for replies."),
        click.option("-d", "--destination", cls=CeleryOption, type=COMMA_SEPARATED_LIST,
                     help_group=GROUP, help="Node names."),
        click.option("-j", "--json", cls=CeleryOption, is_flag=True, help_group=GROUP,
                     help="Print the replies as one JSON object."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def _listing(kind: str) -> Callable[[click.Context, Any, bool], None]:
    """Give the callback of --list: print the commands and exit."""

    def show(ctx: click.Context, param: Any, value: bool) -> None:
        if not value or ctx.resilient_parsing:
            return
        formatter = click.HelpFormatter()
        with formatter.section(f"{kind.capitalize()} Commands"):
            formatter.write_dl(
                [
                    (f"{name} {info.signature or ''}".rstrip(), info.help)
                    for name, info in sorted(Panel.meta.items())
                    if info.type == kind and info.visible
                ]
            )
        click.echo(formatter.getvalue(), nl=False)
        ctx.exit()

    return show


@click.command("status", cls=CeleryCommand)
@_common_options
@click.pass_context
@handle_preload_options
def status(ctx: click.Context, timeout: float, destination: Any, json: bool, **kwargs: Any) -> None:
    """Show which workers are online."""
    replies = _ask(ctx, "ping", {}, timeout, destination, None if json else _say_status(ctx))
    if json:
        _print_json(ctx, replies)
    _say_online(ctx, replies)


def _say_status(ctx: click.Context) -> Callable[[Any], None]:
    def say(body: dict[str, Any]) -> None:
        for node, reply in body.items():
            shown, _ = ctx.obj.pretty(reply)
            ctx.obj.say_chat("->", f"{ctx.obj.style(node, fg='cyan')}: {shown}")

    return say


def _build_command(kind: str, help: str) -> click.Command:
    @click.command(kind, cls=CeleryCommand, help=help, context_settings={"allow_extra_args": True})
    @click.argument("command")
    @_common_options
    @click.option("--list", is_flag=True, is_eager=True, expose_value=False,
                  callback=_listing(kind), help="List the commands.")  # fmt: skip
    @click.pass_context
    @handle_preload_options
    def run(
        ctx: click.Context, command: str, timeout: float, destination: Any, json: bool, **_: Any
    ) -> None:
        arguments = _read_arguments(ctx, kind, command)
        say = None if json else _say_reply(ctx)
        replies = _ask(ctx, command, arguments, timeout, destination, say)
        if json:
            _print_json(ctx, replies)
        elif kind == "inspect":
            _say_online(ctx, replies)

    return run


inspect = _build_command("inspect", "Ask workers something: COMMAND [ARGS].")
control = _build_command("control", "Command workers: COMMAND [ARGS].")


def _say_reply(ctx: click.Context) -> Callable[[Any], None]:
    def say(body: dict[str, Any]) -> None:
        for node, reply in body.items():
            shown, text = ctx.obj.pretty(reply)
            title = f"{ctx.obj.style(node, fg='cyan')}: {shown}"
            ctx.obj.say_chat("->", title, _indent(text), show_body=True)

    return say


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in str(text).splitlines())


def _read_arguments(ctx: click.Context, kind: str, command: str) -> dict[str, Any]:
    """Turn what follows the command into keyword arguments, by the types it has declared."""
    known = {name: info for name, info in Panel.meta.items() if info.type == kind}
    aliases = {info.alias: name for name, info in known.items() if info.alias}
    info = known.get(aliases.get(command, command))
    if info is None:
        names = ", ".join(sorted(name for name, info in known.items() if info.visible))
        raise click.UsageError(
            f"Command {command} not recognized. Available {kind} commands: {names}", ctx
        )
    given = list(ctx.args)
    arguments: dict[str, Any] = {}
    for name, convert in info.args or ():
        if not given:
            break
        try:
            arguments[name] = convert(given.pop(0))
        except (TypeError, ValueError) as exc:
            raise click.UsageError(f"Argument {name} of {command}: {exc}", ctx) from exc
    if info.variadic:
        arguments[info.variadic] = given
    elif given:
        expected = info.signature or "none"
        raise click.UsageError(f"Command {command!r} takes arguments: {expected}", ctx)
    return arguments


def _ask(
    ctx: click.Context,
    command: str,
    arguments: dict[str, Any],
    timeout: float,
    destination: Any,
    callback: Callable[[Any], None] | None,
) -> dict[str, Any]:
    """Broadcast a command and wait for replies; exit 69 when there is none, or no broker."""
    app = ctx.obj.app
    try:
        replies = app.control.broadcast(
            command,
            arguments=arguments,
            destination=destination,
            timeout=timeout,
            reply=True,
            callback=callback,
        )
    except (OSError, OperationalError, *app.connection_for_write().connection_errors) as exc:
        raise CeleryCommandException(
            f"the broker {app.connection_for_write().as_uri()} cannot be reached: {exc}",
            EX_UNAVAILABLE,
        ) from exc
    if not replies:
        raise CeleryCommandException(NO_REPLY, EX_UNAVAILABLE)
    return flatten_reply(replies)


def _print_json(ctx: click.Context, replies: dict[str, Any]) -> None:
    ctx.obj.echo(json.dumps(replies))


def _say_online(ctx: click.Context, replies: dict[str, Any]) -> None:
    if not ctx.obj.quiet:
        count = len(replies)
        ctx.obj.echo(f"\n{count} {pluralize(count, 'node')} online.")
