"""This file has RabbitMQ keep tasks that wait: they leave the worker, and come back in time.

Between the decision to wait (worker/strategy.py) and the delivery that comes when the wait is over.

How it works. kombu's delay queues (`celery_delayed_0` to `_27`, each twice as slow as the one
before) move a message on until its seconds are over; here they are quorum queues, which alone lose
nothing on the way. A message is published there over a connection of its own, since a broker that
is low on memory stops reading from who publishes, and acknowledged when the broker has confirmed
the copy. What is not confirmed is handed to its consumer again, to be held by the worker. A worker
killed in between leaves both: so a redelivered message is held here, where the copy, when it comes,
is recognised by the task's id.

Every queue is bound to the last exchange by a word that is its own: kombu's bindings leave direct
exchanges out, and `#.name` would also take what is meant for a queue called `other.name`.
"""

from __future__ import annotations

from contextlib import suppress
from time import monotonic
from typing import Any

from amqp import Message
from amqp.exceptions import AMQPError, ChannelError
from kombu.transport.native_delayed_delivery import (
    CELERY_DELAYED_DELIVERY_EXCHANGE,
    MAX_LEVEL,
    MAX_NUMBER_OF_BITS_TO_USE,
    calculate_routing_key,
    declare_native_delayed_delivery_exchanges_and_queues,
    level_name,
)

from taskq.utils.log import get_logger

__all__ = ("Delays", "is_back", "restore")

logger = get_logger(__name__)

#: Seconds a wait must have to leave the worker; it ends there that much earlier than asked for, and
#: the rest passes in the worker.
SHORTEST_S = 5
EARLY_S = 1

#: A queue counts seconds in so many bits: 8.5 years. Later tasks are parked again.
LONGEST_S = 2**MAX_NUMBER_OF_BITS_TO_USE - 1

#: Redelivered messages that are held here at most; see above.
HELD_REDELIVERED = 1000

#: AMQP's limit of a routing key, in bytes, without the bits and their dots.
LONGEST_KEY = 255 - 2 * MAX_NUMBER_OF_BITS_TO_USE

#: Seconds the broker has to set up the queues, or to confirm what is on its way at the end.
SETUP_S, LAST_CONFIRMS_S = 30.0, 5.0

LEVEL_PREFIX = "celery_delayed_"

#: Our own header of a copy: exchange and routing key of a message that came by an exchange.
SENT_TO = "taskq-sent-to"

#: Headers the delay queues leave behind.
TRACES = (
    "x-death",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
)

NOT_POSSIBLE = (
    "Tasks with an ETA wait in this worker's memory: the broker does not let it use the delay "
    "queues (%s). Let its user declare `celery_delayed_*` exchanges and quorum queues (RabbitMQ "
    "3.10 or later), or set worker_eta_in_broker = False to do without."
)

#: Brokers that have said no; each is told of once.
_unwilling: set[str] = set()


def is_back(exchange: str) -> bool:
    """Does a delivery that names this exchange come from the delay queues?"""
    return exchange.startswith(LEVEL_PREFIX)


def restore(properties: dict[str, Any], delivery_info: dict[str, Any], queue: str) -> None:
    """Make a delivery from the delay queues look as it did when it first came to its queue."""
    headers = properties.get("application_headers") or {}
    for name in TRACES:
        headers.pop(name, None)
    sent_to = headers.pop(SENT_TO, None)
    # Anybody may have written the header.
    if not (isinstance(sent_to, list) and [type(each) for each in sent_to] == [str, str]):
        sent_to = ["", queue]
    delivery_info["exchange"], delivery_info["routing_key"] = sent_to


def _copy_properties(delivery: Any, queue: str) -> dict[str, Any]:
    """What a message says beside its body, for its way through the delay queues to `queue`."""
    properties = dict(delivery.properties)
    # Meant for the queue it has come from; a delay queue would obey it and pass it on early.
    properties.pop("expiration", None)
    sent_to = [delivery.delivery_info["exchange"], delivery.delivery_info["routing_key"]]
    if sent_to != ["", queue]:
        headers = properties.get("application_headers") or {}
        properties["application_headers"] = {**headers, SENT_TO: sent_to}
    return properties


def _key_of(queue: str) -> str:
    """The word that stands for a queue in routing keys: dots would make several of it."""
    return "taskq=" + queue.replace("%", "%25").replace(".", "%2E")


