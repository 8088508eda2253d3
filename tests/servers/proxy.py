"""A network between client and server that breaks when it is told to."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from servers.process import HOST, free_port

if TYPE_CHECKING:
    from typing_extensions import Self

#: ("up" to the server or "down" to the client, the bytes) -> is this the moment?
Moment = Callable[[str, bytes], bool]


class _Pipe:
    """One connection of a client, and the one to the server behind it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server

    def close(self) -> None:
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                # A reset: the other side sees a broken connection, not a polite end.
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.close()


class Proxy:
    """Forwards a loopback port of its own to `port`; every method may be called from any thread.

    `accepted` counts the connections ever taken, `open` those there are now.
    """

    def __init__(self, port: int, host: str = HOST) -> None:
        self.target = (host, port)
        self.accepted = 0
        self._lock = threading.RLock()
        self._pipes: list[_Pipe] = []
        self._stalled: frozenset[str] = frozenset()
        self._moment: Moment | None = None
        self._pass_on = False
        #: Set once the moment given to `cut_when` has come.
        self.happened = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._bell, self._rung = socket.socketpair()
        self._rung.setblocking(False)
        self._selector.register(self._rung, selectors.EVENT_READ)
        self._listener: socket.socket | None = self._listen(free_port())
        self.port = int(self._listener.getsockname()[1])
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="test proxy", daemon=True)
        self._thread.start()

    def through(self, url: str) -> str:
        """`url` with this proxy's address in the place of the server's."""
        parts = urlsplit(url)
        login, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{login}{at}{HOST}:{self.port}"))

    @property
    def open(self) -> int:
        """Connections there are now."""
        with self._lock:
            return len(self._pipes)

    def cut(self) -> None:
        """Break every connection; new ones are taken as before."""
        with self._lock:
            for pipe in self._pipes:
                self._forget(pipe)
                pipe.close()
            self._pipes = []

    def cut_when(self, moment: Moment, *, pass_on: bool = False) -> threading.Event:
        """Break every connection at the first bytes for which `moment(way, data)` is true.

        These bytes are thrown away, or with `pass_on` still delivered. Gives an event that is set
        when it has happened. Example: the server has done it, the client never hears of it:
        `proxy.cut_when(lambda way, data: way == "down")`.
        """
        with self._lock:
            self.happened = threading.Event()
            self._moment, self._pass_on = moment, pass_on
            return self.happened

    def refuse(self) -> None:
        """Break every connection and refuse new ones, as a server that is down does."""
        with self._lock:
            if self._listener is not None:
                self._selector.unregister(self._listener)
                self._listener.close()
                self._listener = None
                # Bound without listening: nobody else gets the port, who connects is refused.
                self._holder = self._bind(self.port)
            self.cut()

    def accept(self) -> None:
        """Take connections again after `refuse`."""
        with self._lock:
            if self._listener is None:
                self._holder.close()
                self._listener = self._listen(self.port)
                self._ring()

    def stall(self, *ways: str) -> None:
        """Hold bytes back, both ways or only "up" or "down"; connections stay and are taken."""
        with self._lock:
            self._stalled = frozenset(ways or ("up", "down"))
            self._ring()

    def flow(self) -> None:
        """Let bytes go on after `stall`."""
        with self._lock:
            self._stalled = frozenset()
            self._ring()

    def close(self) -> None:
        """Break everything and end."""
        with self._lock:
            if self._closed:
                return
            self.refuse()
            self._holder.close()
            self._closed = True
            self._ring()
        self._thread.join(30)
        self._selector.close()
        self._bell.close()
        self._rung.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- the thread

    def _bind(self, port: int) -> socket.socket:
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((HOST, port))
        return bound

    def _listen(self, port: int) -> socket.socket:
        listener = self._bind(port)
        listener.listen(128)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        return listener

    def _ring(self) -> None:
        """Have the thread look again."""
        self._bell.send(b"!")

    def _run(self) -> None:
        while not self._closed:
            ready = self._selector.select()
            with self._lock:
                for key, _ in ready:
                    if self._closed:
                        return
                    self._serve(key)

    def _serve(self, key: selectors.SelectorKey) -> None:
        if key.fileobj is self._rung:
            with contextlib.suppress(BlockingIOError):
                self._rung.recv(4096)
            self._watch_all()
        elif key.fileobj is self._listener:
            self._take()
        elif key.data in self._pipes:
            self._forward(key.data, key.fileobj is key.data.client)

    def _take(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        self.accepted += 1
        server = socket.socket()
        try:
            server.connect(self.target)
        except OSError:
            _Pipe(client, server).close()
            return
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pipes.append(_Pipe(client, server))
        self._watch_all()

    def _watch_all(self) -> None:
        """Read exactly those ends whose bytes may go on."""
        watched = self._selector.get_map()
        for pipe in self._pipes:
            for end, way in ((pipe.client, "up"), (pipe.server, "down")):
                if way in self._stalled:
                    if end.fileno() in watched:
                        self._selector.unregister(end)
                elif end.fileno() not in watched:
                    self._selector.register(end, selectors.EVENT_READ, pipe)

    def _forward(self, pipe: _Pipe, upwards: bool) -> None:
        way = "up" if upwards else "down"
        if way in self._stalled:
            return
        source, target = pipe.client, pipe.server
        if not upwards:
            source, target = target, source
        try:
            data = source.recv(1 << 18)
            now = bool(data) and self._moment is not None and self._moment(way, data)
            if data and (not now or self._pass_on):
                target.sendall(data)
        except OSError:
            data, now = b"", False
        if now:
            self._moment = None
            self.cut()
            self.happened.set()
        elif not data:
            self._forget(pipe)
            self._pipes.remove(pipe)
            # Polite: what the other side has still to read arrives.
            pipe.client.close()
            pipe.server.close()

    def _forget(self, pipe: _Pipe) -> None:
        for end in (pipe.client, pipe.server):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(end)
