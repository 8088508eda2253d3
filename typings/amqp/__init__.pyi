from typing import Any

class Message:
    body: Any
    properties: dict[str, Any]
    def __init__(self, body: Any = ..., **properties: Any) -> None: ...
