"""This file meets every message: which task type is it, and what if it is none we know.

Step 5 of the journey (docs/journey.md). `create_task_handler` gives the function kombu calls for
each message; it finds the strategy (step 6) of the task type. A message that cannot be handled is
logged with its content cut to a limit, settled as Celery settles it, and the worker goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kombu.exceptions import ContentDisallowed, DecodeError

from taskq.context import Context
from taskq.exceptions import InvalidTaskError, NotRegistered
from taskq.signals import task_rejected, task_unknown
from taskq.utils.log import get_logger
from taskq.utils.text import closest, saferepr, truncate
from taskq.worker import state

__all__ = ("Deliveries", "dump_body")

#: Characters of a message's body, or of its headers, that are logged.
SHOWN_CONTENT = 1024

UNKNOWN_FORMAT = """\
Received and deleted unknown message.  Wrong destination?!?

The full contents of the message body was: %s
"""

UNKNOWN_TASK_ERROR = """\
Received unregistered task of type %s.
The message has been ignored and discarded.
%s
Did you remember to import the module containing this task (setting `imports`, option `--include`)?
Or does the sender know the module by another name (relative imports)?

The full contents of the message body was:
%s

The full contents of the message headers:
%s

The delivery info for this task is:
%s
"""

INVALID_TASK_ERROR = """\
Received invalid task message: %s
The message has been ignored and discarded.

%s

The full contents of the message body was:
%s
"""

A_TASK_MESSAGE = "A task message has the headers `task`, `id` and the body [args, kwargs, embed]."

NOT_ACCEPTED = (
    "This worker accepts %s (setting accept_content). Have the sender use one of these, or, "
    "if you trust everybody who can send here, add the type to accept_content."
)

MESSAGE_REPORT = """\
body: {0}
{{content_type:{1} content_encoding:{2}
  delivery_info:{3} headers={4}}}
"""

MESSAGE_DECODE_ERROR = """\
Can't decode message body: %s [type:%s encoding:%s headers:%s]
The message has been acknowledged and discarded.

Its body is not what its headers say (content type, content encoding, `compression`): look at the
program that sent it.

