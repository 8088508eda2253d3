from typing import Any

from django.db import transaction as transaction

class Error(Exception): ...
class InterfaceError(Error): ...
class DatabaseError(Error): ...

class Connection:
    alias: str
    connection: Any
    def close(self) -> None: ...

class ConnectionHandler:
    def all(self, initialized_only: bool = ...) -> list[Connection]: ...

connections: ConnectionHandler
