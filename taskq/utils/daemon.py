"""Leaving the terminal: pid files, open files, and the way into the background."""

from __future__ import annotations

import atexit
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from billiard import util as mputil
from billiard.compat import close_open_fds, get_fdmax

from taskq.utils.privileges import maybe_drop_privileges
from taskq.utils.proxy import try_import

__all__ = (
    "EX_CANTCREAT",
    "STARTING_DIRECTORY",
    "EX_FAILURE",
    "DaemonContext",
    "LockFailed",
    "PIDFile",
    "Pidfile",
    "close_open_fds",
    "create_pidlock",
    "detached",
    "fd_by_path",
    "get_fdmax",
    "require_writable_files",
)

# Not on Windows.
resource = try_import("resource")

EX_FAILURE = 1
EX_CANTCREAT = getattr(os, "EX_CANTCREAT", 73)

DAEMON_WORKDIR = "/"


def _find_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        # It was removed.
        return DAEMON_WORKDIR


#: Where this program was started: its command line means the same only there.
STARTING_DIRECTORY = _find_directory()

PIDFILE_FLAGS = os.O_CREAT | os.O_EXCL | os.O_WRONLY
PIDFILE_MODE = ((os.R_OK | os.W_OK) << 6) | (os.R_OK << 3) | os.R_OK

PIDLOCKED = (
    "ERROR: the pidfile {0} already exists: is this already running, as process {1}? "
    "Stop that one, or give this one another --pidfile."
)


class LockFailed(Exception):
    """The pidfile is there already, or cannot be written."""


class Pidfile:
    """A file with the number of the process that runs; it keeps a second one from starting.

    Also a context manager.
    """

    #: Where it is.
    path: str | None = None

    def __init__(self, path: str) -> None:
        self.path = self._path = os.path.abspath(path)

    def acquire(self) -> Pidfile:
        """Write the file.

        Raises:
            LockFailed: it exists, or cannot be written.
        """
        try:
            self.write_pid()
        except OSError as exc:
            raise LockFailed(str(exc)) from exc
        return self

    __enter__ = acquire

    def is_locked(self) -> bool:
        """Whether the file exists."""
        return os.path.exists(self._path)

    def release(self, *args: Any) -> None:
        """Remove the file."""
        self.remove()

    __exit__ = release

    def read_pid(self) -> int | None:
        """The number in the file; None if there is no file.

        Raises:
            ValueError: the file does not hold a number and the end of its line.
        """
        try:
            with open(self._path) as fh:
                line = fh.readline()
        except FileNotFoundError:
            return None
        if line.strip() == line:
            # No end of line: somebody is still writing it, or it is something else.
            raise ValueError(f"Partial or invalid pidfile {self._path}")
        try:
            return int(line.strip())
        except ValueError:
            raise ValueError(f"pidfile {self._path} contents invalid: {line!r}") from None

    def remove(self) -> None:
        """Remove the file, if it is there and may be removed."""
        try:
            os.unlink(self._path)
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.EACCES):
                raise

    def remove_if_stale(self) -> bool:
        """Remove the file if its process is gone; says whether the way is free."""
        try:
            pid = self.read_pid()
        except ValueError:
            self._say("Broken pidfile found - Removing it.")
            self.remove()
            return True
        if not pid or pid == os.getpid():
            self.remove()
            return True
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            self._say("Stale pidfile exists - Removing it.")
            self.remove()
            return True
        except (PermissionError, OverflowError):
            # It is there and somebody else's; or no process can have that number.
            return False
        return False

    def write_pid(self) -> None:
        """Write the number of this process into a new file.

        Raises:
            OSError: the file exists or cannot be made.
            LockFailed: the file holds something else afterwards.
        """
        content = f"{os.getpid()}\n"
        fd = os.open(self._path, PIDFILE_FLAGS, PIDFILE_MODE)
        with os.fdopen(fd, "w") as fh:
            fh.write(content)
            fh.flush()
            # Still there after a power failure, so that nobody starts twice.
            os.fsync(fh.fileno())
        with open(self._path) as fh:
            if fh.read() != content:
                raise LockFailed(f"pidfile {self._path} does not hold what was written into it")

    @staticmethod
    def _say(text: str) -> None:
        # Before logging is set up.
        print(text, file=sys.stderr)  # noqa: T201


#: Old name of `Pidfile`.
PIDFile = Pidfile


def create_pidlock(pidfile: str) -> Pidfile:
    """Write the pidfile, after removing a stale one; it is removed when the process ends.

    Ends the process with exit code 73 if another one holds it.
    """
    lock = Pidfile(pidfile)
    if lock.is_locked() and not lock.remove_if_stale():
        print(PIDLOCKED.format(pidfile, lock.read_pid()), file=sys.stderr)  # noqa: T201
        raise SystemExit(EX_CANTCREAT)
    lock.acquire()
    owner = os.getpid()

    def release_own() -> None:
        # A forked child ends too, and the file is not its.
        if os.getpid() == owner:
            lock.release()

    atexit.register(release_own)
    return lock