body: %s
"""

logger = get_logger("taskq.worker.consumer.consumer")


class Deliveries:
    """The part of the consumer that takes in messages."""

    app: Any
    strategies: dict[str, Any]
    on_task_message: set[Callable[[], Any]]
    connection_errors: Any
    event_dispatcher: Any

    def create_task_handler(self, promise: Any = None) -> Callable[[Any], None]:
        """Build what is called for every message of the task queues.

        `promise` is accepted for Celery's signature: an ack is sent when it is given.
        """
        strategies = self.strategies
        callbacks = self.on_task_message

        def on_message(message: Any) -> None:
            if state.should_stop is not None or state.should_terminate is not None:
                # Left unacknowledged: it goes back to the queue when the channel is closed.
                return
            body = None
            try:
                task_type = message.headers["task"]
            except (KeyError, TypeError):
                body, task_type = self._read_protocol1(message)
                if task_type is None:
                    return
            try:
                strategy = strategies[task_type]
            except (KeyError, TypeError) as exc:
                self.on_unknown_task(body, message, exc)
                return
            try:
                strategy(message, body, message.ack_log_error, message.reject_log_error, callbacks)
            except (InvalidTaskError, ContentDisallowed) as exc:
                self.on_invalid_task(body, message, exc)
            except DecodeError as exc:
                self.on_decode_error(message, exc)

        return on_message

    def _read_protocol1(self, message: Any) -> tuple[Any, str | None]:
        """Give (decoded body, task type) of an old message; (None, None) when it was none."""
        try:
            body = message.decode()
        except Exception as exc:  # whatever a serializer may raise about a body
            self.on_decode_error(message, exc)
            return None, None
        try:
            return body, body["task"]
        except (KeyError, TypeError, IndexError):
            self.on_unknown_message(body, message)
            return None, None

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """A message that does not say which task it is for: reject it."""
        report = MESSAGE_REPORT.format(
            dump_body(message, body),
            saferepr(message.content_type, SHOWN_CONTENT),
            saferepr(message.content_encoding, SHOWN_CONTENT),
            saferepr(message.delivery_info, SHOWN_CONTENT),
            saferepr(message.headers, SHOWN_CONTENT),
        )
        logger.warning(UNKNOWN_FORMAT, report)
        message.reject_log_error(logger, self.connection_errors)
        task_rejected.send(sender=self, message=message, exc=None)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """A task that is not registered here: reject it and store NotRegistered as its result."""
        headers = message.headers or {}
        facts = headers if "task" in headers else (body or {})
        name, task_id = facts.get("task"), facts.get("id")
        near = closest(str(name), self.strategies)
        logger.error(
            UNKNOWN_TASK_ERROR,
            _cut(exc),
            f"\nDid you mean {near!r}?\n" if near else "",
            dump_body(message, body),
            saferepr(headers, SHOWN_CONTENT),
            saferepr(message.delivery_info, SHOWN_CONTENT),
            exc_info=_traceback_of(exc),
        )
        message.reject_log_error(logger, self.connection_errors)
        if isinstance(task_id, str):
            self._store_unknown(name, task_id, facts, message.properties)
        if self.event_dispatcher is not None:
            self.event_dispatcher.send(
                "task-failed", uuid=task_id, exception=f"NotRegistered({name!r})"
            )
        task_unknown.send(sender=self, message=message, exc=exc, name=name, id=task_id)

    def _store_unknown(
        self, name: Any, task_id: str, facts: Mapping[str, Any], properties: Mapping[str, Any]
    ) -> None:
        request = Context(
            task=name,
            id=task_id,
            chord=None,
            errbacks=None,
            root_id=facts.get("root_id"),
            correlation_id=properties.get("correlation_id"),
            reply_to=properties.get("reply_to"),
        )
        try:
            self.app.backend.mark_as_failure(task_id, NotRegistered(name), request=request)
        except Exception as exc:
            # A backend that is away is no reason to stop: the message is dealt with.
            logger.exception("Could not store the failure of %s[%s]: %r", name, task_id, exc)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """A message that does not describe a call: reject it."""
        advice = A_TASK_MESSAGE
        if isinstance(exc, ContentDisallowed):
            advice = NOT_ACCEPTED % ", ".join(map(str, self.app.conf.accept_content))
        logger.error(
            INVALID_TASK_ERROR,
            _cut(exc),
            advice,
            dump_body(message, body),
            exc_info=_traceback_of(exc),
        )
        message.reject_log_error(logger, self.connection_errors)
        task_rejected.send(sender=self, message=message, exc=exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """A body that is not what its headers say: acknowledge it."""
        logger.critical(
            MESSAGE_DECODE_ERROR,
            _cut(repr(exc)),
            saferepr(message.content_type, SHOWN_CONTENT),
            saferepr(message.content_encoding, SHOWN_CONTENT),
            saferepr(message.headers, SHOWN_CONTENT),
            dump_body(message, message.body),
            exc_info=_traceback_of(exc),
        )
        message.ack_log_error(logger, self.connection_errors)


def dump_body(m: Any, body: Any) -> str:
    """Show a message's body, cut to a limit, with its size in bytes."""
    body = m.body if body is None else body
    return f"{saferepr(body, SHOWN_CONTENT)} ({len(m.body)}b)"


def _cut(told: object) -> str:
    return truncate(str(told), SHOWN_CONTENT)


def _traceback_of(exc: BaseException) -> BaseException | None:
    """Give what to log as a traceback: nothing when it would quote the message at full length."""
    error: BaseException | None = exc
    while error is not None:
        if len(str(error)) > SHOWN_CONTENT:
            return None
        error = error.__cause__ or error.__context__
    return exc
