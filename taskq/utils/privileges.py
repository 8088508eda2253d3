"""Who this process runs as: users, groups, and giving up what it does not need."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Collection
from typing import Any, NoReturn

from taskq.exceptions import SecurityError, SecurityWarning
from taskq.utils.proxy import try_import

__all__ = (
    "check_privileges",
    "initgroups",
    "maybe_drop_privileges",
    "parse_gid",
    "parse_uid",
    "setgid",
    "setgroups",
    "setuid",
)

# Not on Windows.
pwd = try_import("pwd")
grp = try_import("grp")

#: Groups whose members can become root.
_ROOT_GROUPS = frozenset({"sudo", "wheel"})
_PICKLE = frozenset({"pickle", "application/x-python-serialize"})

_USER_INFORMATION = "User information: uid={uid} euid={euid} gid={gid} egid={egid}\n"

ROOT_DISALLOWED = (
    "This worker runs with superuser privileges and accepts pickled messages: whoever can send it\n"
    "one can do anything on this machine. Run it as another user (--uid), or take pickle out of\n"
    "accept_content. If you must, set the environment variable C_FORCE_ROOT.\n\n"
) + _USER_INFORMATION

ROOT_DISCOURAGED = (
    "This worker runs with superuser privileges, which no task needs.\n"
    "Run it as another user, for example with --uid.\n\n"
) + _USER_INFORMATION

ASSUMING_ROOT = (
    "The group of this process has no entry in the group database; it is taken to be one that\n"
    "can become root.\n"
)


def parse_uid(uid: int | str) -> int:
    """The number of a user given by number or name.

    Raises:
        KeyError: there is no such user.
    """
    try:
        return int(uid)
    except ValueError:
        try:
            return int(pwd.getpwnam(uid).pw_uid)
        except (AttributeError, KeyError):
            raise KeyError(f"User does not exist: {uid}") from None


def parse_gid(gid: int | str) -> int:
    """The number of a group given by number or name.

    Raises:
        KeyError: there is no such group.
    """
    try:
        return int(gid)
    except ValueError:
        try:
            return int(grp.getgrnam(gid).gr_gid)
        except (AttributeError, KeyError):
            raise KeyError(f"Group does not exist: {gid}") from None


def setgroups(groups: list[int]) -> None:
    """Set the supplementary groups, as many as the system allows."""
    most = os.sysconf("SC_NGROUPS_MAX") if hasattr(os, "sysconf") else len(groups)
    try:
        os.setgroups(groups[:most])
    except OSError as exc:
        # Without the right to set them it is no error to have them already.
        if exc.errno != errno.EPERM or any(group not in groups for group in os.getgroups()):
            raise


def initgroups(uid: int, gid: int) -> None:
    """Set the supplementary groups to those of a user."""
    if pwd is not None:
        os.initgroups(pwd.getpwuid(uid).pw_name, gid)


def setgid(gid: int | str) -> None:
    """Run with this group, given by number or name."""
    os.setgid(parse_gid(gid))


def setuid(uid: int | str) -> None:
    """Run as this user, given by number or name."""
    os.setuid(parse_uid(uid))


def maybe_drop_privileges(
    uid: int | str | None = None, gid: int | str | None = None
) -> None:
    """Run as another user and group; with a user alone, also with its groups.

    Raises:
        SecurityError: root could be had back afterwards.
    """
    if sys.platform == "win32":
        return
    if os.geteuid() and uid is None and gid is None:
        return
    if uid:
        _become_user(parse_uid(uid), gid and parse_gid(gid))
    elif gid:
        setgid(gid)


def _become_user(uid: int, gid: int | str | None) -> None:
    if not gid and pwd is not None:
        gid = int(pwd.getpwuid(uid).pw_gid)
    if uid == os.getuid() == os.geteuid() and gid in (None, os.getgid()):
        # It is that user already, and has no right to say so once more.
        return
    if gid:
        # In this order: afterwards the right to do so is gone.
        setgid(gid)
        initgroups(uid, int(gid))
    setuid(uid)
    if uid:
        _require_root_is_out_of_reach()


def _require_root_is_out_of_reach() -> None:
    try:
        setuid(0)
    except OSError as exc:
        if exc.errno != errno.EPERM:
            raise
    else:
        raise SecurityError("privileges were dropped, but root could be had back: setuid(0) worked")


def check_privileges(accept_content: Collection[str]) -> None:
    """Warn about a worker run by root, and refuse one that accepts pickled messages.

    Raises:
        SecurityError: root, pickle, and no C_FORCE_ROOT in the environment.
    """
    if not hasattr(os, "fchown"):
        return
    ids = {
        "uid": os.getuid() if hasattr(os, "getuid") else 65535,
        "gid": os.getgid() if hasattr(os, "getgid") else 65535,
        "euid": os.geteuid() if hasattr(os, "geteuid") else 65535,
        "egid": os.getegid() if hasattr(os, "getegid") else 65535,
    }
    accepts_pickle = not _PICKLE.isdisjoint(accept_content or ())
    is_root = not all(ids.values())
    if is_root or any(map(_is_root_group, (ids["gid"], ids["egid"]))):
        _warn_or_refuse(accepts_pickle, ids)


def _is_root_group(gid: int) -> bool:
    if grp is None:
        return False
    try:
        return grp.getgrgid(gid).gr_name in _ROOT_GROUPS
    except KeyError:
        warnings.warn(SecurityWarning(ASSUMING_ROOT), stacklevel=4)
        return True


def _warn_or_refuse(accepts_pickle: bool, ids: dict[str, Any]) -> None:
    if accepts_pickle and not os.environ.get("C_FORCE_ROOT"):
        _refuse(ids)
    warnings.warn(SecurityWarning(ROOT_DISCOURAGED.format(**ids)), stacklevel=3)


def _refuse(ids: dict[str, Any]) -> NoReturn:
    raise SecurityError(ROOT_DISALLOWED.format(**ids))
