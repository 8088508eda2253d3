"""This file is the worker as a program: stages, banner, logging, signals, exit codes.

Celery's `celery.apps.worker`. What signals do to it is in `shutdown.py`.
"""

from __future__ import annotations

import logging
import platform as _platform
import sys
from datetime import datetime
from typing import Any

from taskq.app.censor import sanitize_url
from taskq.app.encoding import check_accepted
from taskq.app.settings import misspelled_settings
from taskq.platforms import check_privileges, isatty, set_process_title
from taskq.signals import celeryd_after_setup, worker_ready
from taskq.utils.log import get_logger
from taskq.utils.text import pluralize
from taskq.version import VERSION_BANNER
from taskq.worker.shutdown import (
    install_cry_handler,
    install_HUP_not_supported_handler,
    install_worker_int_handler,
    install_worker_restart_handler,
    install_worker_term_handler,
    install_worker_term_hard_handler,
)
from taskq.worker.worker import WorkController

__all__ = ("STAGES", "Worker")

#: What is started, in this order; the consumer's stages run inside the last one.
STAGES: dict[str, tuple[str, ...]] = {
    "worker": ("Timer", "Hub", "Pool", "StateDB", "Autoscaler", "Consumer"),
    "consumer": ("Connection", "Agent", "Tasks", "DelayedDelivery", "Control", "event loop"),
}

BANNER = """\
{hostname} v{version}

{platform} {timestamp}

[config]
.> app:         {app}
.> transport:   {conninfo}
.> results:     {results}
.> concurrency: {concurrency}
.> task events: {events}

[queues]
{queues}
"""

EXTRA_INFO_FMT = """
[tasks]
{tasks}
"""

logger = get_logger("taskq.apps.worker")


class Worker(WorkController):
    """A worker with what the command line needs around it."""

    def on_before_init(self, quiet: bool = False, **kwargs: Any) -> None:
        """Refuse to run as root with pickle, or with content nobody can read, before all else."""
        self.quiet = quiet
        super().on_before_init(**kwargs)
        check_privileges(self.app.conf.accept_content)
        for setting in ("accept_content", "result_accept_content"):
            check_accepted(setting, getattr(self.app.conf, setting))

    def on_after_init(
        self,
        purge: bool = False,
        no_color: bool | None = None,
        redirect_stdouts: bool | None = None,
        redirect_stdouts_level: Any = None,
        **kwargs: Any,
    ) -> None:
        """Settle the options of the program."""
        either = self.app.either
        self.redirect_stdouts = either("worker_redirect_stdouts", redirect_stdouts)
        self.redirect_stdouts_level = either(
            "worker_redirect_stdouts_level", redirect_stdouts_level
        )
        self.purge = purge
        self.no_color = no_color
        self._isatty = isatty(sys.stdout)
        super().on_after_init(**kwargs)
        self.colored = self.app.log.colored(
            self.logfile, enabled=not no_color if no_color is not None else no_color
        )

    def on_init_blueprint(self) -> None:
        """Set logging up before the first step is made."""
        self._custom_logging = self.setup_logging()

    def on_start(self) -> None:
        """Show what runs here and take over the signals; the steps start after this."""
        super().on_start()
        celeryd_after_setup.send(sender=self.hostname, instance=self, conf=self.app.conf)
        self._warn_of_misspelled_settings()
        if self.purge:
            self.purge_messages()
        if not self.quiet:
            self.emit_banner()
        self.set_process_status("-active-")
        self.install_platform_tweaks(self)
        if not self._custom_logging and self.redirect_stdouts:
            self.app.log.redirect_stdouts(self.redirect_stdouts_level)

    def on_consumer_ready(self, consumer: Any) -> None:
        """Messages flow: say so."""
        worker_ready.send(sender=consumer)
        logger.info("%s ready.", self.hostname)

    def setup_logging(self, colorize: bool | None = None) -> Any:
        """Set logging up; what is printed is redirected only when the banner is out."""
        if colorize is None and self.no_color is not None:
            colorize = not self.no_color
        return self.app.log.setup(
            self.loglevel,
            self.logfile,
            redirect_stdouts=False,
            colorize=colorize,
            hostname=self.hostname,
        )

    def _warn_of_misspelled_settings(self) -> None:
        pairs = misspelled_settings(self.app.conf)
        if pairs:
            logger.warning(
                "These settings are not known and were kept as they are; misspelled? %s",
                ", ".join(f"{unknown} (did you mean {known}?)" for unknown, known in pairs),
            )

    def purge_messages(self) -> None:
        """Throw away what waits in the queues."""
        with self.app.connection_for_write() as connection:
            count = self.app.control.purge(connection=connection)
            if count:
                messages = pluralize(count, "message")
                say(f"purge: Erased {count} {messages} from the queue.\n")

    # --- banner -----------------------------------------------------------------------------

    def emit_banner(self) -> None:
        """Print what runs here, once, to the real standard output."""
        text = str(self.colored.cyan(" \n", self.startup_info(), self.extra_info() or ""))
        say(text)

    def startup_info(self, artlines: bool = True) -> str:
        """Give the banner's text; nothing in it shows a password."""
        app = self.app
        return BANNER.format(
            app=f"{app.main or '__main__'}:{id(app):#x}",
            hostname=self.hostname,
            timestamp=datetime.now().replace(microsecond=0),
            version=VERSION_BANNER,
            conninfo=app.connection().as_uri(),
            results=app.backend.as_uri(),
            concurrency=self._describe_concurrency(),
            platform=_platform.platform(),
            events="ON" if self.task_events else "OFF (enable -E to monitor tasks in this worker)",
            queues=app.amqp.queues.format(indent=0, indent_first=False),
        )

    def _describe_concurrency(self) -> str:
        module = self.pool_cls if isinstance(self.pool_cls, str) else self.pool_cls.__module__
        slots = str(self.concurrency)
        if self.autoscale:
            most, least = self.autoscale
            slots = f"{{min={least}, max={most}}}"
        return f"{slots} ({module.rpartition('.')[2]})"

    def extra_info(self) -> str | None:
        """Give the list of tasks, at log level INFO and below."""
        if self.loglevel is None or self.loglevel > logging.INFO:
            return None
        tasks = self.tasklist(include_builtins=self.loglevel <= logging.DEBUG)
        return EXTRA_INFO_FMT.format(tasks=tasks)

    def tasklist(
        self, include_builtins: bool = True, sep: str = "\n", int_: str = "celery."
    ) -> str:
        """Give the names of the registered tasks."""
        names = sorted(self.app.tasks)
        return sep.join(
            f"  . {name}" for name in names if include_builtins or not name.startswith(int_)
        )

    def set_process_status(self, info: str) -> str:
        """Show what this process is in lists of processes."""
        command = " ".join(map(sanitize_url, sys.argv[1:]))
        return set_process_title("celeryd", info=f"{info} ({command})")

    # --- signals ----------------------------------------------------------------------------

    def install_platform_tweaks(self, worker: Worker) -> None:
        """Take over the signals."""
        if self.app.IS_macOS:
            install_HUP_not_supported_handler(worker)
        elif not self._isatty:
            # At a terminal HUP means that the terminal is gone.
            install_worker_restart_handler(worker)
        install_worker_term_handler(worker)
        install_worker_term_hard_handler(worker)
        install_worker_int_handler(worker)
        install_cry_handler()


def say(text: str) -> None:
    """Print to the real standard output, whatever is redirected."""
    if sys.__stdout__ is not None:
        sys.__stdout__.write(f"{text}\n")
        sys.__stdout__.flush()
