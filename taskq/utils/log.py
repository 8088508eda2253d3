"""Loggers under Celery's names, colours, and a file that writes to a logger.

Names on loggers are Celery's, because logging configurations and agents refer to them:
`get_logger("taskq.app.trace")` is the logger "celery.app.trace".
"""

from __future__ import annotations

import logging
import numbers
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from billiard import util as mputil
from billiard.process import current_process
from kombu.log import LOG_LEVELS
from kombu.log import get_logger as _kombu_logger
from kombu.utils.encoding import safe_str

from taskq.utils.term import colored

__all__ = (
    "LOG_LEVELS",
    "ColorFormatter",
    "LoggingProxy",
    "base_logger",
    "current_process_index",
    "get_logger",
    "get_multiprocessing_logger",
    "get_task_logger",
    "in_sighandler",
    "iter_open_logger_fds",
    "mlevel",
    "reset_multiprocessing_logger",
    "set_in_sighandler",
    "task_logger",
    "worker_logger",
)

RESERVED_LOGGER_NAMES = frozenset({"celery", "celery.task"})

#: True while a signal handler runs: logging takes locks the interrupted code may hold.
_in_sighandler = False


def set_in_sighandler(value: bool) -> None:
    """Note that a signal handler runs, so that redirected output is not logged."""
    global _in_sighandler
    _in_sighandler = value


@contextmanager
def in_sighandler() -> Iterator[None]:
    """The block runs in a signal handler."""
    set_in_sighandler(True)
    try:
        yield
    finally:
        set_in_sighandler(False)


def _celery_name(name: str) -> str:
    if name == "taskq" or name.startswith("taskq."):
        return "celery" + name[5:]
    return name


def _plain_logger(name: str) -> logging.Logger:
    """The logger with a NullHandler, so that a program without logging stays silent."""
    return _kombu_logger(_celery_name(name))


base_logger = logger = _plain_logger("celery")


def get_logger(name: str) -> logging.Logger:
    """The logger of a module, below the logger "celery" whatever its name is.

    `get_logger(__name__)`: our own modules log under Celery's names.
    """
    found = _plain_logger(name)
    if found.parent is logging.root and found is not base_logger:
        found.parent = base_logger
    return found


task_logger = get_logger("celery.task")
worker_logger = get_logger("celery.worker")


def get_task_logger(name: str) -> logging.Logger:
    """The logger for a module with tasks: its records carry the task's name and id.

    Raises:
        RuntimeError: the name is that of a logger of ours.
    """
    if name in RESERVED_LOGGER_NAMES:
        raise RuntimeError(f"Logger name {name!r} is reserved!")
    found = _plain_logger(name)
    if not _is_below(found, task_logger):
        found.parent = task_logger
    return found


def _is_below(child: logging.Logger, ancestor: logging.Logger) -> bool:
    at: logging.Logger | None = child
    seen: set[int] = set()
    while at is not None and at is not ancestor:
        if id(at) in seen:
            raise RuntimeError(f"the parents of logger {child.name!r} form a loop at {at.name!r}")
        seen.add(id(at))
        at = at.parent
    return at is ancestor


def mlevel(level: int | str | None) -> Any:
    """The number of a log level given by name or number; 0 and None stay.

    Raises:
        KeyError: no level has that name.
    """
    if level and not isinstance(level, numbers.Integral):
        return LOG_LEVELS[str(level).upper()]
    return level


def iter_open_logger_fds() -> Iterator[Any]:
    """The open streams of all handlers of all loggers: those a daemon must not close."""
    seen: set[int] = set()
    known = list(logging.root.manager.loggerDict.values())
    for at in [logging.root, *known]:
        for handler in getattr(at, "handlers", ()):
            stream = getattr(handler, "stream", None)
            if stream is not None and id(stream) not in seen:
                seen.add(id(stream))
                yield stream


class ColorFormatter(logging.Formatter):
    """A formatter that gives each level its colour.

    Arguments:
        fmt: format of a line.
        use_color: False writes no escapes.
    """

    #: Loops through the colours of `utils.term.colored`.
    COLORS = colored().names
    colors = {
        "DEBUG": COLORS["blue"],
        "WARNING": COLORS["yellow"],
        "ERROR": COLORS["red"],
        "CRITICAL": COLORS["magenta"],
    }

    def __init__(
        self, fmt: str | None = None, use_color: bool = True, datefmt: str | None = None
    ) -> None:
        super().__init__(fmt, datefmt)
        self.use_color = use_color

    def formatException(self, ei: Any) -> str:
        if ei and not isinstance(ei, tuple):
            ei = sys.exc_info()
        return super().formatException(ei)

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        paint: Callable[..., Any] | None = self.colors.get(record.levelname)
        if not self.use_color or paint is None:
            return text
        return str(paint(safe_str(text)))


class LoggingProxy:
    """A text file whose writes become records of a logger: for sys.stdout and sys.stderr.

    Arguments:
        loglevel: level of the records; the logger's own by default.
    """

    mode = "w"
    name: str | None = None
    closed = False
    loglevel: int = logging.ERROR
    _recursion: threading.local

    def __init__(self, logger: logging.Logger, loglevel: int | str | None = None) -> None:
        self.logger = logger
        self.loglevel = mlevel(loglevel or self.logger.level or self.loglevel)
        self._recursion = threading.local()
        self._make_handlers_safe()

    def _make_handlers_safe(self) -> None:
        """A handler that fails prints to sys.stderr; when that is us, it would not end."""

        def handle_error(record: logging.LogRecord) -> None:
            if logging.raiseExceptions and sys.__stderr__ is not None:
                try:
                    traceback.print_exc(None, sys.__stderr__)
                except OSError:
                    # Nobody is left to be told.
                    pass

        at: logging.Logger | None = self.logger
        while at is not None:
            for handler in at.handlers:
                handler.handleError = handle_error  # type: ignore[method-assign]  # per handler
            at = at.parent if at.propagate else None

    def write(self, data: str | bytes) -> int:
        """Log `data`; gives its length, or 0 if there was nothing to log."""
        if _in_sighandler:
            # Not through the logger: its lock may be held by the code that was interrupted.
            if sys.__stderr__ is not None:
                sys.__stderr__.write(safe_str(data))
            return 0
        if getattr(self._recursion, "active", False):
            # The logger itself writes here.
            return 0
        text = data.decode(errors="replace") if isinstance(data, bytes) else str(data)
        if not data or self.closed:
            return 0
        self._recursion.active = True
        try:
            # One record for one write, whatever lines it has; print() writes the newline alone.
            if line := text.rstrip("\n"):
                self.logger.log(self.loglevel, line)
        finally:
            self._recursion.active = False
        return len(data)

    def writelines(self, sequence: Sequence[str]) -> None:
        """Log every item."""
        for part in sequence:
            self.write(part)

    def flush(self) -> None:
        """Does nothing: every write is a record."""

    def close(self) -> None:
        """Log nothing any more."""
        self.closed = True

    def isatty(self) -> bool:
        """False: no colours, no questions."""
        return False

    def __enter__(self) -> LoggingProxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()


def get_multiprocessing_logger() -> Any:
    """The logger of the process library."""
    return mputil.get_logger()


def reset_multiprocessing_logger() -> None:
    """Let the process library make its logger anew."""
    if hasattr(mputil, "_logger"):
        mputil._logger = None


def current_process_index(base: int = 1) -> int | None:
    """The number of this pool process, from `base` on; None in the main process."""
    index = getattr(current_process(), "index", None)
    return index + base if index is not None else None


#: Set in children, for handlers that must not share a file's position.
MP_LOG = os.environ.get("MP_LOG", False)
