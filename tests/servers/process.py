"""A server as a process of ours: starting, stopping, killing, pausing, and never left behind."""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from patience import PATIENCE_S, wait_until

if TYPE_CHECKING:
    from typing_extensions import Self

HOST = "127.0.0.1"


class ServerMissing(RuntimeError):
    """The program of a server is not installed."""


def find_program(*names: str) -> str:
    """Path of the first of these programs that is installed."""
    for name in names:
        found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if found:
            return found
    raise ServerMissing(f"no {names[-1]}: run `make servers`, or `apt-get install {names[-1]}`")


def free_port() -> int:
    """A loopback port nobody listens on now.

    Below the range the system takes for outgoing connections: a server that is down for a moment
    would lose such a port to somebody's connection.
    """
    while True:
        port = random.randrange(15_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((HOST, port))
            return port


class Server:
    """One server process in a folder of its own; a block (`with`) starts and removes it."""

    name = "server"

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"taskq-{self.name}-"))
        self.log_file = self.folder / "output.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        atexit.register(self.remove)

    # -- what a server says of itself

    def _command(self) -> Sequence[str]:
        raise NotImplementedError("the program and its arguments")

    def _environment(self) -> dict[str, str] | None:
        return None

    def _answers(self) -> bool:
        raise NotImplementedError("does it serve?")

    # -- its life

    @property
    def running(self) -> bool:
        """Is the process alive?"""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None, "it was never started"
        return self.process.pid

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def start(self, wait: bool = True) -> Self:
        """Start it, on the same port as before, and wait until it serves."""
        assert not self.running, "it runs already"
        with self.log_file.open("ab") as output:
            self.process = subprocess.Popen(
                self._command(), env=self._environment(), cwd=self.folder,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        # Ends the server and removes its folder when this process is killed and can not.
        self._guard = subprocess.Popen(
            ["sh", "-c", 'read never; kill -9 -$0; rm -rf "$1"', str(self.pid), self.folder],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Wait until it serves."""

        def ready() -> bool:
            assert self.running, f"{self.name} has ended:\n{self.log}"
            return self._answers()

        wait_until(ready, f"{self.name} serves", report=lambda: self.log)

    def stop(self) -> None:
        """End it politely (SIGTERM) and wait."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it and start it again on the same port, with what it has stored."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._signal(signal.SIGCONT)

    def remove(self) -> None:
        """End it for good and remove its folder."""
        atexit.unregister(self.remove)
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _signal(self, number: int) -> None:
        assert self.process is not None and self.running, "it does not run"
        self.process.send_signal(number)

    def _end(self, number: int) -> None:
        process, self.process = self.process, None
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.kill()
            guard.wait()
            assert guard.stdin is not None
            guard.stdin.close()
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(process.pid, number)  # with what it has started
            else:
                process.send_signal(number)
                process.send_signal(signal.SIGCONT)
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{self.name} did not end:\n{self.log}") from None

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.remove()
