"""This file has RabbitMQ keep tasks that wait: they leave the worker, and come back in time.

Between the decision to wait (worker/strategy.py) and the delivery that comes when the wait is over.

How it works. kombu's delay queues (`celery_delayed_0` to `_27`, each twice as slow as the one
before) move a message on until its seconds are over; here they are quorum queues, which alone lose
nothing on the way. A message is published there over a connection of its own, since a broker that
is low on memory stops reading from who publishes, and acknowledged when the broker has confirmed
the copy. What is not confirmed is handed to its consumer again, to be held by the worker. A worker
killed in between leaves both: so a redelivered message is held here, where the copy, when it comes,
is recognised by the task's id.

The loop waits for nothing. The queues are declared in one go, which takes the broker seconds; a yes
to the last thing asked for is one to all, and a no comes as the channel's end. Copies of one turn
go out together. They keep their places in the prefetch window until they are confirmed: no more
than that can be doubled by a kill.

Every queue is bound to the last exchange by a word that is its own: kombu's bindings leave direct
exchanges out, and `#.name` would also take what is meant for a queue called `other.name`.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import takewhile
from time import monotonic
from typing import Any

from amqp import Message
from amqp.exceptions import AMQPError, ChannelError
from amqp.spec import Confirm
from kombu.transport.native_delayed_delivery import (
    CELERY_DELAYED_DELIVERY_EXCHANGE,
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

#: Seconds the broker has to answer: where there is no loop to wait in, and at the end.
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


class _Unawaited:
    """A channel for kombu to declare on, which waits for no answers."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def channel(self) -> _Unawaited:
        """What kombu asks of a connection."""
        return self

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._channel, name)
        if name in ("exchange_declare", "exchange_bind", "queue_declare", "queue_bind"):
            return lambda *args, **kwargs: method(*args, **{**kwargs, "nowait": True})
        return method


class Delays:
    """The way of one consuming connection to the delay queues."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._client: Any = None
        self._channel: Any = None
        #: Are the queues there?
        self._is_set_up = False
        #: (delivery, its queue, when the wait is over) of copies that are not sent yet.
        self._unsent: list[tuple[Any, str, float]] = []
        #: Number of the copy on the channel -> the delivery it was made of.
        self._parked: dict[int, Any] = {}
        self._count = 0
        self._bound: set[str] = set()

    def park(self, delivery: Any, queue: str, seconds: float) -> bool:
        """Have the broker keep a message for some seconds; False when it is to be held here."""
        if seconds <= SHORTEST_S or not self._takes(delivery, queue):
            return False
        due = monotonic() + seconds
        if not (self._channel or self._open()):
            return False
        self._bind(queue)
        self._unsent.append((delivery, queue, due))
        if self._connection.loop is not None:
            return True
        try:
            self._await_confirms(SETUP_S)
        except (AMQPError, OSError) as exc:
            self._do_without(exc)
        return not delivery.is_refused

    def _takes(self, delivery: Any, queue: str) -> bool:
        if delivery.is_refused or len(_key_of(queue).encode()) > LONGEST_KEY:
            return False
        redelivered = delivery.delivery_info["redelivered"]
        if redelivered and len(delivery.channel.held) <= HELD_REDELIVERED:
            return False
        return not (self._channel and self._channel.connection.is_blocked)

    def flush(self) -> None:
        """Send the copies of this turn, once the queues are there."""
        if not self._unsent or not self._is_set_up:
            return
        unsent, self._unsent = self._unsent, []
        channel, now = self._channel, monotonic()
        copies, frames = [], []
        for delivery, queue, due in unsent:
            seconds = min(int(due - now) - EARLY_S, LONGEST_S)
            if seconds < 1 or not self._is_held(delivery):
                # Setting up has taken a while.
                self._hand_back(delivery)
                continue
            copy = Message(delivery.raw, **_copy_properties(delivery, queue))
            key = calculate_routing_key(seconds, _key_of(queue))
            # The levels above would only pass it on, each at the broker's expense.
            first = level_name(seconds.bit_length() - 1)
            copies.append(copy)
            frames.append(channel.as_frames(copy, first, key, True, False))
            self._count += 1
            self._parked[self._count] = delivery
        if copies:
            channel.send(b"".join(frames), copies)

    # -- the connection

    def _open(self) -> bool:
        if self._connection.client.as_uri() in _unwilling:
            return False
        client = self._connection.client.clone(heartbeat=0)
        try:
            client.connection.limit_at = monotonic() + SETUP_S
            channel = client.channel()
            declare_native_delayed_delivery_exchanges_and_queues(_Unawaited(channel), "quorum")
            channel._callbacks[Confirm.SelectOk] = self._on_set_up
            channel.send_method(Confirm.Select, "b", (False,))
            channel._confirm_selected = True
            client.connection.limit_at = None
        except (AMQPError, OSError) as exc:
            self._give_up(client, exc)
            return False
        channel.events["basic_ack"].add(self._on_confirm)
        channel.events["basic_nack"].add(self._on_refusal)
        channel.events["basic_return"].add(self._on_return)
        self._client, self._channel = client, channel
        self._is_set_up, self._count = False, 0
        if self._connection.loop is not None:
            self._connection.loop.add_reader(client.connection.wire.sock, self._read)
        return True

    def _bind(self, queue: str) -> None:
        if queue not in self._bound:
            self._channel.queue_bind(
                queue, CELERY_DELAYED_DELIVERY_EXCHANGE, "#." + _key_of(queue), nowait=True
            )
            self._bound.add(queue)

    def _do_without(self, exc: AMQPError | OSError) -> None:
        """Hold messages here, when that is what an error means; else raise it."""
        if self._is_set_up and not isinstance(exc, ChannelError):
            raise exc
        self._give_up(self._client, exc)

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
        refused = [*self._parked.values(), *(delivery for delivery, *_ in self._unsent)]
        self._parked.clear()
        self._unsent.clear()
        for delivery in refused:
            self._hand_back(delivery)

    # -- what the broker says

    def _read(self) -> None:
        try:
            self._client.connection.read_turn()
        except (AMQPError, OSError) as exc:
            self._do_without(exc)

    def _on_set_up(self) -> None:
        self._is_set_up = True

    def _on_confirm(self, number: int, multiple: bool) -> None:
        for delivery in self._take(number, multiple):
            if delivery.is_refused:
                self._hand_back(delivery)
            elif self._is_held(delivery):
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
        numbers = [number]
        if multiple:
            numbers = list(takewhile(lambda each: each <= number, self._parked))
        return [self._parked.pop(each) for each in numbers if each in self._parked]

    def _is_held(self, delivery: Any) -> bool:
        # The broker may have closed its channel; tags begin anew then.
        held = delivery.channel.held.get(delivery.delivery_tag) is delivery
        return held and delivery.channel.connection is not None

    def _hand_back(self, delivery: Any) -> None:
        """Have the consumer take the message again, and hold it this time."""
        delivery.is_refused = True
        if not self._is_held(delivery):
            return
        channel = delivery.channel
        consume = channel.callbacks.get(delivery.delivery_info["consumer_tag"])
        # Without a loop it is still in its consumer's hands.
        if consume is not None and self._connection.loop is not None:
            consume(delivery)

    # -- the end

    def _await_confirms(self, seconds: float) -> None:
        link = self._client.connection
        link.limit_at = monotonic() + seconds
        try:
            while True:
                self.flush()
                if not (self._parked or self._unsent):
                    break
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
        self._unsent.clear()
        if client is not None:
            with suppress(AMQPError, OSError):
                client.release()
