"""This file decides what becomes of a delivery: run now, at its ETA, when the rate allows, never.

Step 6 of the journey (docs/journey.md). `default` builds the handler of one task type, settling
there what the type settles; for every message the handler makes a `Request`, asks `decide` and
acts on the answer. A task may name another strategy (`Task.Strategy`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from enum import Enum
from typing import TYPE_CHECKING, Any

from kombu.asynchronous.timer import to_timestamp

from taskq.app import trace as tracing
from taskq.protocol import from_task_v1
from taskq.protocol import hybrid_to_proto2 as _hybrid_to_proto2
from taskq.signals import task_received
from taskq.utils.imports import symbol_by_name
from taskq.utils.log import get_logger
from taskq.utils.serialization import read_payload
from taskq.worker import state
from taskq.worker.request import create_request_cls
from taskq.worker.request_message import RequestMessage

if TYPE_CHECKING:
    from taskq.app.task import Task

__all__ = ("Decision", "decide", "default", "hybrid_to_proto2", "proto1_to_proto2")

logger = get_logger(__name__)

#: Seconds a task waits in the worker, where the broker can keep those that wait longer.
LONGEST_HELD_S = 5.0

Handler = Callable[[Any, Any, Callable[..., Any], Callable[..., Any], Iterable[Any]], None]

#: What a request class is given behind the message, in the order of its parameters.
REQUEST_PARAMETERS = (
    "on_ack", "hostname", "eventer", "app", "connection_errors", "request_dict", "task",
    "on_reject", "body", "headers", "decoded", "utc",
)  # fmt: skip


class Decision(Enum):
    """What becomes of a request."""

    RUN = "now"
    WAIT_FOR_ETA = "at its ETA, and then by its rate limit"
    WAIT_FOR_RATE = "when the rate limit allows"
    NEVER = "revoked or expired"


# Up to Python 3.11 asking an enum for a member costs more than all a decision does.
RUN, WAIT_FOR_ETA, WAIT_FOR_RATE, NEVER = Decision


def decide(
    eta: datetime | None,
    expires: datetime | None,
    revoked: bool,
    rate_limited: bool,
    now: datetime | None,
) -> Decision:
    """Say what becomes of a request; `now` matters only with an ETA or an expiry."""
    if revoked or (expires is not None and now is not None and now > expires):
        return NEVER
    if eta is not None and now is not None and now < eta:
        return WAIT_FOR_ETA
    if rate_limited:
        return WAIT_FOR_RATE
    return RUN


def proto1_to_proto2(message: Any, body: Any) -> tuple[Any, Mapping[str, Any], bool, bool]:
    """Give (body, headers, decoded, utc) of a protocol 1 message as in protocol 2."""
    return from_task_v1(body, message.headers)


def hybrid_to_proto2(message: Any, body: Any) -> tuple[Any, Mapping[str, Any], bool, bool]:
    """Give the same for a protocol 1 body under protocol 2 headers."""
    return _hybrid_to_proto2(message.headers, body)


def default(
    task: Task[Any, Any],
    app: Any,
    consumer: Any,
    info: Callable[..., Any] = logger.info,
    error: Callable[..., Any] = logger.error,
    task_reserved: Callable[..., Any] = state.task_reserved,
    proto1_to_proto2: Callable[..., Any] = proto1_to_proto2,
) -> Handler:
    """Build the handler for messages of one task type: (message, body, ack, reject, callbacks).

    `body` is the decoded body of a protocol 1 message, None for protocol 2. The handler raises
    InvalidTaskError when the message does not describe a call.
    """
    return _TypeHandler(task, app, consumer, info, error, task_reserved, proto1_to_proto2).handle


class _TypeHandler:
    """What a task type settles, and what happens to each of its messages."""

    def __init__(
        self,
        task: Task[Any, Any],
        app: Any,
        consumer: Any,
        info: Callable[..., Any],
        error: Callable[..., Any],
        task_reserved: Callable[..., Any],
        proto1_to_proto2: Callable[..., Any],
    ) -> None:
        self.task_name = task.name
        self.consumer = consumer
        self.info, self.error = info, error
        self.task_reserved = task_reserved
        self.proto1_to_proto2 = proto1_to_proto2
        eventer = consumer.event_dispatcher
        self.request_class = create_request_cls(
            symbol_by_name(task.Request), task, consumer.pool, consumer.hostname, eventer, app=app
        )
        # By place is faster; classes that have a constructor of their own are given names.
        self.is_given_names = self.request_class.__init__ is not RequestMessage.__init__
        self.app, self.task, self.eventer = app, task, eventer
        self.hostname, self.connection_errors = consumer.hostname, consumer.connection_errors
        self.logs_received = logger.isEnabledFor(logging.INFO)
        self.reports_events = eventer is not None
        self.buckets = consumer.task_buckets
        self.on_task_request = consumer.on_task_request
        self.utc = app.uses_utc_timezone()

    def handle(
        self,
        message: Any,
        body: Any,
        ack: Callable[..., Any],
        reject: Callable[..., Any],
        callbacks: Iterable[Callable[[], Any]],
    ) -> None:
        """Make a request of the message and act on what is decided about it."""
        request = self.take_on(message, body, ack, reject)
        comes_again = request.delivery_info["redelivered"] or getattr(message, "is_back", False)
        if comes_again:
            if _is_here_already(request):
                return
            if request.eta is not None and request.delivery_info["redelivered"]:
                # Its worker may have died while it parked it: a copy may be on its way.
                request.remember_end()
        bucket = self.buckets[self.task_name]
        timed = request.eta is not None or request.expires is not None
        stamps = state.revoked_stamps
        decision = decide(
            request.eta,
            request.expires,
            request.id in state.revoked or (bool(stamps) and request.is_revoked_by_stamp()),
            bucket is not None,
            datetime.now(timezone.utc) if timed else None,
        )
        if decision is WAIT_FOR_RATE and self.consumer.send_back(request, bucket):
            # Not received yet: it may come and go many times.
            return
        if self.logs_received:
            _log_received(self.info, request)
        if decision is NEVER:
            request.revoked()
            return
        if decision is WAIT_FOR_ETA and _wait_in_broker(self.consumer, request):
            return
        if task_received.receivers:
            task_received.send(sender=self.consumer, request=request)
        if self.reports_events:
            _send_received(request)
        if decision is WAIT_FOR_ETA:
            _wait_for_eta(self.consumer, request, bucket, self.error)
            return
        self.task_reserved(request)
        for callback in callbacks:
            callback()
        if decision is WAIT_FOR_RATE:
            self.consumer._limit_task(request, bucket, 1)
        else:
            self.on_task_request(request)

    def take_on(
        self, message: Any, body: Any, ack: Callable[..., Any], reject: Callable[..., Any]
    ) -> Any:
        """Make a request of a message in any of the protocols."""
        if body is not None:
            body, headers, decoded, utc = self.proto1_to_proto2(message, body)
        elif isinstance(payload := read_payload(message), dict):
            body, headers, decoded, utc = hybrid_to_proto2(message, payload)
        else:
            body, headers, decoded, utc = message.body, message.headers, False, self.utc
        given = (
            ack, self.hostname, self.eventer, self.app, self.connection_errors, None, self.task,
            reject, body, headers, decoded, utc,
        )  # fmt: skip
        if self.is_given_names:
            return self.request_class(message, **dict(zip(REQUEST_PARAMETERS, given, strict=True)))
        return self.request_class(message, *given)


def _is_here_already(request: Any) -> bool:
    """True when the run a message asks for goes on here, or has ended here: it only came again."""
    held = state.requests.get(request.id)
    if held is not None and held.run_key == request.run_key:
        logger.info("Task %s is delivered again, and is held here: not run twice", request)
        held.take_over(request)
        return True
    if request.run_key in state.ended_unsettled:
        logger.info("Task %s is delivered again, and has ended here: not run twice", request)
        request.acknowledge()
        return True
    return False


def _log_received(info: Callable[..., Any], request: Any) -> None:
    context = {
        "id": request.id,
        "name": request.name,
        "args": request.argsrepr,
        "kwargs": request.kwargsrepr,
        "eta": request.eta,
    }
    # Read at run time: the text is the user's to change (taskq.app.trace.LOG_RECEIVED).
    info(tracing.LOG_RECEIVED, context, extra={"data": context})


def _send_received(request: Any) -> None:
    request.send_event(
        "task-received",
        name=request.name,
        args=request.argsrepr,
        kwargs=request.kwargsrepr,
        root_id=request.root_id,
        parent_id=request.parent_id,
        retries=request.request_dict.get("retries", 0),
        eta=request.eta and request.eta.isoformat(),
        expires=request.expires and request.expires.isoformat(),
    )


def _wait_in_broker(consumer: Any, request: Any) -> bool:
    """Have the broker keep a message whose ETA is far; False when it is to be held here."""
    seconds: float = (request.eta - datetime.now(timezone.utc)).total_seconds()
    if seconds <= LONGEST_HELD_S or not consumer.park(request, seconds):
        return False
    logger.debug("Task %s waits in the broker", request)
    return True


def _wait_for_eta(consumer: Any, request: Any, bucket: Any, error: Callable[..., Any]) -> None:
    """Hold the message until its ETA; the prefetch window grows by what is held."""
    try:
        moment = to_timestamp(request.eta)
    except (OverflowError, ValueError) as exc:
        error("Couldn't convert ETA %r to timestamp: %r. Task: %r",
              request.eta, exc, request.info(safe=True), exc_info=True)  # fmt: skip
        request.reject(requeue=False)
        return
    state.task_scheduled(request)
    consumer.qos.increment_eventually()
    if bucket is None:
        consumer.timer.call_at(moment, consumer.apply_eta_task, (request,), priority=6)
    else:
        consumer.timer.call_at(moment, consumer._limit_post_eta, (request, bucket, 1), priority=6)
