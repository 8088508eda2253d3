from collections.abc import Callable
from typing import Any

from kombu.entity import Exchange, Queue
from typing_extensions import Self

class Producer:
    exchange: Exchange
    routing_key: str
    serializer: str | None
    compression: str | None
    auto_declare: bool
    on_return: Any
    __connection__: Any
    def __init__(
        self,
        channel: Any,
        exchange: Any = ...,
        routing_key: str | None = ...,
        serializer: str | None = ...,
        auto_declare: bool | None = ...,
        compression: str | None = ...,
        on_return: Any = ...,
    ) -> None: ...
    def declare(self) -> None: ...
    def maybe_declare(self, entity: Any, retry: bool = ..., **retry_policy: Any) -> Any: ...
    def _prepare(
        self,
        body: Any,
        serializer: str | None = ...,
        content_type: str | None = ...,
        content_encoding: str | None = ...,
        compression: str | None = ...,
        headers: Any = ...,
    ) -> tuple[Any, str, str]: ...
    def _delivery_details(
        self, exchange: Any, delivery_mode: Any = ..., *args: Any
    ) -> tuple[Any, Any]: ...
    def publish(
        self,
        body: Any,
        routing_key: str | None = ...,
        delivery_mode: Any = ...,
        mandatory: bool = ...,
        immediate: bool = ...,
        priority: int = ...,
        content_type: str | None = ...,
        content_encoding: str | None = ...,
        serializer: str | None = ...,
        headers: Any = ...,
        compression: str | None = ...,
        exchange: Any = ...,
        retry: bool = ...,
        retry_policy: Any = ...,
        declare: Any = ...,
        expiration: Any = ...,
        timeout: Any = ...,
        confirm_timeout: Any = ...,
        **properties: Any,
    ) -> Any: ...
    def batch(self, *args: Any, **kwargs: Any) -> Any: ...
    def revive(self, channel: Any) -> None: ...
    def release(self) -> None: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *args: object) -> None: ...
    @property
    def channel(self) -> Any: ...
    @property
    def connection(self) -> Any: ...

class Consumer:
    ContentDisallowed: type[Exception]
    channel: Any
    queues: list[Queue]
    no_ack: bool | None
    auto_declare: bool
    callbacks: list[Callable[..., Any]]
    on_message: Callable[[Any], Any] | None
    on_decode_error: Any
    accept: set[str] | None
    prefetch_count: int | None
    tag_prefix: str | None
    def __init__(
        self,
        channel: Any,
        queues: Any = ...,
        no_ack: bool | None = ...,
        auto_declare: bool | None = ...,
        callbacks: Any = ...,
        on_decode_error: Any = ...,
        on_message: Any = ...,
        accept: Any = ...,
        prefetch_count: int | None = ...,
        tag_prefix: str | None = ...,
    ) -> None: ...
    def revive(self, channel: Any) -> None: ...
    def declare(self) -> None: ...
    def register_callback(self, callback: Callable[..., Any]) -> None: ...
    def add_queue(self, queue: Any) -> Queue: ...
    def consume(self, no_ack: bool | None = ...) -> None: ...
    def cancel(self) -> None: ...
    def close(self) -> None: ...
    def cancel_by_queue(self, queue: Any) -> None: ...
    def consuming_from(self, queue: Any) -> bool: ...
    def purge(self) -> int: ...
    def flow(self, active: bool) -> None: ...
    def qos(self, prefetch_size: int = ..., prefetch_count: int = ..., apply_global: bool = ...) -> None: ...
    def recover(self, requeue: bool = ...) -> None: ...
    def receive(self, body: Any, message: Any) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *args: object) -> None: ...
    @property
    def connection(self) -> Any: ...
