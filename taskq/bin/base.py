"""This file is what all commands share: context, option classes, types of values."""

from __future__ import annotations

import inspect
import json
import numbers
import os
from collections.abc import Callable, Mapping
from functools import update_wrapper
from pprint import pformat
from typing import TYPE_CHECKING, Any, TypeVar, Union

import click

from taskq.signals import user_preload_options
from taskq.utils.log import mlevel
from taskq.utils.text import indent, str_to_list
from taskq.utils.time import maybe_iso8601

__all__ = (
    "COMMA_SEPARATED_LIST",
    "ISO8601",
    "ISO8601_OR_FLOAT",
    "JSON_ARRAY",
    "JSON_OBJECT",
    "LOG_LEVEL",
    "CLIContext",
    "CeleryCommand",
    "CeleryDaemonCommand",
    "CeleryOption",
    "DaemonOption",
    "handle_preload_options",
    "option",
)

#: Options of the group: after a command they are a mistake worth explaining.
GLOBAL_OPTIONS = frozenset(
    {"-A", "--app", "-b", "--broker", "--result-backend", "--loader", "--config", "--workdir"}
)

WRONG_PLACE = (
    "\nYou are using `{option}` as an option of the {command} command. It is an option of taskq "
    "itself and goes before the command:\ntaskq {option} VALUE {command} ..."
)


class CLIContext:
    """What the group hands to its commands (`ctx.obj`)."""

    def __init__(self, app: Any, no_color: bool, workdir: str | None, quiet: bool = False) -> None:
        self.app = app
        self.no_color = no_color
        self.quiet = quiet
        self.workdir = workdir

    @property
    def OK(self) -> str:
        """The word OK, in green."""
        return self.style("OK", fg="green", bold=True)

    @property
    def ERROR(self) -> str:
        """The word ERROR, in red."""
        return self.style("ERROR", fg="red", bold=True)

    def style(self, message: Any = None, **kwargs: Any) -> str:
        """Give a text with colours, where they are wanted."""
        return str(message) if self.no_color else click.style(message, **kwargs)

    def secho(self, message: Any = None, **kwargs: Any) -> None:
        """Print a text with colours, where they are wanted."""
        if self.no_color:
            kwargs["color"] = False
        click.secho(message, **kwargs)

    def echo(self, message: Any = None, **kwargs: Any) -> None:
        """Print a text."""
        if self.no_color:
            kwargs["color"] = False
        click.echo(message, **kwargs)

    def error(self, message: Any = None, **kwargs: Any) -> None:
        """Print a text to standard error."""
        self.echo(message, err=True, **kwargs)

    def pretty(self, n: Any) -> tuple[str, str]:
        """Give (status, text) for a worker's reply."""
        if isinstance(n, list):
            return self.OK, self.pretty_list(n)
        if isinstance(n, Mapping):
            if "ok" in n or "error" in n:
                return self.pretty_dict_ok_error(n)
            return self.OK, json.dumps(n, sort_keys=True, indent=4)
        return self.OK, n if isinstance(n, str) else pformat(n)

    def pretty_list(self, n: list[Any]) -> str:
        """Give one line per item."""
        if not n:
            return "- empty -"
        return "\n".join(f"{self.style('*', fg='white')} {item}" for item in n)

    def pretty_dict_ok_error(self, n: Mapping[str, Any]) -> tuple[str, str]:
        """Give (status, text) for {'ok': value} or {'error': value}."""
        if "ok" in n:
            return self.OK, indent(self.pretty(n["ok"])[1], 4)
        return self.ERROR, indent(self.pretty(n["error"])[1], 4)

    def say_chat(self, direction: str, title: str, body: Any = "", show_body: bool = False) -> None:
        """Print one line of the talk with the workers (nothing outgoing with --quiet)."""
        if direction == "<-" and self.quiet:
            return
        shown = "" if self.quiet else self.style(direction, fg="white", bold=True)
        # Two spaces after the arrow: scripts cut these lines.
        self.echo(f"{shown}  {title}" if shown else f" {title}")
        if body and show_body:
            self.echo(body)


class CeleryOption(click.Option):
    """An option with a help group, and with TASKQ_* and then CELERY_* environment variables."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.help_group: str | None = kwargs.pop("help_group", None)
        self.default_value_from_context: str | None = kwargs.pop("default_value_from_context", None)
        super().__init__(*args, **kwargs)

    def get_default(self, ctx: click.Context, *args: Any, **kwargs: Any) -> Any:
        """Give the default; with `default_value_from_context`, that attribute of ctx.obj."""
        if self.default_value_from_context:
            return getattr(ctx.obj, self.default_value_from_context)
        return super().get_default(ctx, *args, **kwargs)

    def resolve_envvar_value(self, ctx: click.Context) -> Any:
        """Read the option's own variables, then TASKQ_<COMMAND>_<NAME>, then CELERY_..."""
        value = super().resolve_envvar_value(ctx)
        prefix = ctx.auto_envvar_prefix or ""
        if value is None and prefix.startswith("TASKQ") and self.allow_from_autoenv and self.name:
            value = os.environ.get(f"CELERY{prefix[5:]}_{self.name.upper()}") or None
        return value


