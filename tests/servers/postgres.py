"""A database of a test run's own, on the PostgreSQL that somebody runs here."""

from __future__ import annotations

import os
import time
from typing import Any

import psycopg

from servers.process import HOST, ServerMissing

USER = "postgres"


class PostgresDatabase:
    """A new database; `name` and `connect` are the way in. Leaving the block drops it."""

    def __init__(self) -> None:
        """Create it; ServerMissing if there is no server that lets us."""
        self.name = f"taskq_tests_{os.getpid()}_{time.time_ns():x}"
        try:
            self._as_owner(f"CREATE DATABASE {self.name}")
        except psycopg.OperationalError as exc:
            problem = str(exc).splitlines()[0]
            raise ServerMissing(f"no PostgreSQL at {HOST} for user {USER}: {problem}") from None

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
        self._as_owner(f"DROP DATABASE {self.name} WITH (FORCE)")
