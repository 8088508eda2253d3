"""What differs between operating systems: exit codes, signals, process titles, daemons, users."""

from __future__ import annotations

import ctypes
import errno
import math
import os
import platform as _platform
import signal as _signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from billiard.process import current_process
from kombu.utils.encoding import safe_str

from taskq.utils.daemon import (
    DAEMON_WORKDIR,
    EX_CANTCREAT,
    EX_FAILURE,
    PIDFILE_FLAGS,
    PIDFILE_MODE,
    PIDLOCKED,
    DaemonContext,
    LockFailed,
    PIDFile,
    Pidfile,
    close_open_fds,
    create_pidlock,
    detached,
    fd_by_path,
    get_fdmax,
    resource,
)
from taskq.utils.privileges import (
    ASSUMING_ROOT,
    ROOT_DISALLOWED,
    ROOT_DISCOURAGED,
    check_privileges,
    grp,
    initgroups,
    maybe_drop_privileges,
    parse_gid,
    parse_uid,
    pwd,
    setgid,
    setgroups,
    setuid,
)
from taskq.utils.proxy import try_import

__all__ = (
    "ASSUMING_ROOT",
    "DAEMON_WORKDIR",
    "EX_CANTCREAT",
    "EX_FAILURE",
    "EX_OK",
    "EX_UNAVAILABLE",
    "EX_USAGE",
    "IS_WINDOWS",
    "PIDFILE_FLAGS",
    "PIDFILE_MODE",
    "PIDLOCKED",
    "ROOT_DISALLOWED",
    "ROOT_DISCOURAGED",
    "SIGMAP",
    "SIGNAMES",
    "SYSTEM",
    "DaemonContext",
    "IS_macOS",
    "LockFailed",
    "PIDFile",
    "Pidfile",
    "Signals",
    "check_privileges",
    "close_open_fds",
    "create_pidlock",
    "current_process",
    "detached",
    "fd_by_path",
    "get_errno_name",
    "get_fdmax",
    "get_signal",
    "grp",
    "ignore_errno",
    "ignore_signal",
    "initgroups",
    "install_signal_handler",
    "isatty",
    "maybe_drop_privileges",
    "parse_gid",
    "parse_uid",
    "pwd",
    "pyimplementation",
    "reset_signal",
    "resource",
    "set_mp_process_title",
    "set_pdeathsig",
    "set_process_title",
    "setgid",
    "setgroups",
    "setuid",
    "signal_name",
    "signals",
    "strargv",
)

_setproctitle: Any = try_import("setproctitle")

#: Linux's number for: send this process that signal when its parent ends.
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if os.name == "posix" else None

# From sysexits.h; not defined on Windows.
EX_OK: int = getattr(os, "EX_OK", 0)
EX_UNAVAILABLE: int = getattr(os, "EX_UNAVAILABLE", 69)
EX_USAGE: int = getattr(os, "EX_USAGE", 64)

SYSTEM = _platform.system()
IS_macOS = SYSTEM == "Darwin"
IS_WINDOWS = SYSTEM == "Windows"

SIGNAMES = {name for name in dir(_signal) if name.startswith("SIG") and "_" not in name}
SIGMAP: dict[int, str] = {getattr(_signal, name): name for name in sorted(SIGNAMES)}

SignalHandler = Any


def pyimplementation() -> str:
    """`CPython`, `PyPy`, ..."""
    return _platform.python_implementation()


def isatty(fh: Any) -> Any:
    """Whether a file is a terminal; None for what is no file."""
    try:
        return fh.isatty()
    except AttributeError:
        return None


def get_errno_name(n: int | str) -> int:
    """The number of an errno given by number or name."""
    return int(getattr(errno, n)) if isinstance(n, str) else n


