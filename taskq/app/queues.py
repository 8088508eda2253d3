"""This file holds the queues an application knows: declared in settings, created on demand.

Part of step 4 of the journey; `app.amqp.queues` is one of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any
from weakref import WeakValueDictionary

from kombu import Exchange, Queue

from taskq.exceptions import InvalidQueueName
from taskq.utils.text import indent as indent_text

__all__ = ("QUEUE_FORMAT", "Queues", "check_queue_name", "queue_arguments")

#: How the worker's banner shows a queue.
QUEUE_FORMAT = """
.> {0.name:<16} exchange={0.exchange.name}({0.exchange.type}) key={0.routing_key}
"""

#: AMQP writes names as short strings: one byte holds their length.
MAX_NAME_BYTES = 255

AutoExchange = Callable[[str], Exchange]


class Queues(dict[str, Queue]):
    """Name (or alias) -> queue, and which of them a worker consumes from.

    Arguments:
        queues: a mapping of name -> options or Queue, or a list of Queue objects.
        default_exchange: of queues that do not name one.
        create_missing: make a queue for a name that is not known; else that is a KeyError.
        create_missing_queue_type: `classic` or `quorum`, for queues made on demand.
        create_missing_queue_exchange_type: exchange type of queues made on demand.
        autoexchange: gives the exchange of a queue made on demand.
        max_priority: x-max-priority of queues that have none.
        default_routing_key: of queues that have none.
    """

    def __init__(
        self,
        queues: Mapping[str, Any] | Iterable[Queue] | None = None,
        default_exchange: Exchange | None = None,
        create_missing: bool = True,
        create_missing_queue_type: str | None = None,
        create_missing_queue_exchange_type: str | None = None,
        autoexchange: AutoExchange | None = None,
        max_priority: int | None = None,
        default_routing_key: str | None = None,
    ) -> None:
        super().__init__()
        self.aliases: WeakValueDictionary[str, Queue] = WeakValueDictionary()
        self.default_exchange = default_exchange
        self.default_routing_key = default_routing_key
        self.create_missing = create_missing
        self.create_missing_queue_type = create_missing_queue_type
        self.create_missing_queue_exchange_type = create_missing_queue_exchange_type
        self.autoexchange = Exchange if autoexchange is None else autoexchange
        self.max_priority = max_priority
        #: None until a worker is told which queues to consume from.
        self._consume_from: dict[str, Queue] | None = None
        if isinstance(queues, Mapping):
            for name, queue in queues.items():
                self.add(queue) if isinstance(queue, Queue) else self.add_compat(name, **queue)
        else:
            for queue in queues or ():
                self.add(queue)

    def __missing__(self, name: str) -> Queue:
        queue = self.aliases.get(name)
        if queue is None:
            if not self.create_missing:
                raise KeyError(name)
            queue = self.add(self.new_missing(name))
        return queue

    def add(self, queue: Queue | str, **kwargs: Any) -> Queue:
        """Add a queue: an object, or a name and the options of one."""
        if not isinstance(queue, Queue):
            return self.add_compat(queue, **kwargs)
        return self._add(queue)

    def add_compat(self, name: str, **options: Any) -> Queue:
        """Add a queue from the mapping form of `task_queues` (binding_key is routing_key)."""
        check_queue_name(name)
        options.setdefault("routing_key", options.get("binding_key"))
        if options["routing_key"] is None:
            options["routing_key"] = name
        return self._add(Queue.from_dict(name, **options))

    def select(self, include: Iterable[str] | str | None) -> None:
        """Consume from these queues only; names that are not known are created."""
        if include:
            names = [include] if isinstance(include, str) else include
            self._consume_from = {name: self[name] for name in names}

    def select_add(self, queue: Queue | str, **kwargs: Any) -> Queue:
        """Add a queue and consume from it too."""
        added = self.add(queue, **kwargs)
        if self._consume_from is not None:
            self._consume_from[added.name] = added
        return added

    def deselect(self, exclude: Iterable[str] | str | None) -> None:
        """Do not consume from these queues."""
        if not exclude:
            return
        names = {exclude} if isinstance(exclude, str) else set(exclude)
        if self._consume_from is None:
            self._consume_from = {name: q for name, q in self.items() if name not in names}
        else:
            for name in names:
                self._consume_from.pop(name, None)

    @property
    def consume_from(self) -> dict[str, Queue]:
        """The queues a worker consumes from: those selected, or all."""
        return self if self._consume_from is None else self._consume_from

    @property
    def has_quorum(self) -> bool:
        """Is one of the queues a worker consumes from a quorum queue?"""
        return any(
            (queue.queue_arguments or {}).get("x-queue-type") == "quorum"
            for queue in self.consume_from.values()
        )

    def new_missing(self, name: str) -> Queue:
        """A queue for a name that is not known; it is not added."""
        check_queue_name(name)
        if self.create_missing_queue_exchange_type is not None:
            exchange = Exchange(name, self.create_missing_queue_exchange_type)
        else:
            exchange = self.autoexchange(name)
        arguments = queue_arguments(self.create_missing_queue_type)
        return Queue(name, exchange, name, queue_arguments=arguments)

    def format(self, indent: int = 0, indent_first: bool = True) -> str:
        """The queues a worker consumes from, one line each, for its banner."""
        if not self.consume_from:
            return ""
        by_name = sorted(self.consume_from.items())
        lines = [QUEUE_FORMAT.strip().format(queue) for _, queue in by_name]
        if indent_first:
            return indent_text("\n".join(lines), indent)
        return lines[0] + "\n" + indent_text("\n".join(lines[1:]), indent)

    def _add(self, queue: Queue) -> Queue:
        check_queue_name(queue.name)
        # A queue with several bindings has no exchange of its own, one without a name the default.
        if self.default_exchange is not None and not getattr(queue.exchange, "name", None):
            queue.exchange = self.default_exchange
        if not queue.routing_key and self.default_routing_key:
            queue.routing_key = self.default_routing_key
        if self.max_priority is not None:
            arguments = {} if queue.queue_arguments is None else queue.queue_arguments
            arguments.setdefault("x-max-priority", self.max_priority)
            queue.queue_arguments = arguments
        self[queue.name] = queue
        if queue.alias:
            self.aliases[queue.alias] = queue
        return queue


def queue_arguments(queue_type: str | None) -> dict[str, Any] | None:
    """The arguments that make a queue `classic` (none) or `quorum`; ValueError for another type."""
    if queue_type is None or queue_type == "classic":
        return None
    if queue_type != "quorum":
        raise ValueError(
            f"Invalid queue type {queue_type!r}. Valid types are 'classic' and 'quorum'."
        )
    return {"x-queue-type": queue_type}


def check_queue_name(name: Any) -> None:
    """Raise InvalidQueueName (also a ValueError) when no broker can have a queue of this name."""
    if not isinstance(name, str):
        wrong = f"it is {type(name).__name__}, not text"
    elif not name:
        wrong = "it is empty"
    elif "\0" in name:
        wrong = "it holds a NUL character"
    elif len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        wrong = f"it is longer than {MAX_NAME_BYTES} bytes in UTF-8"
    else:
        return
    raise InvalidQueueName(
        f"{name!r:.100} cannot be the name of a queue: {wrong}. "
        "Give 1 to 255 bytes of text, or no queue for the default one."
    )
