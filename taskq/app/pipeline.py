"""This file is the pipeline: messages that are collected and sent together.

Beside step 4 of the journey: `with app.pipeline():` takes the place of the producer, for groups,
`delay_many` and users. How it works: while a thread is in the block, `App.send_task` hands its
messages here, where they are encoded; they leave at its end. First the connection is made sure of
and the queues are declared, which may be tried again and again. Then the messages go out through
kombu's `Producer.batch()`, which is not repeated, since nobody knows what has arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from kombu import Exchange
from kombu.exceptions import BatchPublishError as KombuBatchPublishError
from kombu.exceptions import SerializerNotInstalled
from kombu.utils.url import maybe_sanitize_url

from taskq.app.deadline import TimedConnection
from taskq.app.encoding import not_installed
from taskq.app.sending import broker_errors, open_at_once, raise_cannot_send
from taskq.exceptions import BatchPublishError
from taskq.utils.producer import write_body

if TYPE_CHECKING:
    from typing_extensions import Self

    from taskq.app.base import App

__all__ = ("BATCH", "Pipeline")

#: Messages that go out in one batch.
BATCH = 10_000

#: Messages that may take as long as one.
_TIMED_TOGETHER = 1_000

_NO_EXCHANGE = Exchange("")


class _Message(NamedTuple):
    body: Any
    options: dict[str, Any]
    told: tuple[Callable[..., Any], ...]

    @property
    def id(self) -> Any:
        return self.options.get("correlation_id")


#: Makes a message of a tuple without calling a Python function.
_as_message: Callable[[tuple[Any, ...]], _Message] = partial(tuple.__new__, _Message)


class Pipeline:
    """What calls in its block collect, to be sent at its end; nothing is sent if the block fails.

    A block inside another one joins it. It takes the place of a kombu Producer in
    `AMQP.publish`, and so has what that looks at.

    Arguments:
        app: the application whose calls are collected, in this thread.
        producer: an open kombu Producer to send with, instead of one from the pool.
    """

    __connection__: Any = None
    connection: Any = None
    exchange = _NO_EXCHANGE

    def __init__(self, app: App, producer: Any = None) -> None:
        self._app = app
        self._producer = producer
        self._loan = ExitStack()
        self._outer: Pipeline | None = None
        self._messages: list[_Message] = []
        self._entities: dict[int, Any] = {}
        self._retry: tuple[bool, dict[str, Any]] = (False, {})

    def __enter__(self) -> Self:
        local = self._app._local
        self._outer = getattr(local, "pipeline", None)
        if self._outer is None or self._producer is not None:
            local.pipeline = self
        else:
            self._begun_with = len(self._outer._messages)
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *exc_info: Any) -> None:
        local = self._app._local
        if local.pipeline is not self:  # joined the outer one
            if exc_type is not None:
                del local.pipeline._messages[self._begun_with :]
            return
        local.pipeline = self._outer
        messages, self._messages = self._messages, []
        with self._loan:
            if exc_type is None and messages:
                self._send(self._borrow(), messages)

    def __len__(self) -> int:
        return len(self._messages)

    # -- as a producer

    @property
    def channel(self) -> Any:
        """The channel that will be sent on, for result backends that prepare a reply queue."""
        return self._borrow().channel

    def collect(
        self,
        body: Any,
        retry: bool,
        policy: Mapping[str, Any],
        serializer: str,
        declare: Any,
        options: dict[str, Any],
    ) -> None:
        """Keep a message; raises EncodeError when it cannot be written."""
        # Written now: what the caller changes afterwards is not sent, and an error is the caller's.
        try:
            written = write_body(body, serializer)
        except SerializerNotInstalled as exc:
            raise SerializerNotInstalled(not_installed("serializer", serializer)) from exc
        options["content_type"], options["content_encoding"], data = written
        for entity in declare or ():
            self._entities[id(entity)] = entity
        if not self._messages:
            self._retry = retry, dict(policy or {})
        self._messages.append(_as_message((data, options, ())))

    def when_sent(self, tell: Callable[..., Any]) -> None:
        """Call `tell(producer=...)` once the message collected last has been sent."""
        last = self._messages[-1]
        self._messages[-1] = last._replace(told=(*last.told, tell))

    # -- sending

    def _borrow(self) -> Any:
        if self._producer is None:
            loan = self._app._lend_producer(None, self._retry[1])
            self._producer = self._loan.enter_context(loan)
        return self._producer

    def _send(self, producer: Any, messages: list[_Message]) -> None:
        retry, policy = self._retry
        seconds = self._app.conf.broker_publish_timeout
        if seconds is not None:
            seconds *= 1 + len(messages) // _TIMED_TOGETHER
        connection = producer.connection
        timed = connection if isinstance(connection, TimedConnection) else None
        sent: list[_Message] = []
        try:
            if timed and seconds and not (retry and policy.get("max_retries", 0) is None):
                timed.patience_s = seconds
                timed.deadline = monotonic() + seconds - timed.take_waited()
            self._make_ready(producer)
            for start in range(0, len(messages), BATCH):
                self._send_batch(producer, messages[start : start + BATCH], sent)
        except BatchPublishError:
            if connection is not None:
                connection.collect()
            raise
        except broker_errors(producer) as exc:
            if not sent:
                raise_cannot_send(producer, exc)
            raise BatchPublishError(str(exc), (), [message.id for message in sent]) from exc
        finally:
            if timed:
                timed.deadline = None
                if timed.is_hurried:
                    timed.calm_down()
            for message in sent:
                for tell in message.told:
                    tell(producer=producer)

    def _make_ready(self, producer: Any) -> None:
        """See to it that the broker is there and has the queues."""
        retry, policy = self._retry
        connection = producer.connection
        if retry and connection is not None:
            connection.ensure(producer, partial(self._declare, producer), **policy)()
        else:
            open_at_once(producer)
            self._declare(producer)

    def _declare(self, producer: Any) -> None:
        channel = producer.channel
        if hasattr(channel, "check_alive"):
            channel.check_alive()
        elif getattr(channel.connection, "driver_type", "") == "redis":
            channel.client.ping()
        for entity in self._entities.values():
            producer.maybe_declare(entity)

    def _send_batch(self, producer: Any, messages: list[_Message], sent: list[_Message]) -> None:
        number = 0
        together = producer.supports_batch_publish
        retry, policy = self._retry
        if together:
            retry = False  # the fate of a batch that has failed is unknown
        try:
            with producer.batch(max_size=len(messages)):
                for number, message in enumerate(messages):  # noqa: B007
                    producer.publish(
                        message.body, retry=retry, retry_policy=policy, **message.options
                    )
        except _batch_errors(producer) as exc:
            if together and not isinstance(exc, KombuBatchPublishError):
                raise  # before anything of this batch was sent
            arrived = set(getattr(exc, "sent_ids", ()))
            if not together:
                arrived = {message.id for message in messages[:number]}
                messages = messages[: number + 1]
            sent += [message for message in messages if message.id in arrived]
            unknown = [message.id for message in messages if message.id not in arrived]
            raise BatchPublishError(
                _tell(producer, exc, len(unknown), len(sent)),
                unknown,
                [message.id for message in sent],
            ) from exc
        sent += messages


def _batch_errors(producer: Any) -> tuple[type[BaseException], ...]:
    return KombuBatchPublishError, *broker_errors(producer)


def _tell(producer: Any, exc: BaseException, unknown: int, sent: int) -> str:
    broker = producer.connection.as_uri() if producer.connection is not None else ""
    reason = maybe_sanitize_url(str(exc.__cause__ or exc)).rstrip(".")
    return (
        f"sending together to the broker {broker} broke off: {reason}. {sent} calls were sent, and"
        f" of {unknown} it is not known (unknown_ids): send those again only if they may run twice"
    )