if TYPE_CHECKING:
    ValueType = click.ParamType[Any]
    TextChoice = click.Choice[str]
else:  # older versions of click have no type arguments
    ValueType, TextChoice = click.ParamType, click.Choice

AnyCommand = TypeVar("AnyCommand", bound=Union[Callable[..., Any], click.Command])


def option(*names: str, group: str, **kwargs: Any) -> Callable[[AnyCommand], AnyCommand]:
    """Declare an option in a group of the help."""
    return click.option(*names, cls=CeleryOption, help_group=group, **kwargs)


class CeleryCommand(click.Command):
    """A command whose help shows options in groups."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; an option of the group is explained rather than just refused."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as exc:
            if exc.option_name in GLOBAL_OPTIONS:
                hint = WRONG_PLACE.format(option=exc.option_name, command=self.name)
                raise click.UsageError(f"{exc.format_message()}{hint}", ctx) from exc
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, group by group."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                name = getattr(param, "help_group", None) or "Options"
                groups.setdefault(name, []).append(record)
        for name, records in groups.items():
            with formatter.section(name):
                formatter.write_dl(records)


class DaemonOption(CeleryOption):
    """An option whose default is the setting <command>_<option>."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("help_group", "Daemonization Options")
        kwargs.setdefault("callback", self.daemon_setting)
        super().__init__(*args, **kwargs)

    def daemon_setting(self, ctx: click.Context, opt: Any, value: Any) -> Any:
        """Give the value, or else the setting's."""
        if value is not None or ctx.obj is None:
            return value
        return getattr(ctx.obj.app.conf, f"{ctx.command.name}_{self.name}", None)


class CeleryDaemonCommand(CeleryCommand):
    """A command that may run for long: log file, pid file, user."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(
            (
                DaemonOption(["--logfile", "-f"], help="Log destination; defaults to stderr"),
                DaemonOption(["--pidfile"], help="PID file path; defaults to no PID file"),
                DaemonOption(["--uid"], help="Drops privileges to this user ID"),
                DaemonOption(["--gid"], help="Drops privileges to this group ID"),
                DaemonOption(["--umask"], help="Create files and directories with this umask"),
                DaemonOption(["--executable"], help="Override path to the Python executable"),
            )
        )


def handle_preload_options(f: Callable[..., Any]) -> Callable[..., Any]:
    """Take the application's preload options out of a command's arguments; tell receivers."""
    accepted = inspect.signature(f).parameters
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values())

    def call(ctx: click.Context, *args: Any, **kwargs: Any) -> Any:
        app = ctx.obj.app
        names = [option.name for option in app.user_options.get("preload", ())]
        if names:
            given = {name: kwargs.get(name) for name in names}
            user_preload_options.send(sender=f, app=app, options=given)
            for name in names:
                if not takes_all and name not in accepted:
                    kwargs.pop(name, None)
        return f(ctx, *args, **kwargs)

    return update_wrapper(call, f)


class CommaSeparatedList(ValueType):
    """Text with commas."""

    name = "comma separated list"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Give the parts as a list."""
        return str_to_list(value)


class JsonArray(ValueType):
    """A list as JSON."""

    name = "json array"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Give the list."""
        return self._read(value, list, 'a JSON array, like [1, "two"]', param, ctx)

    def _read(self, value: Any, kind: type, expected: str, param: Any, ctx: Any) -> Any:
        if isinstance(value, kind):
            return value
        try:
            read = json.loads(value)
        except ValueError as exc:
            self.fail(f"expected {expected}, got {value!r}: {exc}", param, ctx)
        if not isinstance(read, kind):
            self.fail(f"expected {expected}, got {value!r}", param, ctx)
        return read


class JsonObject(JsonArray):
    """A mapping as JSON."""

    name = "json object"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Give the mapping."""
        return self._read(value, dict, 'a JSON object, like {"key": 1}', param, ctx)


class ISO8601DateTime(ValueType):
    """A moment."""

    name = "iso-86091"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Give the datetime."""
        try:
            return maybe_iso8601(value)
        except (TypeError, ValueError) as exc:
            self.fail(str(exc), param, ctx)


class ISO8601DateTimeOrFloat(ISO8601DateTime):
    """A moment, or seconds."""

    name = "iso-86091 or float"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Give the datetime or the seconds."""
        try:
            return float(value)
        except (TypeError, ValueError):
            return super().convert(value, param, ctx)


class LogLevel(TextChoice):
    """A log level by name, in any case, or by number."""

    def __init__(self) -> None:
        super().__init__(("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL"))

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Give the level as a number."""
        if isinstance(value, numbers.Integral):
            return value
        return mlevel(super().convert(str(value).upper(), param, ctx))


JSON_ARRAY = JsonArray()
JSON_OBJECT = JsonObject()
ISO8601 = ISO8601DateTime()
ISO8601_OR_FLOAT = ISO8601DateTimeOrFloat()
LOG_LEVEL = LogLevel()
COMMA_SEPARATED_LIST = CommaSeparatedList()