class Delays:
    """The way of one consuming connection to the delay queues."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._client: Any = None
        self._channel: Any = None
        #: Number of the copy on the channel -> the delivery it was made of.
        self._parked: dict[int, Any] = {}
        self._bound: set[str] = set()

    def park(self, delivery: Any, queue: str, seconds: float) -> bool:
        """Have the broker keep a message for some seconds; False when it is to be held here."""
        if seconds <= SHORTEST_S or not self._takes(delivery, queue):
            return False
        due = monotonic() + seconds
        if not (self._channel or self._open()) or not self._bind(queue):
            return False
        # Setting up may have taken a while.
        whole = min(int(due - monotonic()) - EARLY_S, LONGEST_S)
        if whole < 1:
            return False
        copy = Message(delivery.raw, **_copy_properties(delivery, queue))
        channel = self._channel
        key = calculate_routing_key(whole, _key_of(queue))
        channel.send(channel.as_frames(copy, level_name(MAX_LEVEL), key, True, False), [copy])
        self._parked[next(reversed(channel.unconfirmed))] = delivery
        if self._connection.loop is None:
            self._await_confirms(SETUP_S)
        return True

    def _takes(self, delivery: Any, queue: str) -> bool:
        if delivery.is_refused or len(_key_of(queue).encode()) > LONGEST_KEY:
            return False
        redelivered = delivery.delivery_info["redelivered"]
        if redelivered and len(delivery.channel.held) <= HELD_REDELIVERED:
            return False
        return not (self._channel and self._channel.connection.is_blocked)

    # -- the connection

    def _open(self) -> bool:
        client = self._connection.client.clone(heartbeat=0)
        if client.as_uri() in _unwilling:
            return False
        try:
            client.connection.limit_at = monotonic() + SETUP_S
            declare_native_delayed_delivery_exchanges_and_queues(client, "quorum")
            channel = client.channel()
            channel.confirm_select()
            channel._confirm_selected = True
            client.connection.limit_at = None
        except (AMQPError, OSError) as exc:
            self._give_up(client, exc)
            return False
        channel.events["basic_ack"].add(self._on_confirm)
        channel.events["basic_nack"].add(self._on_refusal)
        channel.events["basic_return"].add(self._on_return)
        self._client, self._channel = client, channel
        if self._connection.loop is not None:
            self._connection.loop.add_reader(client.connection.wire.sock, self._read)
        return True

    def _bind(self, queue: str) -> bool:
        if queue in self._bound:
            return True
        try:
            self._channel.queue_bind(
                queue, CELERY_DELAYED_DELIVERY_EXCHANGE, "#." + _key_of(queue)
            )
        except ChannelError as exc:
            self._give_up(self._client, exc)
            return False
        self._bound.add(queue)
        return True

    def _give_up(self, client: Any, exc: BaseException) -> None:
        # No answer may be different the next time; a no stays a no.
        if isinstance(exc, ChannelError):
            _unwilling.add(client.as_uri())
        logger.warning(NOT_POSSIBLE, exc)
        self._disconnect(client)

    def _disconnect(self, client: Any) -> None:
        loop = self._connection.loop
        self._client = self._channel = None
        self._bound.clear()
        link = client._connection
        if loop is not None and link is not None and link._transport and link._transport.sock:
            loop.remove_reader(link._transport.sock)
        with suppress(AMQPError, OSError):
            client.release()
        refused, self._parked = list(self._parked.values()), {}
        for delivery in refused:
            self._hand_back(delivery)

    # -- what the broker says

    def _read(self) -> None:
        client = self._client
        try:
            client.connection.read_turn()
        except ChannelError as exc:
            self._give_up(client, exc)

    def _on_confirm(self, number: int, multiple: bool) -> None:
        for delivery in self._take(number, multiple):
            if delivery.is_refused:
                self._hand_back(delivery)
            elif delivery.channel.connection is not None:
                delivery.channel.basic_ack(delivery.delivery_tag)

    def _on_refusal(self, number: int, multiple: bool) -> None:
        for delivery in self._take(number, multiple):
            self._hand_back(delivery)

    def _on_return(self, exc: Any, exchange: str, routing_key: str, message: Any) -> None:
        # No delay queue was there: its confirm, which comes next, only says that it was read.
        task_id = message.headers.get("id")
        for delivery in self._parked.values():
            if delivery.headers.get("id") == task_id:
                delivery.is_refused = True

    def _take(self, number: int, multiple: bool) -> list[Any]:
        numbers = [each for each in self._parked if each <= number] if multiple else [number]
        return [self._parked.pop(each) for each in numbers if each in self._parked]

    def _hand_back(self, delivery: Any) -> None:
        """Have the consumer take the message again, and hold it this time."""
        delivery.is_refused = True
        channel = delivery.channel
        consume = channel.callbacks.get(delivery.delivery_info["consumer_tag"])
        if consume is not None and delivery.delivery_tag in channel.held:
            consume(delivery)

    # -- the end

    def _await_confirms(self, seconds: float) -> None:
        link = self._client.connection
        link.limit_at = monotonic() + seconds
        try:
            while self._parked:
                link.drain_events()
        finally:
            link.limit_at = None

    def close(self) -> None:
        """Wait for the last confirms, and end the connection."""
        client = self._client
        if client is None:
            return
        with suppress(AMQPError, OSError):
            self._await_confirms(LAST_CONFIRMS_S)
        self.drop()

    def drop(self) -> None:
        """End the connection; what was not confirmed comes again."""
        client, self._client, self._channel = self._client, None, None
        self._parked.clear()
        if client is not None:
            with suppress(AMQPError, OSError):
                client.release()
