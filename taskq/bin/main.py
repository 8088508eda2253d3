"""This file is the group of commands: global options, which application, which command."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable
from typing import Any

import click
from kombu.exceptions import OperationalError

from taskq.app import app_or_default
from taskq.app.discovery import find_app
from taskq.bin.base import CeleryCommand, CeleryOption, CLIContext, handle_preload_options
from taskq.compat import install_as_celery
from taskq.exceptions import CeleryCommandException, ImproperlyConfigured
from taskq.platforms import EX_FAILURE
from taskq.utils.imports import load_extension_class_names, symbol_by_name
from taskq.utils.text import closest
from taskq.version import VERSION_BANNER

__all__ = ("celery", "main")

#: Our own commands: name -> where.
COMMANDS: dict[str, str] = {
    "call": "taskq.bin.messages:call",
    "control": "taskq.bin.remote:control",
    "delayed": "taskq.bin.delayed:delayed",
    "exec": "taskq.bin.program:exec_",
    "inspect": "taskq.bin.remote:inspect",
    "purge": "taskq.bin.messages:purge",
    "report": "taskq.bin.main:report",
    "result": "taskq.bin.messages:result",
    "status": "taskq.bin.remote:status",
    "worker": "taskq.bin.worker:worker",
}

#: Entry-point groups in which packages offer more commands.
EXTENSIONS = ("taskq.commands", "celery.commands")

MODULE_NOT_FOUND = """
Unable to load celery application.
The module {0} was not found.
Expected -A module, -A module:attribute or -A package, importable from {1}."""

APP_MISSING = """
Unable to load celery application.
{0}"""

ERROR_OCCURRED = """
Unable to load celery application.
While trying to load the module {0} the following error occurred:
{1}
The error is in that module or in what it imports: it must import without one."""


def load_app(ctx: click.Context, value: Any) -> Any:
    """Give the application `-A` names (or is); a usage error with one of three messages."""
    if not isinstance(value, str):
        return value
    try:
        return find_app(value)
    except ModuleNotFoundError as exc:
        module, _, attribute = value.partition(":")
        if exc.name == value and attribute:
            text = f"Module {module!r} has no attribute {attribute!r}"
            text += f".\nGive -A the name that holds the application there, as in {module}:app."
            message = APP_MISSING.format(text)
        elif exc.name and (module == exc.name or module.startswith(exc.name + ".")):
            message = MODULE_NOT_FOUND.format(value, os.getcwd())
        else:
            message = ERROR_OCCURRED.format(value, traceback.format_exc())
    except AttributeError as exc:
        text = str(exc.args[0]) if exc.args else repr(exc)
        message = APP_MISSING.format(text[:1].upper() + text[1:])
    except Exception:
        # The user's module may raise anything; it is shown as it is.
        message = ERROR_OCCURRED.format(value, traceback.format_exc())
    raise click.UsageError(message, ctx)


class Commands(click.Group):
    """Our commands and those of other packages, loaded when asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the names of all commands."""
        return sorted({*COMMANDS, *self.commands, *_extensions()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command; None when there is none of that name."""
        found = super().get_command(ctx, cmd_name)
        if found is None:
            path = COMMANDS.get(cmd_name) or _extensions().get(cmd_name)
            if path is None:
                return None
            try:
                found = symbol_by_name(path)
            except Exception as exc:
                raise click.ClickException(
                    f"the command {cmd_name!r} could not be loaded from {path}: {exc!r}"
                ) from exc
            self.add_command(found, cmd_name)
        return found

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what is wrong with settings or broker is said without a traceback."""
        try:
            return super().invoke(ctx)
        except (ImproperlyConfigured, OperationalError) as exc:
            raise CeleryCommandException(str(exc), EX_FAILURE) from exc

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command; an unknown one is answered with what is close to it."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as exc:
            near = closest(args[0], self.list_commands(ctx)) if args else None
            if near is None:
                raise
            # click's own suggestions, where its version has them, come in its own form.
            message = f"No such command {args[0]!r}.\n\nDid you mean one of these?\n    {near}"
            raise click.UsageError(message, ctx) from exc


def _extensions() -> dict[str, str]:
    names: dict[str, str] = {}
    for group in EXTENSIONS:
        for name, path in load_extension_class_names(group):
            names.setdefault(name, path)
    return names


def _change_directory(ctx: click.Context, param: Any, value: str | None) -> str | None:
    if value:
        os.chdir(value)
    return value


def _install_as_celery(ctx: click.Context, param: Any, value: bool) -> bool:
    if value:
        # Before the application is imported; children of this process follow.
        os.environ["TASKQ_AS_CELERY"] = "1"
        install_as_celery()
    return value


@click.group(
    "taskq",
    cls=Commands,
    invoke_without_command=True,
    context_settings={"auto_envvar_prefix": "TASKQ"},
)
@click.option(
    "-A",
    "--app",
    envvar="APP",
    # Unprocessed: `app.start()` makes the application itself the default.
    type=click.UNPROCESSED,
    cls=CeleryOption,
    help="Application: module, module:attribute or package.",
)
@click.option("-b", "--broker", envvar="BROKER_URL", cls=CeleryOption, help="URL of the broker.")
@click.option(
    "--result-backend", envvar="RESULT_BACKEND", cls=CeleryOption, help="URL of the results."
)
@click.option("--loader", envvar="LOADER", cls=CeleryOption, help="Loader class.")
@click.option("--config", envvar="CONFIG_MODULE", cls=CeleryOption, help="Configuration module.")
@click.option(
    "--workdir",
    type=click.Path(exists=True, file_okay=False),
    is_eager=True,
    expose_value=True,
    callback=_change_directory,
    cls=CeleryOption,
    help="Change to this directory before anything else.",
)
@click.option(
    "--as-celery",
    is_flag=True,
    is_eager=True,
    callback=_install_as_celery,
    cls=CeleryOption,
    help="Make `import celery` mean taskq in this process and its children.",
)
@click.option("-C", "--no-color", envvar="NO_COLOR", is_flag=True, cls=CeleryOption)
@click.option("-q", "--quiet", is_flag=True, cls=CeleryOption, help="Say less.")
@click.option("--version", is_flag=True, cls=CeleryOption, help="Print the version.")
@click.option(
    "--skip-checks", envvar="SKIP_CHECKS", is_flag=True, cls=CeleryOption,
    help="Skip Django's checks at start.",
)  # fmt: skip
@click.pass_context
def celery(
    ctx: click.Context,
    app: Any,
    broker: str | None,
    result_backend: str | None,
    loader: str | None,
    config: str | None,
    workdir: str | None,
    as_celery: bool,
    no_color: bool,
    quiet: bool,
    version: bool,
    skip_checks: bool,
) -> None:
    """A task queue: run workers, send tasks, ask and command workers."""
    if version:
        click.echo(VERSION_BANNER)
        ctx.exit()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        ctx.exit()
    _export(
        BROKER_URL=broker, RESULT_BACKEND=result_backend, LOADER=loader, CONFIG_MODULE=config,
        SKIP_CHECKS="true" if skip_checks else None,
    )  # fmt: skip
    app = load_app(ctx, app) if app is not None else app_or_default(None)
    ctx.obj = CLIContext(app=app, no_color=no_color, workdir=workdir, quiet=quiet)
    if isinstance(ctx.command, Commands):
        _add_user_options(ctx, ctx.command)


def _export(**values: str | None) -> None:
    """Settings read the environment, and so do the children of this process."""
    for name, value in values.items():
        if value:
            os.environ[f"TASKQ_{name}"] = os.environ[f"CELERY_{name}"] = value


def _add_user_options(ctx: click.Context, group: Commands) -> None:
    name = ctx.invoked_subcommand or ""
    command = group.get_command(ctx, name)
    if command is None:
        return
    options: Iterable[Any] = ctx.obj.app.user_options.get(name, ())
    for option in (*options, *ctx.obj.app.user_options.get("preload", ())):
        if option not in command.params:
            command.params.append(option)


@click.command("report", cls=CeleryCommand)
@click.pass_context
@handle_preload_options
def report(ctx: click.Context, **kwargs: Any) -> None:
    """Show what a bug report should tell."""
    ctx.obj.echo(ctx.obj.app.bugreport())


def main() -> None:
    """Run the command line; never returns."""
    celery(prog_name="taskq")
