from types import TracebackType
from typing import Any

class _Traceback:
    tb_frame: Any
    tb_lineno: int
    tb_next: Any

class Traceback:
    def __init__(self, tb: Any, max_frames: int = ..., depth: int = ...) -> None: ...

class RemoteTraceback(Exception):
    tb: str
    def __init__(self, tb: str) -> None: ...

class ExceptionWithTraceback(Exception):
    exc: BaseException
    tb: str
    def __init__(self, exc: BaseException, tb: TracebackType | None) -> None: ...

class ExceptionInfo:
    exception: Any
    type: type[BaseException]
    tb: Any
    traceback: str
    internal: bool
    def __init__(self, exc_info: Any = ..., internal: bool = ...) -> None: ...
    @property
    def exc_info(self) -> tuple[Any, Any, Any]: ...