@contextmanager
def ignore_errno(*errnos: int | str, **kwargs: Any) -> Iterator[None]:
    """Errors of the block with one of these errnos do not leave it.

    Arguments:
        types: classes of errors looked at; all by default.
    """
    types = kwargs.get("types") or (Exception,)
    wanted = [get_errno_name(n) for n in errnos]
    try:
        yield
    except types as exc:
        if getattr(exc, "errno", None) not in wanted:
            raise


class Signals:
    """The process's signals by short name: `signals["INT"] = handler`.

    Names are upper case, with or without SIG. What the platform does not have is passed over when
    handlers are set; setting any is passed over outside the main thread.
    """

    ignored: SignalHandler = _signal.SIG_IGN
    default: SignalHandler = _signal.SIG_DFL

    def arm_alarm(self, seconds: float) -> None:
        """Send this process ALRM in that many seconds."""
        if hasattr(_signal, "setitimer"):
            _signal.setitimer(_signal.ITIMER_REAL, seconds)
        else:
            _signal.alarm(math.ceil(seconds))

    def reset_alarm(self) -> int:
        """Send no ALRM after all; gives the seconds that were left."""
        return _signal.alarm(0)

    def supported(self, name: int | str) -> bool:
        """Whether the platform has this signal."""
        try:
            self.signum(name)
        except AttributeError:
            return False
        return True

    def signum(self, name: int | str) -> int:
        """The number of a signal given by number or name.

        Raises:
            TypeError: the name is not an upper case text.
            AttributeError: the platform has no such signal.
        """
        if isinstance(name, int):
            return name
        if not isinstance(name, str) or not name.isupper():
            raise TypeError("signal name must be uppercase string.")
        if not name.startswith("SIG"):
            name = "SIG" + name
        return int(getattr(_signal, name))

    def reset(self, *signal_names: int | str) -> None:
        """Back to what the platform does by default."""
        self.update((name, self.default) for name in signal_names)

    def ignore(self, *names: int | str) -> None:
        """Do nothing when these come."""
        self.update((name, self.ignored) for name in names)

    def __getitem__(self, name: int | str) -> SignalHandler:
        return _signal.getsignal(self.signum(name))

    def __setitem__(self, name: int | str, handler: SignalHandler) -> None:
        try:
            _signal.signal(self.signum(name), handler)
        except (AttributeError, ValueError):
            # Not here: another platform, or not the main thread.
            pass

    def update(self, _d_: Any = None, **sigmap: SignalHandler) -> None:
        """Set several handlers, given as to dict.update."""
        for name, handler in dict(_d_ or {}, **sigmap).items():
            self[name] = handler


signals = Signals()
get_signal = signals.signum
install_signal_handler = signals.__setitem__
reset_signal = signals.reset
ignore_signal = signals.ignore


def signal_name(signum: int) -> str:
    """The short name of a signal: `TERM`."""
    return SIGMAP[signum][3:]


def strargv(argv: Sequence[str]) -> str:
    """The arguments of a program in one text, without the program."""
    return " ".join(argv[1:])


def set_pdeathsig(name: int | str) -> None:
    """Send this process that signal when its parent ends (Linux)."""
    signum = signals.signum(name)
    # Straight to the C library: billiard's way would parse C in every child, for 5 MB each.
    if SYSTEM == "Linux" and _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signum, 0, 0, 0)


def set_process_title(progname: str, info: str | None = None) -> str:
    """Show `[progname] info` in lists of processes, if setproctitle is installed.

    Gives the text.
    """
    title = f"[{progname}]"
    if info:
        title = f"{title} {info}"
    if _setproctitle:
        _setproctitle.setproctitle(safe_str(title))
    return title


def set_mp_process_title(
    progname: str, info: str | None = None, hostname: str | None = None
) -> str | None:
    """As set_process_title, with the name of this pool process.

    Does nothing (None) with NOSETPS in the environment.
    """
    if os.environ.get("NOSETPS"):
        return None
    name = current_process().name
    if hostname:
        progname = f"{progname}: {hostname}"
    return set_process_title(f"{progname}:{name}", info=info)
