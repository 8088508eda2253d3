from collections.abc import Callable
from typing import Any

def frame_handler(connection: Any, callback: Callable[..., Any]) -> Callable[..., Any]: ...
