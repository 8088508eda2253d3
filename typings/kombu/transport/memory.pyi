from typing import Any

from kombu.transport import virtual

class Channel(virtual.Channel):
    queues: dict[str, Any]
    events: set[Any]

class Transport(virtual.Transport):
    global_state: Any
