"""PostgreSQL for tests: a database on a server that lets us make one, or a server of our own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from servers.process import HOST, Server, find_program, free_port

USER = "postgres"


def _program(name: str) -> str:
    """A program of the server; Debian keeps them apart, by version."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if versions:
        return str(versions[-1])
    found = shutil.which(name)
    # The package's name is what one would install.
    return found or find_program(name, "postgresql")


class PostgresServer(Server):
    """A server of our own, which lets everybody on this machine in as `postgres`."""

    name = "postgresql"

    def __init__(self) -> None:
        self.program = _program("postgres")
        super().__init__()
        self.port = free_port()
        self.data = self.folder / "data"
        # It refuses to run as root; its package has brought a user for it.
        self._as_user: list[str] = []
        if os.getuid() == 0:
            shutil.chown(self.folder, USER, USER)
            self._as_user = ["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups"]
        command = [_program("initdb"), "-D", str(self.data), "-U", USER, "-A", "trust", "-N"]
        done = subprocess.run(
            [*self._as_user, *command], cwd=self.folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    def _command(self) -> Sequence[str]:
        folder, port = str(self.folder), str(self.port)
        options = ["-D", str(self.data), "-h", HOST, "-p", port, "-k", folder, "-F"]
        return [*self._as_user, self.program, *options]

    def _answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(host=HOST, port=self.port, user=USER, dbname="postgres").close()
            return True
        return False

    def remove(self) -> None:
        # At once, and not when the last client has gone.
        self._end(signal.SIGINT)
        super().remove()


class PostgresDatabase:
    """A new database; `name` and `connect` are the way in. Leaving the block drops it.

    It is on the server of this machine's standard port, or else on one that is started for it. Then
    PGPORT says where, to this process and to those it starts.
    """

    def __init__(self) -> None:
        """Create it; ServerMissing if there is no server that lets us, and none to start."""
        self.name = f"taskq_tests_{os.getpid()}_{time.time_ns():x}"
        self.server: PostgresServer | None = None
        create = f"CREATE DATABASE {self.name}"
        try:
            self._as_owner(create)
        except psycopg.Error:
            self.server = PostgresServer().start()
            os.environ["PGPORT"] = str(self.server.port)
            self._as_owner(create)

    def connect(self) -> psycopg.Connection[Any]:
        """A connection to it, without transactions."""
        return psycopg.connect(host=HOST, user=USER, dbname=self.name, autocommit=True)

    def _as_owner(self, statement: str) -> None:
        with psycopg.connect(
            host=HOST, user=USER, dbname="postgres", autocommit=True, connect_timeout=10
        ) as connection:
            connection.execute(statement)

    def __enter__(self) -> PostgresDatabase:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.server is None:
            self._as_owner(f"DROP DATABASE {self.name} WITH (FORCE)")
        else:
            self.server.remove()
            del os.environ["PGPORT"]
