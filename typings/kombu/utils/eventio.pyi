from typing import Any

READ: int
WRITE: int
ERR: int

def poll(*args: Any, **kwargs: Any) -> Any: ...
