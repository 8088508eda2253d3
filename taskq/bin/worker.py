"""This file is `taskq worker`: its options, and a worker started with them."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import click
from kombu.exceptions import SerializerNotInstalled

from taskq.app.censor import sanitize_url
from taskq.bin.base import (
    COMMA_SEPARATED_LIST,
    LOG_LEVEL,
    CeleryDaemonCommand,
    TextChoice,
    ValueType,
    handle_preload_options,
    option,
)
from taskq.concurrency import ALIASES, get_available_pool_names, get_implementation
from taskq.exceptions import (
    CeleryCommandException,
    ImproperlyConfigured,
    SecurityError,
    UnknownPool,
)
from taskq.platforms import EX_FAILURE, LockFailed, detached, maybe_drop_privileges
from taskq.utils.daemon import STARTING_DIRECTORY, require_writable_files
from taskq.utils.log import get_logger
from taskq.utils.nodenames import default_nodename, host_format, node_format
from taskq.worker import state
from taskq.worker.autoscale import read_autoscale

__all__ = ("detach", "worker")

NO_SCHEDULER = (
    "{option}: this version of taskq has no scheduler. Leave the option out, and run Celery's "
    "(celery -A APP beat) beside the worker: it sends to the same queues."
)
#: Options of Celery's worker whose feature this version does not have.
NOT_YET = {
    "beat": ("-B", NO_SCHEDULER),
    "schedule_filename": ("-s", NO_SCHEDULER),
    "scheduler": ("--scheduler", NO_SCHEDULER),
    "task_events": (
        "-E",
        "{option}: this version of taskq sends no task events. Leave the option out: tasks run the "
        "same, but monitors do not see them.",
    ),
}

WORKER, POOL, QUEUES = "Worker Options", "Pool Options", "Queue Options"
FEATURES, BEAT = "Features", "Embedded Beat Options"

#: -D after other flags that take no value, before more of them.
FLAGS_WITH_DETACH = re.compile(r"(-[EB]*)D(.*)")

logger = get_logger(__name__)


class Hostname(ValueType):
    """A node name."""

    name = "hostname"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Give name@host, with %h, %n and %d filled in."""
        return host_format(default_nodename(value))


class WorkersPool(TextChoice):
    """The name of a pool."""

    name = "pool"

    def __init__(self) -> None:
        super().__init__(get_available_pool_names(), case_sensitive=False)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Give the pool's class; None where the setting `worker_pool` is to decide."""
        source = ctx.get_parameter_source(param.name) if ctx is not None else None
        if source in (None, click.core.ParameterSource.DEFAULT):
            return None
        try:
            if str(value).lower() not in ALIASES:
                raise UnknownPool(str(value), ALIASES)
            return get_implementation(super().convert(value, param, ctx))
        except ImproperlyConfigured as exc:
            self.fail(str(exc), param, ctx)


