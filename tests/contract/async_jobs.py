"""Coroutines for pools to run, and a server they keep a connection to."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from typing import Any

from contract.child_jobs import note
from patience import FOREVER_S, wait_until

from taskq.app.coroutines import run_coroutine


def run(name: str, *args: Any) -> Any:
    """The job: what the tracer does with the coroutine of a body."""
    return run_coroutine(globals()[name](*args))


class Server:
    """Echoes lines, and asks its clients whether they live."""

    def __init__(self) -> None:
        self.clients: list[socket.socket] = []
        self.pongs: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            client, _ = self.listener.accept()
            if not self.port:
                client.close()
                return
            self.clients.append(client)
            self._threads.append(threading.Thread(target=self._serve, args=(client,)))
            self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as lines:
            for line in lines:
                if line == b"pong\n":
                    self.pongs.append(client)
                else:
                    client.sendall(line)

    def ping(self) -> None:
        """Return when every client has answered."""
        self.pongs.clear()
        for client in self.clients:
            client.sendall(b"ping\n")
        wait_until(lambda: len(self.pongs) == len(self.clients), "the clients answer")

    def close(self) -> None:
        port, self.port = self.port, 0
        socket.create_connection(("127.0.0.1", port)).close()
        for thread in self._threads:
            thread.join()
        self.listener.close()


class Connection:
    """What a library of asyncio keeps between tasks: a connection with a task that reads it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.answers: asyncio.Queue[bytes] = asyncio.Queue()
        self.reading = asyncio.create_task(self.read(reader))

    async def read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                if line == b"ping\n":
                    self.writer.write(b"pong\n")
                else:
                    self.answers.put_nowait(line)
        finally:
            self.writer.close()
            _kept.clear()


_kept: dict[int, Connection] = {}


async def ask(port: int, number: int) -> tuple[int, int, int]:
    """(process, loop, what the server has answered), over the one kept connection."""
    if port not in _kept:
        _kept[port] = Connection(*await asyncio.open_connection("127.0.0.1", port))
    _kept[port].writer.write(b"%d\n" % number)
    answer = int(await _kept[port].answers.get())
    return os.getpid(), id(asyncio.get_running_loop()), answer


async def wait_for_ever(mark: str) -> str:
    """Sleeps; notes what it is told, and goes on to its end."""
    note(mark, "sleeping")
    try:
        await asyncio.sleep(FOREVER_S)
    except Exception as exc:
        note(mark, type(exc).__name__)
    except asyncio.CancelledError:
        note(mark, "CancelledError")
        await asyncio.sleep(0.01)
        note(mark, "cleaned up")
        raise
    await asyncio.sleep(0.01)
    return "to the end"


async def sleep_twice() -> None:
    await asyncio.wait_for(asyncio.sleep(FOREVER_S), FOREVER_S)


async def never_await() -> None:
    time.sleep(FOREVER_S)


async def fail(text: str) -> None:
    await asyncio.sleep(0)
    raise KeyError(text)


async def leave() -> None:
    await asyncio.sleep(0)
    raise SystemExit(4)
