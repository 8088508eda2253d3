"""How a publisher wakes the workers of an SQLite file: a datagram socket beside it for each.

A bell is `<file>.bell.<pid>.<session>`. Any process that may write the file may ring it; one byte
is enough, and a full queue of bytes means that it has rung already. Where no such socket can be
made, the bell can only be rung from its own process and others are noticed by looking at the file.
"""

from __future__ import annotations

import atexit
import errno
import os
import socket
import weakref
from collections.abc import Iterable

#: The longest socket path every platform takes, in bytes.
LONGEST_ADDRESS = 100

_HAS_UNIX_SOCKETS = hasattr(socket, "AF_UNIX")

#: What is sent: there may be a message; or only, wake up.
RUNG, WOKEN = b"!", b"."

_rung_from_here: weakref.WeakValueDictionary[str, Bell] = weakref.WeakValueDictionary()

#: One for all bells of other processes, opened when it is first needed.
_ringing: socket.socket | None = None


class Bell:
    """A consumer's ear: readable when somebody has rung."""

    def __init__(self, name: str, database: str) -> None:
        """Bind the path `name`, with the permissions of the file `database`."""
        self.pid = os.getpid()
        self.name = name
        self._hearing, self._ringing = socket.socketpair()
        #: Whether other processes can ring it.
        self.audible = self._bind(database)
        self._hearing.setblocking(False)
        self._ringing.setblocking(False)
        # Not __del__: of things that refer to each other a socket may be dropped before its bell.
        self._let_go = weakref.finalize(self, _close_both, self._hearing, self._ringing)
        _rung_from_here[name] = self

    def _bind(self, database: str) -> bool:
        if not _HAS_UNIX_SOCKETS:
            return False
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            with _Address(self.name) as address:
                bound.bind(address)
                os.chmod(self.name, os.stat(database).st_mode & 0o777)
                self._ringing.close()
                self._ringing = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._ringing.connect(address)
        except OSError:
            bound.close()
            self._hearing.close()
            self._ringing.close()
            self._hearing, self._ringing = socket.socketpair()
            remove(self.name)
            return False
        self._hearing.close()
        self._hearing = bound
        return True

    def fileno(self) -> int:
        return self._hearing.fileno()

    def ring(self, sign: bytes = RUNG) -> None:
        """Ring it from this process, any thread; or only wake its owner, with WOKEN."""
        try:
            self._ringing.send(sign)
        except OSError:
            # Full: it has rung already. Closed: nobody listens any more.
            pass

    def hear(self) -> bool:
        """Say whether somebody has rung (not just woken) since the last time, without waiting."""
        heard = False
        try:
            while sign := self._hearing.recv(1):
                heard = heard or sign == RUNG
        except OSError:
            pass
        return heard

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for any sign; say whether somebody has rung."""
        if timeout <= 0:
            return self.hear()
        try:
            self._hearing.settimeout(timeout)
            try:
                sign = self._hearing.recv(1)
            finally:
                self._hearing.setblocking(False)
        except OSError:
            # Nobody has, or the process ends.
            return False
        return self.hear() or sign == RUNG

    def close(self) -> None:
        """Stop listening. A forked child only drops its copies of the sockets."""
        if _rung_from_here.get(self.name) is self:
            del _rung_from_here[self.name]
        self._let_go()
        if self.audible and self.pid == os.getpid():
            remove(self.name)


def _close_both(hearing: socket.socket, ringing: socket.socket) -> None:
    """Close a bell that was dropped: its file stays, and shows others that nobody listens."""
    hearing.close()
    ringing.close()


def ring_all(bells: Iterable[tuple[str, int]]) -> list[str]:
    """Ring bells by name, unless not audible; give the names of those nobody answers any more."""
    unanswered: list[str] = []
    for name, audible in bells:
        near = _rung_from_here.get(name)
        if near is not None:
            near.ring()
        elif audible and not ring(name):
            unanswered.append(name)
    return unanswered


def ring(name: str) -> bool:
    """Ring a bell of any process; False when its owner or its file is gone for certain."""
    global _ringing
    try:
        if _ringing is None:
            _ringing = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            _ringing.setblocking(False)
            atexit.register(_close_ringing)
        with _Address(name) as address:
            _ringing.sendto(RUNG, address)
    except OSError as exc:
        return exc.errno not in (errno.ECONNREFUSED, errno.ENOENT)
    return True


def _close_ringing() -> None:
    """Let it go before the interpreter finds it open; who still rings opens another."""
    global _ringing
    if _ringing is not None:
        _ringing.close()
        _ringing = None


def is_dead(name: str) -> bool:
    """Say whether the owner of this bell is certainly gone: its socket is, its file is not."""
    if not _HAS_UNIX_SOCKETS:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            with _Address(name) as address:
                probe.connect(address)
        except OSError as exc:
            return exc.errno == errno.ECONNREFUSED
    return False


def remove(name: str) -> None:
    """Remove the socket file of a bell, if it is still there."""
    try:
        os.unlink(name)
    except OSError:
        pass


def _close_in_child() -> None:
    """Let go of the parent's bells: with a copy here, the parent's death would not be seen."""
    for bell in list(_rung_from_here.values()):
        bell.close()


class _Address:
    """A path as a socket takes it: one that is too long is reached through its directory."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._directory = -1

    def __enter__(self) -> str:
        if len(os.fsencode(self.path)) <= LONGEST_ADDRESS:
            return self.path
        directory, name = os.path.split(self.path)
        self._directory = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._directory}/{name}"

    def __exit__(self, *exc_info: object) -> None:
        if self._directory >= 0:
            os.close(self._directory)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