def fd_by_path(paths: Iterable[str]) -> list[int]:
    """The open file descriptors of this process that lead to one of these files."""
    wanted = set()
    for path in paths:
        try:
            stat = os.stat(path)
        except OSError:
            continue
        wanted.add((stat.st_dev, stat.st_ino))
    found = []
    for fd in range(get_fdmax(2048)):
        try:
            stat = os.fstat(fd)
        except OSError:
            continue
        if (stat.st_dev, stat.st_ino) in wanted:
            found.append(fd)
    return found


class DaemonContext:
    """The block runs in the background, without a terminal.

    Arguments:
        pidfile: not used; see `detached`.
        workdir: working directory, `/` by default.
        umask: file mode mask, a number or octal text.
        fake: do not fork (for looking at what happens).
        after_chdir: called in the new directory, before files are closed.
        after_forkers: tell the process library that we have forked.
    """

    _is_open = False

    def __init__(
        self,
        pidfile: str | None = None,
        workdir: str | None = None,
        umask: int | str | None = None,
        fake: bool = False,
        after_chdir: Callable[[], Any] | None = None,
        after_forkers: bool = True,
        **kwargs: Any,
    ) -> None:
        if isinstance(umask, str):
            # "022" means octal, as everywhere; "0o22" and "0x12" say so themselves.
            umask = int(umask, 0 if umask.lower().startswith(("0o", "0x", "0b")) else 8)
        self.workdir = workdir or DAEMON_WORKDIR
        self.umask = umask
        self.fake = fake
        self.after_chdir = after_chdir
        self.after_forkers = after_forkers
        self.stdfds = (sys.stdin, sys.stdout, sys.stderr)

    def redirect_to_null(self, fd: int | None) -> None:
        """Let a file descriptor lead nowhere."""
        if fd is not None:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, fd)
            if null != fd:
                os.close(null)

    def open(self) -> None:
        """Go into the background."""
        if self._is_open:
            return
        if not self.fake:
            self._detach()
        os.chdir(self.workdir)
        if self.umask is not None:
            os.umask(int(self.umask))
        if self.after_chdir:
            self.after_chdir()
        if not self.fake:
            self._leave_files()
            if self.after_forkers:
                mputil._run_after_forkers()
        self._is_open = True

    __enter__ = open

    def _leave_files(self) -> None:
        # Python's source of random numbers may hold an open file.
        keep: list[Any] = [*self.stdfds, *fd_by_path(["/dev/urandom"])]
        close_open_fds(keep)
        for fd in (0, 1, 2):
            self.redirect_to_null(fd)

    def close(self, *args: Any) -> None:
        """Note that the context has ended; the process stays where it is."""
        self._is_open = False

    __exit__ = close

    @staticmethod
    def _detach() -> None:
        # The second fork is no session leader, so it can never get a terminal again.
        if os.fork():
            os._exit(0)
        os.setsid()
        if os.fork():
            os._exit(0)


def require_writable_files(logfile: str | None = None, pidfile: str | None = None) -> None:
    """See that a program in the background will be able to write its files.

    Ends the process with exit code 73 if another one holds the pidfile.

    Raises:
        OSError: the log file cannot be written.
        LockFailed: the pidfile cannot be written.
    """
    if logfile:
        with open(logfile, "a"):
            pass
    if pidfile and not Pidfile(pidfile).remove_if_stale():
        print(PIDLOCKED.format(pidfile, Pidfile(pidfile).read_pid()), file=sys.stderr)  # noqa: T201
        raise SystemExit(EX_CANTCREAT)
    if pidfile:
        Pidfile(pidfile).acquire().release()


def detached(
    logfile: str | None = None,
    pidfile: str | None = None,
    uid: int | str | None = None,
    gid: int | str | None = None,
    umask: int | str | None = 0,
    workdir: str | None = None,
    fake: bool = False,
    **opts: Any,
) -> DaemonContext:
    """A context in whose block the process runs in the background.

    Arguments:
        logfile, pidfile: files that must be writable from there.
        uid, gid: whom to run as, by number or name.
        umask: file mode mask, a number or octal text.
        workdir: working directory; the present one by default.
        fake: do not fork; also by C_FAKEFORK in the environment.

    Raises:
        RuntimeError: the platform has no background processes.
    """
    if resource is None:
        raise RuntimeError("This platform does not support detach.")
    # A handler inherited from a supervisor would wait for our children in its place.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    maybe_drop_privileges(uid=uid, gid=gid)

    return DaemonContext(
        umask=umask,
        workdir=workdir or os.getcwd(),
        fake=fake or bool(os.environ.get("C_FAKEFORK")),
        # Here errors can still be seen: in the background they would have nowhere to go.
        after_chdir=partial(require_writable_files, logfile, pidfile),
    )
