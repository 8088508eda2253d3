"""Set-up of logging in programs: the worker's log, the log of tasks, what tasks print.

Beside the journey: the worker calls `app.log.setup()` before it starts. A program that only sends
tasks sets nothing up; its own logging is left alone.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import IO, Any, ClassVar

from kombu.utils.encoding import set_default_encoding_file

from taskq import signals
from taskq._state import get_current_task
from taskq.exceptions import (
    CDeprecationWarning,
    CPendingDeprecationWarning,
    ImproperlyConfigured,
)
from taskq.utils.log import (
    MP_LOG,
    ColorFormatter,
    LoggingProxy,
    get_logger,
    get_multiprocessing_logger,
    mlevel,
    reset_multiprocessing_logger,
)
from taskq.utils.log_handlers import FileHandler, StreamHandler
from taskq.utils.nodenames import node_format
from taskq.utils.signalling import Signal
from taskq.utils.term import colored

__all__ = ["Logging", "TaskFormatter"]


class TaskFormatter(ColorFormatter):
    """A formatter of lines that tasks log: adds `task_name` and `task_id`."""

    def format(self, record: logging.LogRecord) -> str:
        task = get_current_task()
        if task and task.request:
            record.__dict__.update(task_id=task.request.id, task_name=task.name)
        else:
            record.__dict__.setdefault("task_name", "???")
            record.__dict__.setdefault("task_id", "???")
        return super().format(record)


class Logging:
    """The logging of one application's programs; set up once for a process."""

    # Logging is one for the whole process, whichever application sets it up.
    _setup: ClassVar[bool] = False

    def __init__(self, app: Any) -> None:
        self.app = app
        conf = app.conf
        self.loglevel = logging.WARNING
        self.format = conf.worker_log_format
        self.datefmt = conf.worker_log_datefmt
        self.task_format = conf.worker_task_log_format
        self.task_datefmt = conf.worker_task_log_datefmt
        self.colorize = conf.worker_log_color

    @property
    def already_setup(self) -> bool:
        """Whether logging was set up in this process."""
        return Logging._setup

    @already_setup.setter
    def already_setup(self, value: bool) -> None:
        Logging._setup = value

    def setup(
        self,
        loglevel: int | str | None = None,
        logfile: Any = None,
        redirect_stdouts: bool = False,
        redirect_level: int | str = "WARNING",
        colorize: bool | None = None,
        hostname: str | None = None,
    ) -> Any:
        """Set logging up, and send what is printed to the log if `redirect_stdouts`.

        Returns the receivers of setup_logging: if there are any, all is left to them. None when
        logging was set up before.

        Raises ImproperlyConfigured when the log file cannot be written.
        """
        loglevel = mlevel(loglevel)
        handled = self.setup_logging_subsystem(
            loglevel, logfile, colorize=colorize, hostname=hostname
        )
        if not handled and redirect_stdouts:
            self.redirect_stdouts(redirect_level)
        # Children that are started anew set their logging up by these.
        os.environ.update(
            CELERY_LOG_LEVEL=str(loglevel) if loglevel else "",
            CELERY_LOG_FILE=str(logfile) if logfile else "",
        )
        for category in (CDeprecationWarning, CPendingDeprecationWarning):
            warnings.filterwarnings("always", category=category)
        return handled

    def setup_logging_subsystem(
        self,
        loglevel: int | str | None = None,
        logfile: Any = None,
        format: str | None = None,
        colorize: bool | None = None,
        hostname: str | None = None,
        datefmt: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Set up the root logger and that of tasks, unless setup_logging has a receiver."""
        if self.already_setup:
            return None
        if logfile and hostname:
            logfile = node_format(str(logfile), hostname)
        Logging._setup = True
        level: int = mlevel(loglevel or self.loglevel)
        format = format or self.format
        colorize = self.supports_color(colorize, logfile)
        reset_multiprocessing_logger()
        receivers = signals.setup_logging.send(
            sender=None, loglevel=level, logfile=logfile, format=format, colorize=colorize
        )
        if not receivers:
            try:
                self._setup_root(level, logfile, format, colorize, datefmt, **kwargs)
                self.setup_task_loggers(level, logfile, colorize=colorize, **kwargs)
            except ImproperlyConfigured:
                Logging._setup = False
                raise
        return receivers

    def _setup_root(
        self,
        loglevel: int,
        logfile: Any,
        format: str,
        colorize: bool,
        datefmt: str | None,
        **kwargs: Any,
    ) -> None:
        root = logging.getLogger()
        if self.app.conf.worker_hijack_root_logger:
            for name in (None, "celery", "celery.task", "celery.redirected"):
                logging.getLogger(name).handlers = []
        for logger in (root, get_multiprocessing_logger() if MP_LOG else None):
            if logger is not None:
                self.setup_handlers(
                    logger, logfile, format, colorize, datefmt=datefmt or self.datefmt, **kwargs
                )
                if loglevel:
                    logger.setLevel(loglevel)
                _tell(signals.after_setup_logger, logger, loglevel, logfile, format, colorize)
        set_default_encoding_file(sys.__stderr__)
        # The process library's children set their own logger up by these.
        os.environ.update(
            _MP_FORK_LOGLEVEL_=str(loglevel),
            _MP_FORK_LOGFILE_=str(logfile or ""),
            _MP_FORK_LOGFORMAT_=format,
        )

    def setup_task_loggers(
        self,
        loglevel: int | str | None = None,
        logfile: Any = None,
        format: str | None = None,
        colorize: bool | None = None,
        propagate: bool = False,
        datefmt: str | None = None,
        **kwargs: Any,
    ) -> logging.Logger:
        """Set up the logger that those of task modules hang from; gives it."""
        loglevel = mlevel(loglevel or self.loglevel)
        format = format or self.task_format
        colorize = self.supports_color(colorize, logfile)
        logger = self.setup_handlers(
            get_logger("celery.task"),
            logfile,
            format,
            colorize,
            formatter=TaskFormatter,
            datefmt=datefmt or self.task_datefmt,
            **kwargs,
        )
        logger.setLevel(loglevel)
        # Logging takes an int here, and code that compares the two finds one.
        logger.propagate = int(propagate)  # type: ignore[assignment]  # Celery's value
        _tell(signals.after_setup_task_logger, logger, loglevel, logfile, format, colorize)
        return logger

    def setup_handlers(
        self,
        logger: logging.Logger,
        logfile: Any,
        format: str,
        colorize: bool,
        formatter: type[ColorFormatter] = ColorFormatter,
        datefmt: str | None = None,
        **kwargs: Any,
    ) -> logging.Logger:
        """Give `logger` a handler that writes to `logfile`, unless it has one; gives the logger.

        `logfile` is a path, an open stream, or None for stderr.
        """
        if not _has_handler(logger):
            handler = _open_handler(logfile)
            handler.setFormatter(formatter(format, use_color=colorize, datefmt=datefmt))
            logger.addHandler(handler)
        return logger

    def redirect_stdouts(
        self, loglevel: int | str | None = None, name: str = "celery.redirected"
    ) -> None:
        """Log what is printed from now on, to the logger `name`."""
        self.redirect_stdouts_to_logger(get_logger(name), loglevel=loglevel)
        os.environ.update(CELERY_LOG_REDIRECT="1", CELERY_LOG_REDIRECT_LEVEL=str(loglevel or ""))

    def redirect_stdouts_to_logger(
        self,
        logger: logging.Logger,
        loglevel: int | str | None = None,
        stdout: bool = True,
        stderr: bool = True,
    ) -> LoggingProxy:
        """Log what is printed from now on; gives the file that takes it."""
        proxy = LoggingProxy(logger, loglevel)
        if stdout:
            sys.stdout = proxy
        if stderr:
            sys.stderr = proxy
        return proxy

    def supports_color(self, colorize: bool | None = None, logfile: Any = None) -> bool:
        """Whether to colour: if wanted, and only on a terminal."""
        colorize = self.colorize if colorize is None else colorize
        if colorize is False or logfile:
            return False
        if sys.platform == "win32" and not os.environ.get("ANSICON"):
            return False
        return _is_terminal(sys.stderr)

    def colored(self, logfile: Any = None, enabled: bool | None = None) -> colored:
        """A painter of texts that does nothing where colours are not supported."""
        return colored(enabled=self.supports_color(enabled, logfile))

    def get_default_logger(self, name: str = "celery", **kwargs: Any) -> logging.Logger:
        """The logger above all of ours."""
        return get_logger(name)


def _tell(
    signal: Signal, logger: Any, loglevel: Any, logfile: Any, format: str, colorize: bool
) -> None:
    signal.send(
        sender=None,
        logger=logger,
        loglevel=loglevel,
        logfile=logfile,
        format=format,
        colorize=colorize,
    )


def _has_handler(logger: logging.Logger) -> bool:
    return any(not isinstance(handler, logging.NullHandler) for handler in logger.handlers)


def _open_handler(logfile: Any = None) -> logging.Handler:
    logfile = sys.__stderr__ if logfile is None else logfile
    if hasattr(logfile, "write"):
        return StreamHandler(logfile)
    try:
        return FileHandler(logfile, encoding="utf-8")
    except OSError as exc:
        raise ImproperlyConfigured(
            f"the log file {os.path.abspath(logfile)!r} cannot be written: {exc.strerror}. Name a"
            " file (--logfile) in a directory that exists and may be written to, or none to log to"
            " stderr."
        ) from exc


def _is_terminal(stream: IO[str] | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        # The stream is closed.
        return False
