from typing import Any

class Message:
    MessageStateError: type[Exception]
    errors: list[Any] | None
    channel: Any
    delivery_tag: Any
    content_type: str | None
    content_encoding: str | None
    delivery_info: dict[str, Any]
    headers: dict[str, Any]
    properties: dict[str, Any]
    body: Any
    accept: set[str] | None
    _state: str
    _decoded_cache: Any
    def __init__(
        self,
        body: Any = ...,
        delivery_tag: Any = ...,
        content_type: str | None = ...,
        content_encoding: str | None = ...,
        delivery_info: dict[str, Any] | None = ...,
        properties: dict[str, Any] | None = ...,
        headers: dict[str, Any] | None = ...,
        postencode: str | None = ...,
        accept: Any = ...,
        channel: Any = ...,
        **kwargs: Any,
    ) -> None: ...
    def ack(self, multiple: bool = ...) -> None: ...
    def ack_log_error(self, logger: Any, errors: Any, multiple: bool = ...) -> None: ...
    def reject_log_error(self, logger: Any, errors: Any, requeue: bool = ...) -> None: ...
    def reject(self, requeue: bool = ...) -> None: ...
    def requeue(self) -> None: ...
    def decode(self) -> Any: ...
    def _decode(self) -> Any: ...
    @property
    def acknowledged(self) -> bool: ...
    @property
    def payload(self) -> Any: ...
