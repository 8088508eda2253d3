"""This file carries packets between a pool and one child: whole packets or nothing.

How it works. Every packet is a header (kind, job number, seconds) and a payload. A pair of
SOCK_SEQPACKET sockets keeps packets apart, so a reader never holds half of one, and a packet the
child has not read can be taken back through the pool's copy of the child's end. What is larger
than a socket likes travels as an anonymous file whose descriptor goes with the header. Where there
is no SOCK_SEQPACKET the pair is a stream with length prefixes, and nothing can be taken back.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import tempfile
from typing import Any

from billiard.reduction import DupFd

__all__ = (
    "ALIVE",
    "DONE",
    "FAILED",
    "JOB",
    "LEAVING",
    "QUICK_JOB",
    "RETIRE",
    "STARTED",
    "UP",
    "PacketSocket",
    "StreamSocket",
    "build_pair",
    "make_file",
    "pack",
)

#: To the child: run this; read no more.
JOB, RETIRE = b"j", b"r"
#: A job that will hardly take longer than to say that it has started: its end says both.
QUICK_JOB = b"q"
#: From the child: I exist; I am ready; this has started; this has ended; I read no more.
ALIVE, UP, STARTED, DONE, LEAVING = b"a", b"u", b"s", b"d", b"l"
#: From the child: I cannot be set up, for this reason.
FAILED = b"f"

#: kind, job number, seconds
HEADER = struct.Struct("<cQd")
HEADER_SIZE = HEADER.size
LENGTH = struct.Struct("<Q")

#: Bytes of the largest packet that goes through the socket itself.
LARGEST = 64 * 1024

_ROOM_FOR_ONE_DESCRIPTOR = socket.CMSG_SPACE(4) if hasattr(socket, "CMSG_SPACE") else 0
_DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)
_FULL = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS})

#: (kind, job number, seconds, payload)
Packet = tuple[bytes, int, float, Any]


def pack(kind: bytes, number: int = 0, seconds: float = 0.0, payload: bytes = b"") -> bytes:
    """Give the bytes of a packet."""
    return HEADER.pack(kind, number, seconds) + payload


class PacketSocket:
    """One end of a pair that keeps packets apart."""

    can_take_back = True
    #: There is never a rest to be sent later.
    unsent = b""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self._send = end.send
        self._receive = end.recvmsg_into
        self._buffer = memoryview(bytearray(HEADER_SIZE + LARGEST))

    def send(self, packet: bytes) -> bool:
        """Send a packet; False when there is no room for it now.

        Raises OSError when the other end is gone.
        """
        if len(packet) > HEADER_SIZE + LARGEST:
            return self._send_as_file(packet)
        try:
            self._send(packet)
        except OSError as exc:
            if exc.errno == errno.EMSGSIZE:
                return self._send_as_file(packet)
            if exc.errno in _FULL:
                return False
            raise
        return True

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a child that is spawned have this end."""
        return _receive, (type(self), DupFd(self.fileno()))

    def send_rest(self) -> None:
        """Nothing: a packet goes whole or not at all."""

    def receive(self, flags: int = 0) -> Packet | None:
        """Give the next packet; None when there is none now.

        The payload is valid until the next call. Raises EOFError when the other end is closed.
        """
        buffer = self._buffer
        try:
            # Not a plain recv: it would throw a passed descriptor away without a word.
            size, passed, _, _ = self._receive((buffer,), _ROOM_FOR_ONE_DESCRIPTOR, flags)
        except BlockingIOError:
            return None
        if not size:
            raise EOFError("the other end of a pool's socket pair is closed")
        kind, number, seconds = HEADER.unpack_from(buffer)
        if passed:
            return kind, number, seconds, _read_file(passed)
        return kind, number, seconds, buffer[HEADER_SIZE:size]

    def take_back(self) -> Packet | None:
        """Give a packet that nobody has read yet, never waiting for one."""
        return self.receive(_DONT_WAIT)

    def _send_as_file(self, packet: bytes) -> bool:
        descriptor = make_file()
        try:
            rest = memoryview(packet)[HEADER_SIZE:]
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", descriptor))]
            self.end.sendmsg([packet[:HEADER_SIZE]], passed)
        except OSError as exc:
            if exc.errno in _FULL:
                return False
            raise
        finally:
            os.close(descriptor)
        return True

    def fileno(self) -> int:
        """Give the descriptor; -1 when closed."""
        return self.end.fileno()

    def close(self) -> None:
        """Close this end."""
        self.end.close()


class StreamSocket:
    """One end of a stream pair: each packet goes behind its length."""

    can_take_back = False

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.unsent = bytearray()
        self._received = bytearray()

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a child that is spawned have this end."""
        return _receive, (type(self), DupFd(self.fileno()))

    def send(self, packet: bytes) -> bool:
        """Send a packet, or keep what does not fit now in `unsent`; True."""
        self.unsent += LENGTH.pack(len(packet))
        self.unsent += packet
        self.send_rest()
        return True

    def send_rest(self) -> None:
        """Send what did not fit before, as far as it goes."""
        try:
            while self.unsent:
                del self.unsent[: self.end.send(self.unsent)]
        except BlockingIOError:
            pass

    def receive(self) -> Packet | None:
        """Give the next packet; None when there is no whole one now.

        Raises EOFError when the other end is closed.
        """
        received = self._received
        while True:
            if len(received) >= LENGTH.size:
                end = LENGTH.size + LENGTH.unpack_from(received)[0]
                if len(received) >= end:
                    packet = bytes(received[LENGTH.size : end])
                    del received[:end]
                    return (*HEADER.unpack_from(packet), packet[HEADER_SIZE:])
            try:
                more = self.end.recv(LARGEST)
            except BlockingIOError:
                return None
            if not more:
                raise EOFError("the other end of a pool's socket pair is closed")
            received += more

    def take_back(self) -> Packet | None:
        """Nothing: half a packet may have been read."""
        return None

    def fileno(self) -> int:
        """Give the descriptor; -1 when closed."""
        return self.end.fileno()

    def close(self) -> None:
        """Close this end."""
        self.end.close()


AnySocket = PacketSocket | StreamSocket


def build_pair(is_stream: bool = False) -> tuple[AnySocket, AnySocket]:
    """Make (the pool's end, the child's end); only the child's end waits when it reads."""
    if not is_stream and hasattr(socket, "SOCK_SEQPACKET"):
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as exc:
            # Named by the headers, unknown to the kernel (macOS).
            if exc.errno not in (errno.EPROTONOSUPPORT, errno.EPROTOTYPE, errno.ESOCKTNOSUPPORT):
                raise
        else:
            ours.setblocking(False)
            return PacketSocket(ours), PacketSocket(theirs)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return StreamSocket(ours), StreamSocket(theirs)


def _receive(kind: type[AnySocket], passed: Any) -> AnySocket:
    """Have, in a spawned child, the end that was pickled for it."""
    end = socket.socket(fileno=passed.detach())
    end.set_inheritable(False)
    return kind(end)


def make_file() -> int:
    """Give the descriptor of a file without a name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("taskq-packet", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _read_file(passed: Any) -> bytes:
    (_, _, data), *_ = passed
    with os.fdopen(struct.unpack("i", data[:4])[0], "rb") as file:
        file.seek(0)
        return file.read()
