"""Where an SQLite file of ours is: reads sqlite:/// URLs, creates the file, names what is wrong.

utils/sqlite.py, which owns the connections, gives all of it on. Who only reads a URL or knows an
error imports it from here, and does not load SQLite.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from kombu.exceptions import OperationalError

from taskq.exceptions import ImproperlyConfigured

#: Where the kernel lists what is mounted where (Linux).
MOUNTS = "/proc/mounts"

#: File systems over a network: their locks and shared memory cannot be trusted between machines.
# fmt: off
NETWORK_FILE_SYSTEMS = frozenset((
    "nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "ncpfs", "afs", "coda", "ceph",
    "lustre", "beegfs", "glusterfs", "gpfs", "davfs", "fuse.sshfs", "fuse.glusterfs",
    "fuse.ceph", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "fuse.davfs2",
))
# fmt: on

SYNCHRONOUS = ("NORMAL", "FULL")


class DatabaseError(OperationalError):
    """A database file could not be used; says which, why and what to do."""


class DatabaseUnavailable(DatabaseError):
    """The file cannot be used now; trying again later may help."""


class DatabaseLocked(DatabaseUnavailable):
    """Others kept the file locked for longer than the timeout."""


class DatabaseFull(DatabaseUnavailable):
    """The disk (or the file's limit) has no room for a change; nothing of it was stored."""


class DatabaseUnusable(DatabaseError):
    """The file is not ours, not a database or out of reach; trying again does not help."""


class Location(NamedTuple):
    """A database file and how to treat it."""

    path: str  #: absolute
    synchronous: str = "NORMAL"  #: FULL survives a power cut, at about a tenth of the speed
    timeout: float = 5.0  #: seconds a writer waits for other writers


def parse_url(url: str) -> Location:
    """Read `sqlite:///relative/path` or `sqlite:////absolute/path`, with `?option=value`.

    Options: `synchronous` (NORMAL or FULL) and `timeout` (seconds). A relative path starts at the
    working directory of this moment. Raises ImproperlyConfigured for anything else.
    """
    text, _, query = url.partition("?")
    scheme, _, rest = text.partition("://")
    if not rest.startswith("/"):
        hint = f"{scheme}:///{rest}" if rest else "sqlite:///taskq.db"
        raise ImproperlyConfigured(
            f"{url!r} names no file: expected sqlite:///relative/path or sqlite:////absolute/path; "
            f"did you mean {hint!r}?"
        )
    path = unquote(rest[1:])
    if not path or path.endswith("/") or "\0" in path:
        raise ImproperlyConfigured(
            f"{url!r} names no file: expected a path after sqlite:///, as in sqlite:///taskq.db."
        )
    if path == ":memory:":
        raise ImproperlyConfigured(
            f"{url!r}: a database in memory cannot be shared with a worker; use memory:// in tests."
        )
    options = dict(parse_qsl(query, keep_blank_values=True))
    location = Location(
        os.path.abspath(path),
        _read_synchronous(options.pop("synchronous", "NORMAL")),
        _read_timeout(options.pop("timeout", "5")),
    )
    for name in options:
        near = get_close_matches(name, ("synchronous", "timeout"), 1)
        hint = f"; did you mean {near[0]!r}?" if near else "; known: synchronous, timeout."
        raise ImproperlyConfigured(f"{url!r}: unknown option {name!r}{hint}")
    return location


def _read_synchronous(value: str) -> str:
    if value.upper() not in SYNCHRONOUS:
        raise ImproperlyConfigured(f"synchronous: expected NORMAL or FULL, got {value!r}.")
    return value.upper()


def _read_timeout(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 86400:
        raise ImproperlyConfigured(f"timeout: expected seconds (0 or more), got {value!r}.")
    return seconds


def create_file(path: str) -> None:
    """Make an empty file that only its owner may read, unless there is one; refuse bad places."""
    directory = os.path.dirname(path)
    try:
        os.stat(directory)
    except PermissionError as exc:
        raise DatabaseUnusable(
            f"{path} cannot be reached ({exc.strerror}): let this user enter {directory}."
        ) from exc
    except OSError:
        pass
    if not os.path.isdir(directory):
        raise DatabaseUnusable(
            f"{path}: there is no directory {directory}; create it, or choose another path."
        )
    if os.path.isdir(path):
        raise DatabaseUnusable(f"{path} is a directory; expected a path for a database file.")
    refuse_network(path)
    try:
        # Never an existing file: closing any descriptor of it would drop SQLite's locks on it.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        pass
    except OSError as exc:
        raise DatabaseUnusable(
            f"{path} cannot be created ({exc.strerror}); let this user write to {directory}."
        ) from exc


def refuse_network(path: str) -> None:
    """Raise DatabaseUnusable when the file lies on a network file system (seen on Linux)."""
    try:
        with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as mounts:
            kind = find_file_system(path, mounts.read())
    except OSError:
        return
    if kind in NETWORK_FILE_SYSTEMS:
        raise DatabaseUnusable(
            f"{path} is on a network file system ({kind}), where SQLite's locks do not hold and "
            "messages would be lost. Use a local disk, or a server for several machines: "
            "broker_url = 'redis://...' or 'amqp://...'."
        )


def find_file_system(path: str, mounts: str) -> str:
    """Give the type of the file system that holds `path`, by a table in /proc/mounts' form."""
    path = os.path.realpath(path)
    best, kind = "", ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ").rstrip("/") + "/"
        # The last of equal mount points is the one on top.
        if path.startswith(point) and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind
