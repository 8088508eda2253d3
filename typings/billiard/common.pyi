from typing import Any

TERM_SIGNAL: int
TERM_SIGNAME: str
REMAP_SIGTERM: Any
SIGMAP: dict[int, str]

def reset_signals(handler: Any = ..., full: bool = ...) -> None: ...
def human_status(status: int) -> str: ...
def restart_state(maxR: int, maxT: int) -> Any: ...
