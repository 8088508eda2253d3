from typing import Any

from kombu.abstract import MaybeChannelBound
from typing_extensions import Self

TRANSIENT_DELIVERY_MODE: int
PERSISTENT_DELIVERY_MODE: int
DELIVERY_MODES: dict[str, int]

class Exchange(MaybeChannelBound):
    name: str
    type: str
    durable: bool
    auto_delete: bool
    passive: bool
    delivery_mode: Any
    arguments: Any
    no_declare: bool
    def __init__(self, name: str = ..., type: str = ..., channel: Any = ..., **kwargs: Any) -> None: ...
    def declare(self, nowait: bool = ..., passive: bool | None = ..., channel: Any = ...) -> Any: ...
    def publish(self, *args: Any, **kwargs: Any) -> Any: ...
    def delete(self, if_unused: bool = ..., nowait: bool = ...) -> Any: ...

class binding:
    exchange: Exchange
    routing_key: str
    arguments: Any
    def __init__(
        self, exchange: Exchange | None = ..., routing_key: str = ..., arguments: Any = ..., unbind_arguments: Any = ...
    ) -> None: ...

class Queue(MaybeChannelBound):
    name: str
    exchange: Any
    routing_key: str
    durable: bool
    exclusive: bool
    auto_delete: bool
    no_ack: bool
    alias: str | None
    bindings: Any
    queue_arguments: dict[str, Any] | None
    binding_arguments: dict[str, Any] | None
    consumer_arguments: dict[str, Any] | None
    expires: float | None
    message_ttl: float | None
    max_length: int | None
    max_priority: int | None
    no_declare: bool | None
    def __init__(
        self,
        name: str = ...,
        exchange: Any = ...,
        routing_key: str = ...,
        channel: Any = ...,
        bindings: Any = ...,
        on_declared: Any = ...,
        **kwargs: Any,
    ) -> None: ...
    @classmethod
    def from_dict(cls, queue: str, **options: Any) -> Self: ...
    def as_dict(self, recurse: bool = ...) -> dict[str, Any]: ...
    def declare(self, nowait: bool = ..., channel: Any = ...) -> Any: ...
    def queue_declare(self, nowait: bool = ..., passive: bool = ..., channel: Any = ...) -> Any: ...
    def queue_bind(self, nowait: bool = ..., channel: Any = ...) -> Any: ...
    def get(self, no_ack: bool | None = ..., accept: Any = ...) -> Any: ...
    def purge(self, nowait: bool = ...) -> int: ...
    def consume(self, *args: Any, **kwargs: Any) -> Any: ...
    def cancel(self, consumer_tag: str) -> Any: ...
    def delete(self, if_unused: bool = ..., if_empty: bool = ..., nowait: bool = ...) -> Any: ...
    def bind(self, channel: Any) -> Self: ...