class Concurrency(ValueType):
    """A number of slots, or 'auto'."""

    name = "concurrency"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Give the number, or 'auto'; None, for 0, leaves it to the setting."""
        if str(value) == "auto":
            return value
        try:
            number = int(value)
        except ValueError:
            number = -1
        if number < 0:
            self.fail(f"must be a non-negative integer or 'auto', got {value!r}", param, ctx)
        return number or None


class Autoscale(ValueType):
    """The most and the least slots."""

    name = "<min workers>, <max workers>"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Give (most, least)."""
        try:
            return read_autoscale(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


@click.command("worker", cls=CeleryDaemonCommand, context_settings={"allow_extra_args": True})
@option(
    "-n",
    "--hostname",
    group=WORKER,
    type=Hostname(),
    default=default_nodename(None),
    show_default=False,
    help="Node name; %h (host), %n (name), %d (domain) are filled in.",
)
@option(
    "-D", "--detach", group=WORKER, is_flag=True, default=False,
    help="Run in the background.",
)  # fmt: skip
@option(
    "-S",
    "--statedb",
    group=WORKER,
    type=click.Path(),
    help="File that keeps revoked ids over a restart; %n, %h, %d are filled in.",
)
@option("-l", "--loglevel", group=WORKER, type=LOG_LEVEL, default="WARNING", help="Log level.")
@option(
    "-O",
    "--optimization",
    group=WORKER,
    type=click.Choice(("default", "fair")),
    default="default",
    help="Both are fair: a task waits for no busy process.",
)
@option(
    "--prefetch-multiplier",
    group=WORKER,
    type=int,
    help="Messages taken in advance, per slot of the pool.",
)
@option(
    "--disable-prefetch",
    group=WORKER,
    is_flag=True,
    default=None,
    help="Take a message only when a slot is free (Redis).",
)
@option(
    "-c",
    "--concurrency",
    group=POOL,
    type=Concurrency(),
    help="Number of slots; 'auto' or nothing: the number of processors.",
)
@option("-P", "--pool", group=POOL, type=WorkersPool(), default="prefork", help="How tasks run.")
@option(
    "-E",
    "--task-events",
    "--events",
    group=POOL,
    is_flag=True,
    default=None,
    help="Send events about tasks.",
)
@option("--time-limit", group=POOL, type=float, help="Hard time limit of tasks, in seconds.")
@option("--soft-time-limit", group=POOL, type=float, help="Soft time limit, in seconds.")
@option("--max-tasks-per-child", group=POOL, type=int, help="Tasks after which a child retires.")
@option(
    "--pool-start-method",
    group=POOL,
    type=click.Choice(("fork", "spawn")),
    help="How child processes are made.",
)
@option(
    "--max-memory-per-child",
    group=POOL,
    type=int,
    help="KiB of memory after which a child retires.",
)
@option("--purge", "--discard", group=QUEUES, is_flag=True, help="Empty the queues first.")
@option("--queues", "-Q", group=QUEUES, type=COMMA_SEPARATED_LIST, help="Queues to consume.")
@option(
    "--exclude-queues", "-X", group=QUEUES, type=COMMA_SEPARATED_LIST, help="Queues not to consume."
)
@option("--include", "-I", group=QUEUES, type=COMMA_SEPARATED_LIST, help="Modules to import.")
@option("--without-gossip", group=FEATURES, is_flag=True, help="Do not listen to other workers.")
@option("--without-mingle", group=FEATURES, is_flag=True, help="Do not ask others at start.")
@option("--without-heartbeat", group=FEATURES, is_flag=True, help="Send no heartbeat events.")
@option("--heartbeat-interval", group=FEATURES, type=int, help="Seconds between heartbeats.")
@option("--autoscale", group=FEATURES, type=Autoscale(), help="MAX,MIN number of slots.")
@option("-B", "--beat", group=BEAT, is_flag=True, help="Also run the scheduler.")
@option("-s", "--schedule-filename", "--schedule", group=BEAT, help="File of the schedule.")
@option("--scheduler", group=BEAT, help="Scheduler class.")
@click.pass_context
@handle_preload_options
def worker(
    ctx: click.Context,
    hostname: str,
    pool: Any = None,
    loglevel: Any = None,
    logfile: str | None = None,
    pidfile: str | None = None,
    uid: str | None = None,
    gid: str | None = None,
    umask: str | int | None = None,
    executable: str | None = None,
    detach: bool = False,
    disable_prefetch: bool | None = None,
    **options: Any,
) -> None:
    """Start a worker.

    Arguments of the form NAMESPACE.KEY=VALUE are settings of this worker.
    """
    app = ctx.obj.app
    _refuse_what_is_missing(ctx, options)
    _configure(ctx, app)
    _set_umask(ctx, umask)
    if detach:
        # Before its files are looked at: they are to be the other user's.
        _drop_privileges(ctx, uid, gid)
        _go_into_background(ctx, executable, logfile, pidfile, hostname)
    if disable_prefetch or app.conf.worker_disable_prefetch:
        logger.warning("--disable-prefetch is ignored: only Redis brokers can do without")
    try:
        _drop_privileges(ctx, uid, gid)
        program = app.Worker(
            hostname=hostname,
            pool_cls=pool,
            loglevel=loglevel,
            logfile=logfile,
            pidfile=node_format(pidfile, hostname),
            no_color=ctx.obj.no_color,
            quiet=ctx.obj.quiet,
            **options,
        )
    except (SecurityError, SerializerNotInstalled) as exc:
        raise CeleryCommandException(str(exc), EX_FAILURE) from exc
    except ModuleNotFoundError as exc:
        _explain_missing_module(app, options["include"] or (), exc)
        raise
    program.start()
    _leave(ctx, program)


def _refuse_what_is_missing(ctx: click.Context, options: dict[str, Any]) -> None:
    for name, (flag, explanation) in NOT_YET.items():
        if options.pop(name, None):
            raise click.UsageError(explanation.format(option=flag), ctx)


def _explain_missing_module(app: Any, given: Iterable[str], exc: ModuleNotFoundError) -> None:
    """End with a sentence when it is one of the modules with tasks that is missing."""
    for module in (*given, *(app.conf.include or ()), *(app.conf.imports or ())):
        if f"{module}.".startswith(f"{exc.name}."):
            message = (
                f"There is no module {exc.name!r} to import tasks from. Correct -I (--include), or "
                f"the settings include and imports; looked in {os.getcwd()} and on the Python path."
            )
            raise CeleryCommandException(message, EX_FAILURE) from exc


def _configure(ctx: click.Context, app: Any) -> None:
    if not ctx.args:
        return
    try:
        app.config_from_cmdline(ctx.args, namespace="worker")
    except (KeyError, ValueError, ImproperlyConfigured) as exc:
        raise click.UsageError(
            f"Unable to parse extra configuration from command line.\nReason: {exc}",
            ctx,
        ) from exc


def _set_umask(ctx: click.Context, umask: str | int | None) -> None:
    if umask is None:
        return
    try:
        os.umask(umask if isinstance(umask, int) else int(umask, 8))
    except ValueError:
        raise click.UsageError(f"--umask must be octal, like 022, not {umask!r}", ctx) from None


def _drop_privileges(ctx: click.Context, uid: Any, gid: Any) -> None:
    try:
        maybe_drop_privileges(uid=uid, gid=gid)
    except KeyError as exc:
        raise click.UsageError(str(exc.args[0]), ctx) from exc
    except PermissionError as exc:
        raise CeleryCommandException(
            f"cannot run as another user or group (--uid {uid}, --gid {gid}): {exc.strerror}. "
            "Only root can: start the worker as root, or as that user without these options.",
            EX_FAILURE,
        ) from exc
    if uid:
        _require_readable_modules(uid)


def _require_readable_modules(uid: Any) -> None:
    """See that the user we have become can import: modules are loaded when they are needed."""
    for path in (os.__file__, __file__):
        if not os.access(path, os.R_OK):
            raise CeleryCommandException(
                f"the user of --uid {uid} cannot read {path}, so Python modules could not be "
                "imported. Install Python and taskq where every user may read them (not below "
                "root's home), or choose another user.",
                EX_FAILURE,
            )


def _leave(ctx: click.Context, program: Any) -> None:
    """End with the worker's exit code."""
    code = program.exitcode or 0
    if state.is_cold() and threading.active_count() > 1:
        # Tasks in threads cannot be ended, and their messages are given back: do not wait.
        logging.shutdown()
        os._exit(code)
    ctx.exit(code)


# --- into the background ------------------------------------------------------------------------


def detach(
    path: str,
    argv: Sequence[str],
    logfile: str | None = None,
    pidfile: str | None = None,
    uid: int | str | None = None,
    gid: int | str | None = None,
    umask: int | str | None = None,
    workdir: str | None = None,
    fake: bool = False,
    app: Any = None,
    executable: str | None = None,
    hostname: str | None = None,
) -> int:
    """Run `path` with the arguments `argv` in the background, in the place of this process.

    Returns (an exit code) only when that cannot be done, having said why in the log.
    """
    hostname = default_nodename(hostname)
    logfile, pidfile = node_format(logfile, hostname), node_format(pidfile, hostname)
    command = [executable or path, *argv]
    with detached(logfile, pidfile, uid, gid, umask, workdir, fake):
        try:
            os.execv(command[0], command)
        except OSError as exc:
            if app is not None:
                app.log.setup_logging_subsystem("ERROR", logfile, hostname=hostname)
            logger.critical("Can't exec %r: %s", " ".join(map(sanitize_url, command)), exc)
    return EX_FAILURE


def _go_into_background(
    ctx: click.Context,
    executable: str | None,
    logfile: str | None,
    pidfile: str | None,
    hostname: str,
) -> None:
    """Start this command line again in the background; what is wrong is still said here."""
    python = shutil.which(executable or sys.executable)
    if python is None:
        raise click.UsageError(f"--executable {executable}: there is no such program", ctx)
    if "worker" not in sys.argv:
        raise click.UsageError(
            "a worker goes into the background by the command line only: taskq -A APP worker -D",
            ctx,
        )
    logfile, pidfile = _absolute(logfile, hostname), _absolute(pidfile, hostname)
    try:
        require_writable_files(logfile, pidfile)
    except LockFailed as exc:
        raise CeleryCommandException(f"cannot write the pid file: {exc}", EX_FAILURE) from exc
    except OSError as exc:
        raise CeleryCommandException(f"cannot write the log file: {exc}", EX_FAILURE) from exc
    for name in ("TASKQ_WORKER_DETACH", "CELERY_WORKER_DETACH"):
        os.environ.pop(name, None)
    # The same command in the same place, so that it reads its options the same way.
    arguments = ["-m", "taskq", *_without_detach(sys.argv[1:])]
    workdir = STARTING_DIRECTORY
    ctx.exit(detach(python, arguments, logfile, pidfile, workdir=workdir, app=ctx.obj.app))


def _absolute(path: str | None, hostname: str) -> str | None:
    path = node_format(path, hostname)
    return os.path.abspath(path) if path else None


def _without_detach(arguments: Sequence[str]) -> list[str]:
    """Leave out -D, also where it stands among other flags (-ED)."""
    kept = []
    for argument in arguments:
        match = FLAGS_WITH_DETACH.fullmatch(argument)
        if match:
            argument = "".join(match.groups())
        if argument not in ("-", "--detach"):
            kept.append(argument)
    return kept
