"""This file sends one message: where to, declared once, with which signals, through which producer.

Step 4 of the journey. `AMQP` is `app.amqp`: queues, routes, and `publish`, after which the message
belongs to the broker's transport.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import kombu
from kombu import Exchange, Queue
from kombu.common import Broadcast
from kombu.exceptions import SerializerNotInstalled

from taskq import protocol
from taskq.app import connections
from taskq.app import routes as routing
from taskq.app.checks import add_headers, check_priority
from taskq.app.deadline import TimedConnection
from taskq.app.encoding import check_compression, explain_unwritable, not_installed, utf8dict
from taskq.app.native_delay import find_way
from taskq.app.pipeline import Pipeline
from taskq.app.queues import QUEUE_FORMAT, AutoExchange, Queues, queue_arguments
from taskq.app.retry_policy import merge_policy
from taskq.app.sending import (
    broker_errors,
    open_at_once,
    raise_cannot_send,
    send_after_publish,
    send_before_publish,
)
from taskq.protocol import INT_MIN, TaskMessage
from taskq.signals import after_task_publish, before_task_publish, task_sent
from taskq.utils.log import get_logger
from taskq.utils.nodenames import anon_nodename
from taskq.utils.producer import Producer

if TYPE_CHECKING:
    from taskq.app.base import App

__all__ = ("AMQP", "INT_MIN", "QUEUE_FORMAT", "Queues", "task_message", "utf8dict")

logger = get_logger(__name__)

#: Celery's name of a message that is ready to be sent.
task_message = TaskMessage

#: Stands for the exchange of an unknown queue with several bindings.
_ANONYMOUS = Exchange("")

#: Where a queue keeps the mark that stands for it among the things a connection has declared.
_MARK = "_declared_mark"


class _DeclareOnce(tuple[Any, ...]):
    """`declare=` of a publish that is empty once the queue is declared on the connection.

    `(queue, mark, declared)`: kombu empties `declared` whenever it opens the connection anew, and
    looks at this object in every attempt, so a publish that survives a reconnect declares again.
    """

    __slots__ = ()

    def __bool__(self) -> bool:
        return self[1] not in self[2]

    def __iter__(self) -> Iterator[Queue]:
        queue, mark, declared = self[0], self[1], self[2]
        yield queue
        declared.add(mark)


class AMQP:
    """How an application speaks to its broker.

    Attributes:
        autoexchange: callable(queue name) -> Exchange of queues made on demand.
        argsrepr_maxsize, kwargsrepr_maxsize: length of the argsrepr and kwargsrepr headers.
        queues_cls, Producer, Consumer, Connection: classes to use; subclasses may name their own.
    """

    Connection = connections.Connection
    BrokerConnection = connections.Connection
    Consumer = kombu.Consumer
    Producer = Producer
    queues_cls: type[Queues] = Queues

    autoexchange: AutoExchange | None = None
    argsrepr_maxsize = 1024
    kwargsrepr_maxsize = 1024

    _queues: Queues | None = None
    _router: routing.Router | None = None
    _routes: Sequence[Any] = ()
    #: The value of task_routes the routers were made of: a new one makes new routers.
    _routes_source: Any = routing.MISSING
    _default_exchange: Exchange | None = None
    #: (process id, sender's name): a child has a name of its own.
    _origin: tuple[int, str] = (0, "")

    def __init__(self, app: App) -> None:
        self.app = app
        self.task_protocols: dict[int, Callable[..., TaskMessage]] = {
            1: self.as_task_v1,
            2: self.as_task_v2,
        }

    @property
    def create_task_message(self) -> Callable[..., TaskMessage]:
        """The function that makes messages of the protocol in use (task_protocol)."""
        return self.task_protocols[self.app.conf.task_protocol]

    @property
    def send_task_message(self) -> Callable[..., Any]:
        """The function that sends messages: `publish`."""
        return self.publish

    def as_task_v2(self, *call: Any, **options: Any) -> TaskMessage:
        """The message of a call in protocol 2; takes what `taskq.protocol.as_task_v2` takes."""
        if not options.get("origin"):
            known = self._origin[0] == os.getpid()
            options["origin"] = self._origin[1] if known else self._own_origin()
        if not options.get("stamped_headers"):
            # Without stamps they say nothing here, and Python would look for them among all names.
            options.pop("queue", None)
            options.pop("serializer", None)
        return protocol.as_task_v2(
            *call,
            clock=self.app.now,
            argsrepr_maxsize=self.argsrepr_maxsize,
            kwargsrepr_maxsize=self.kwargsrepr_maxsize,
            repr_maxlevels=self.app.conf.task_repr_maxlevels,
            **options,
        )

    def as_task_v1(self, *call: Any, **options: Any) -> TaskMessage:
        """The message of a call in protocol 1; takes what `taskq.protocol.as_task_v1` takes."""
        return protocol.as_task_v1(
            *call,
            utc=self.app.conf.enable_utc,
            clock=self.app.now,
            argsrepr_maxsize=self.argsrepr_maxsize,
            kwargsrepr_maxsize=self.kwargsrepr_maxsize,
            repr_maxlevels=self.app.conf.task_repr_maxlevels,
            **options,
        )

    def publish(
        self,
        producer: kombu.Producer,
        name: str,
        message: TaskMessage,
        exchange: Exchange | str | None = None,
        routing_key: str | None = None,
        queue: Queue | str | None = None,
        event_dispatcher: Any = None,
        retry: bool | None = None,
        retry_policy: Mapping[str, Any] | None = None,
        serializer: str | None = None,
        delivery_mode: int | str | None = None,
        compression: str | None = None,
        declare: Any = None,
        headers: Mapping[str, Any] | None = None,
        exchange_type: str | None = None,
        timeout: float | None = None,
        confirm_timeout: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Send the message of a call of the task `name`; what is not given, settings say.

        Other keyword arguments become properties of the message. Raises OperationalError when the
        broker cannot be reached, kombu's EncodeError or SerializerNotInstalled, or
        UnknownCompression, before anything is sent, when the message cannot be written.
        """
        conf = self.app.conf
        all_headers, properties, body, sent_event = message
        if headers:
            add_headers(all_headers, headers)
        if kwargs:
            if type(kwargs.get("priority", 0)) is not int and kwargs["priority"] is not None:
                check_priority(kwargs["priority"])
            properties.update(kwargs)
            # Stamps travel as headers alone; as properties they would travel twice.
            for stamp in ("stamped_headers", "stamps", *(all_headers.get("stamped_headers") or ())):
                properties.pop(stamp, None)
        if queue is not None or exchange is None:
            queue, exchange, routing_key, delivery_mode = self._destination(
                queue, exchange, routing_key, exchange_type, delivery_mode
            )
            if eta := all_headers.get("eta"):
                exchange, routing_key = find_way(self, queue, exchange, routing_key, eta)
            if declare is None:
                declare = _declaration(producer, queue, self)
        if delivery_mode is None:
            delivery_mode = conf.task_default_delivery_mode
        if compression is None:
            compression = conf.task_compression
        if compression:
            check_compression(compression)
        if retry is None:
            retry = conf.task_publish_retry
        policy = conf.task_publish_retry_policy
        if retry_policy:
            policy = merge_policy(policy, retry_policy)
        if before_task_publish.receivers:
            declare, policy = send_before_publish(
                name, message, exchange, routing_key, declare, policy
            )
        pipeline = producer if isinstance(producer, Pipeline) else None
        send: Any = self._send if pipeline is None else Pipeline.collect
        options = {
            "exchange": exchange, "routing_key": routing_key, "compression": compression,
            "delivery_mode": delivery_mode, "headers": all_headers,
            "timeout": timeout, "confirm_timeout": confirm_timeout, **properties,
        }  # fmt: skip
        serializer = serializer or conf.task_serializer
        answer = send(producer, body, bool(retry), policy, serializer, declare, options)
        if sent_event or after_task_publish.receivers or task_sent.receivers:
            tell = partial(
                send_after_publish, name, message, (queue, exchange, routing_key),
                event_dispatcher, retry=retry, retry_policy=policy,
            )  # fmt: skip
            if pipeline is None:
                tell(producer=producer)
            else:
                pipeline.when_sent(tell)
        return answer

    def _send(
        self,
        producer: kombu.Producer,
        body: Any,
        retry: bool,
        policy: Mapping[str, Any],
        serializer: str,
        declare: Any,
        options: dict[str, Any],
    ) -> Any:
        """Publish; ends within broker_publish_timeout, or as the retry policy says."""
        connection = producer.__connection__ or producer.connection
        timed = connection if isinstance(connection, TimedConnection) else None
        seconds = self.app.conf.broker_publish_timeout
        is_endless = retry and policy and policy.get("max_retries", 0) is None
        try:
            if timed and seconds and not is_endless:
                timed.patience_s = seconds
                if timed.waited_s:
                    seconds -= timed.take_waited()
                timed.deadline = monotonic() + seconds
            if not retry:
                open_at_once(producer)
            return producer.publish(
                body, serializer=serializer, retry=retry, retry_policy=policy, declare=declare,
                **options,
            )  # fmt: skip
        except SerializerNotInstalled as exc:
            raise SerializerNotInstalled(not_installed("serializer", serializer)) from exc
        except struct.error as exc:
            raise explain_unwritable(options, exc) from exc
        except broker_errors(producer) as exc:
            raise_cannot_send(producer, exc)
        finally:
            if timed:
                timed.deadline = None
                if timed.is_hurried:
                    timed.calm_down()

    def _destination(
        self,
        queue: Queue | str | None,
        exchange: Exchange | str | None,
        routing_key: str | None,
        exchange_type: str | None,
        delivery_mode: int | str | None,
    ) -> tuple[Queue, Exchange | str | None, str | None, int | str | None]:
        if queue is None:
            queue = self.default_queue
        elif isinstance(queue, str):
            queue = self.queues[queue]
        own = queue.exchange or _ANONYMOUS
        if (exchange_type or own.type) == "direct":
            # By the anonymous exchange every queue is reached under its name, without a binding.
            if not exchange or not routing_key:
                exchange, routing_key = "", queue.name
        elif not exchange:
            exchange = own.name or self.default_exchange.name
            routing_key = routing_key or queue.routing_key or self._default_routing_key
        return (
            queue,
            exchange,
            routing_key,
            own.delivery_mode if delivery_mode is None else delivery_mode,
        )

    @property
    def default_queue(self) -> Queue:
        """The queue of calls that name none (task_default_queue)."""
        return self.queues[self.app.conf.task_default_queue]

    @property
    def default_exchange(self) -> Exchange:
        """The exchange of queues that name none (task_default_exchange, or named as the queue)."""
        if self._default_exchange is None:
            conf = self.app.conf
            self._default_exchange = Exchange(
                conf.task_default_exchange or conf.task_default_queue,
                conf.task_default_exchange_type,
            )
        return self._default_exchange

    @default_exchange.setter
    def default_exchange(self, exchange: Exchange) -> None:
        self._default_exchange = exchange

    @property
    def _default_routing_key(self) -> str:
        conf = self.app.conf
        key: str = conf.task_default_routing_key or conf.task_default_queue
        return key

    @property
    def queues(self) -> Queues:
        """The queues of the application, by name; may be set to a mapping or a list."""
        if self._queues is None:
            self._queues = self.Queues(self.app.conf.task_queues)
        return self._queues

    @queues.setter
    def queues(self, queues: Any) -> None:
        self._queues = self.Queues(queues)
        self._router = None

    def Queues(
        self,
        queues: Any,
        create_missing: bool | None = None,
        create_missing_queue_type: str | None = None,
        create_missing_queue_exchange_type: str | None = None,
        autoexchange: AutoExchange | None = None,
        max_priority: int | None = None,
    ) -> Queues:
        """Queues with the defaults of the settings; without any, the default queue alone."""
        conf = self.app.conf
        either = self.app.either
        if not queues and conf.task_default_queue:
            queues = (
                Queue(
                    conf.task_default_queue,
                    exchange=self.default_exchange,
                    routing_key=self._default_routing_key,
                    queue_arguments=queue_arguments(conf.task_default_queue_type),
                ),
            )
        return self.queues_cls(
            queues,
            self.default_exchange,
            either("task_create_missing_queues", create_missing),
            either("task_create_missing_queue_type", create_missing_queue_type),
            either("task_create_missing_queue_exchange_type", create_missing_queue_exchange_type),
            autoexchange or self.autoexchange,
            either("task_queue_max_priority", max_priority),
            self._default_routing_key,
        )

    @property
    def router(self) -> routing.Router:
        """The router of the application; follows changes of the setting task_routes."""
        if self.app.conf.task_routes is not self._routes_source:
            self.flush_routes()
        if self._router is None:
            self._router = self.Router()
        return self._router

    @router.setter
    def router(self, router: Any) -> None:
        self._router = router

    def Router(self, queues: Any = None, create_missing: bool | None = None) -> routing.Router:
        """A router over the application's routes."""
        return routing.Router(
            self.routes,
            queues or self.queues,
            self.app.either("task_create_missing_queues", create_missing),
            app=self.app,
        )

    @property
    def routes(self) -> Sequence[Any]:
        """The routers made of the setting task_routes."""
        if self.app.conf.task_routes is not self._routes_source:
            self.flush_routes()
        return self._routes

    def flush_routes(self) -> None:
        """Read the setting task_routes again."""
        source = self.app.conf.task_routes
        self._routes = routing.prepare(source)
        self._routes_source = source
        if self._router is not None:
            self._router.routes = self._routes

    def TaskConsumer(
        self, channel: Any, queues: Any = None, accept: Any = None, **kw: Any
    ) -> kombu.Consumer:
        """A consumer of the selected queues, or of `queues`, on a channel."""
        return self.Consumer(
            channel,
            accept=self.app.conf.accept_content if accept is None else accept,
            queues=queues or list(self.queues.consume_from.values()),
            **kw,
        )

    @property
    def producer_pool(self) -> connections.ProducerPool:
        """The producers of the application."""
        pool: connections.ProducerPool = self.app.producer_pool
        return pool

    publisher_pool = producer_pool

    @property
    def utc(self) -> bool:
        """The setting enable_utc."""
        utc: bool = self.app.conf.enable_utc
        return utc

    def _own_origin(self) -> str:
        pid = os.getpid()
        self._origin = pid, anon_nodename()
        return self._origin[1]


def _declaration(producer: kombu.Producer, queue: Queue, amqp: AMQP) -> Any:
    """What a publish must declare: the queue, once a connection; of a Broadcast its exchange."""
    mark = queue.__dict__.get(_MARK)
    if mark is None:
        if isinstance(queue, Broadcast):
            # Its queues are its consumers'; without its exchange Redis would not know of a fanout.
            return [queue.exchange]
        # A mark outlives its queue in the connection, so only lasting queues get one.
        lasting = amqp.queues.get(queue.name) is queue and queue.can_cache_declaration
        mark = queue.__dict__[_MARK] = object() if lasting else False
    connection = producer.__connection__
    if not mark or connection is None or producer.exchange.name:
        return [queue]
    return _DeclareOnce((queue, mark, connection.declared_entities))
