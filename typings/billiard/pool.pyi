from typing import Any

EX_RECYCLE: int

class MaybeEncodingError(Exception):
    exc: str
    value: str
    def __init__(self, exc: BaseException, value: Any) -> None: ...

class Worker:
    def workloop(self, debug: Any = ..., now: Any = ..., pid: int | None = ...) -> Any: ...
