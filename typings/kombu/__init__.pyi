# Hand-written: the names of kombu that taskq uses.
from typing import Any

from kombu.connection import BrokerConnection as BrokerConnection, Connection as Connection
from kombu.entity import Exchange as Exchange, Queue as Queue, binding as binding
from kombu.message import Message as Message
from kombu.messaging import Consumer as Consumer, Producer as Producer
from kombu.utils.uuid import uuid as uuid

__version__: str
VERSION: Any

def eventloop(
    conn: Connection, limit: int | None = ..., timeout: float | None = ..., ignore_timeouts: bool = ...
) -> Any: ...
