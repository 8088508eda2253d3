"""This file turns a call into the wire message that carries it, and any message back into a call.

Step 3 of the journey. No I/O, no clock, no app: what a message depends on is passed in.

How it works
    protocol 2   headers say what to run and under which conditions; the body is the sequence
                 `[args, kwargs, embed]`, where embed holds what follows (callbacks, errbacks,
                 chain, chord).
    protocol 1   no headers; the body is one mapping with all of it. The rest of a chain is nested
                 in the callbacks, so there is no `chain`.
    hybrid       headers of protocol 2 around a body of protocol 1 (sent by old bridges).
Consumers work on protocol 2 only: `from_task_v1` and `hybrid_to_proto2` convert the others.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from datetime import timezone as _timezone
from functools import partial
from math import isfinite
from typing import Any, NamedTuple

from taskq.exceptions import InvalidTaskError
from taskq.utils.text import saferepr
from taskq.utils.time import parse_iso8601

__all__ = (
    "TaskMessage",
    "as_task_v1",
    "as_task_v2",
    "checked_arguments",
    "from_task_v1",
    "from_task_v2",
    "hybrid_to_proto2",
    "seconds_until",
    "strip_death_headers",
)

#: Seconds before now that are still taken as a countdown.
INT_MIN = -2147483648

UTC = _timezone.utc

#: RabbitMQ's record of how a message died; a retried message starts a life of its own.
DEATH_HEADERS = (
    "x-death",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
)

_PLAIN_TYPES = frozenset({int, float, bool, str, type(None)})
_PLAIN_CONTAINERS = (tuple, list)

_SENT_EVENT_FIELDS = ("name", "args", "kwargs", "retries", "eta", "expires")

#: Header of a hybrid message -> its value when neither headers nor body have it.
_HYBRID_DEFAULTS: dict[str, Any] = {
    "lang": None,
    "task": None,
    "id": None,
    "root_id": None,
    "parent_id": None,
    "group": None,
    "meth": None,
    "shadow": None,
    "eta": None,
    "expires": None,
    "retries": 0,
    "timelimit": (None, None),
    "argsrepr": None,
    "kwargsrepr": None,
    "origin": None,
}

DecodedBody = tuple[Sequence[Any], Mapping[str, Any], dict[str, Any]]


class TaskMessage(NamedTuple):
    """A call as it goes on the wire; `sent_event` holds the fields of its task-sent event."""

    headers: dict[str, Any]
    properties: dict[str, Any]
    body: Any
    sent_event: dict[str, Any] | None


#: Makes a TaskMessage of a tuple without calling a Python function.
_as_message: Callable[[tuple[Any, ...]], TaskMessage] = partial(tuple.__new__, TaskMessage)


def as_task_v2(
    task_id: str,
    name: str,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    countdown: float | None = None,
    eta: datetime | str | None = None,
    group_id: str | None = None,
    group_index: int | None = None,
    expires: float | datetime | str | None = None,
    retries: int = 0,
    chord: Any = None,
    callbacks: Any = None,
    errbacks: Any = None,
    reply_to: str | None = None,
    time_limit: float | None = None,
    soft_time_limit: float | None = None,
    create_sent_event: bool = False,
    root_id: str | None = None,
    parent_id: str | None = None,
    shadow: str | None = None,
    chain: Any = None,
    now: datetime | None = None,
    timezone: tzinfo | None = None,
    origin: str | None = None,
    ignore_result: bool | None = False,
    argsrepr: str | None = None,
    kwargsrepr: str | None = None,
    stamped_headers: Sequence[str] | None = None,
    replaced_task_nesting: int = 0,
    *,
    clock: Callable[[], datetime] | None = None,
    argsrepr_maxsize: int = 1024,
    kwargsrepr_maxsize: int = 1024,
    repr_maxlevels: int | None = 3,
    **options: Any,
) -> TaskMessage:
    """The message of protocol 2 for one call.

    `countdown` and numeric `expires` are seconds from `now`, for which `clock` is asked when it is
    not given; a naive `now` is UTC and shown in `timezone`. Stamps named in `stamped_headers` are
    taken from `options`. Raises TypeError when args or kwargs are not what a call takes.
    """
    if type(args) is not tuple or type(kwargs) is not dict:
        args, kwargs = checked_arguments(args, kwargs)
    if countdown or expires is not None or eta is not None:
        eta, expires = _moments(countdown, eta, expires, now, clock, timezone)
    if argsrepr is None:
        argsrepr = repr_of_args(args, argsrepr_maxsize, repr_maxlevels)
    if kwargsrepr is None:
        kwargsrepr = repr_of_kwargs(kwargs, kwargsrepr_maxsize, repr_maxlevels) if kwargs else "{}"
    if not root_id:
        root_id = task_id
    return _as_message((
        {
            "lang": "py",
            "task": name,
            "id": task_id,
            "shadow": shadow,
            "eta": eta,
            "expires": expires,
            "group": group_id,
            "group_index": group_index,
            "retries": retries,
            "timelimit": [time_limit, soft_time_limit],
            "root_id": root_id,
            "parent_id": parent_id,
            "argsrepr": argsrepr,
            "kwargsrepr": kwargsrepr,
            "origin": origin,
            "ignore_result": ignore_result,
            "replaced_task_nesting": replaced_task_nesting,
            "stamped_headers": stamped_headers,
            "stamps": {s: options[s] for s in stamped_headers} if stamped_headers else {},
        },
        {"correlation_id": task_id, "reply_to": reply_to or ""},
        (
            args,
            kwargs,
            {"callbacks": callbacks, "errbacks": errbacks, "chain": chain, "chord": chord},
        ),
        _sent_event(
            {"uuid": task_id, "root_id": root_id, "parent_id": parent_id},
            (name, argsrepr, kwargsrepr, retries, eta, expires),
        )
        if create_sent_event
        else None,
    ))  # fmt: skip


def as_task_v1(
    task_id: str,
    name: str,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    countdown: float | None = None,
    eta: datetime | str | None = None,
    group_id: str | None = None,
    group_index: int | None = None,
    expires: float | datetime | str | None = None,
    retries: int = 0,
    chord: Any = None,
    callbacks: Any = None,
    errbacks: Any = None,
    reply_to: str | None = None,
    time_limit: float | None = None,
    soft_time_limit: float | None = None,
    create_sent_event: bool = False,
    root_id: str | None = None,
    parent_id: str | None = None,
    shadow: str | None = None,
    now: datetime | None = None,
    timezone: tzinfo | None = None,
    *,
    utc: bool = True,
    clock: Callable[[], datetime] | None = None,
    argsrepr_maxsize: int = 1024,
    kwargsrepr_maxsize: int = 1024,
    repr_maxlevels: int | None = 3,
    **compat_kwargs: Any,
) -> TaskMessage:
    """The message of protocol 1 for one call; takes what `as_task_v2` takes and drops the rest."""
    args, kwargs = checked_arguments(args, kwargs)
    eta, expires = _moments(countdown, eta, expires, now, clock, timezone)
    return TaskMessage(
        {},
        {"correlation_id": task_id, "reply_to": reply_to or ""},
        {
            "task": name,
            "id": task_id,
            "args": args,
            "kwargs": kwargs,
            "group": group_id,
            "group_index": group_index,
            "retries": retries,
            "eta": eta,
            "expires": expires,
            "utc": utc,
            "callbacks": callbacks,
            "errbacks": errbacks,
            "timelimit": (time_limit, soft_time_limit),
            "taskset": group_id,
            "chord": chord,
        },
        _sent_event(
            {"uuid": task_id},
            (
                name,
                repr_of_args(args, argsrepr_maxsize, repr_maxlevels),
                repr_of_kwargs(kwargs, kwargsrepr_maxsize, repr_maxlevels),
                retries,
                eta,
                expires,
            ),
        )
        if create_sent_event
        else None,
    )


def seconds_until(expires: float | datetime | str, now: datetime) -> float:
    """Seconds from `now` to `expires` (already seconds, a datetime, or ISO text).

    A naive datetime is UTC, as the worker reads it. Negative when the moment has passed.
    """
    if isinstance(expires, numbers.Real):
        if not isfinite(expires):
            raise ValueError(f"expires must be a number of seconds, not {expires!r}")
        return expires
    moment: Any = expires
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment.replace("Z", "+00:00"))
        except ValueError:
            raise ValueError(f"expires must be a moment in ISO 8601, not {expires!r:.80}") from None
    if not isinstance(moment, datetime):
        hint = "; use .total_seconds()" if isinstance(moment, timedelta) else ""
        raise TypeError(
            f"expires must be seconds, a datetime or ISO text, not {type(moment).__name__}{hint}"
        )
    return (_aware(moment) - _aware(now)).total_seconds()


def _sent_event(ids: dict[str, Any], values: tuple[Any, ...]) -> dict[str, Any]:
    return ids | dict(zip(_SENT_EVENT_FIELDS, values, strict=True))


def repr_of_args(args: Sequence[Any], maxsize: int, maxlevels: int | None) -> str:
    """The text of positional arguments for logs and events, at most about `maxsize` long."""
    # Most arguments are plain: repr() says what saferepr would, in one call.
    if type(args) in _PLAIN_CONTAINERS and _PLAIN_TYPES.issuperset(map(type, args)):
        text = repr(args)
        if len(text) <= maxsize:
            return text
    return saferepr(args, maxsize, maxlevels or 0)


def repr_of_kwargs(kwargs: Mapping[str, Any], maxsize: int, maxlevels: int | None) -> str:
    """The text of keyword arguments for logs and events, at most about `maxsize` long."""
    if not kwargs:
        return "{}"
    if type(kwargs) is dict and _PLAIN_TYPES.issuperset(map(type, kwargs.values())):
        text = repr(kwargs)
        if len(text) <= maxsize:
            return text
    return saferepr(kwargs, maxsize, maxlevels or 0)


def checked_arguments(
    args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """The arguments of a call, empty ones for None; TypeError when they are not of these kinds."""
    if args is None:
        args = ()
    elif not isinstance(args, _PLAIN_CONTAINERS):
        raise TypeError(
            f"task args must be a list or tuple, not {type(args).__name__}: "
            f"for one argument write ({args!r:.40},)"
        )
    if kwargs is None:
        kwargs = {}
    elif type(kwargs) is not dict and not isinstance(kwargs, Mapping):
        raise TypeError(
            f"task keyword arguments must be a mapping, not {type(kwargs).__name__}"
        )
    return args, kwargs


def _moments(
    countdown: float | None,
    eta: datetime | str | None,
    expires: float | datetime | str | None,
    now: datetime | None,
    clock: Callable[[], datetime] | None,
    zone: tzinfo | None,
) -> tuple[str | None, str | None]:
    if now is None and clock is not None and (countdown or expires is not None):
        now = clock()
    if countdown:
        eta = _after(countdown, "countdown", now, zone)
    if isinstance(expires, numbers.Real):
        expires = _after(expires, "expires", now, zone)
    return _iso_text(eta, "eta"), _iso_text(expires, "expires")


def _after(seconds: Any, option: str, now: datetime | None, zone: tzinfo | None) -> datetime:
    if not isinstance(seconds, numbers.Real):
        hint = "; use .total_seconds()" if isinstance(seconds, timedelta) else ""
        raise TypeError(
            f"{option} must be a number of seconds, not {type(seconds).__name__}{hint}"
        )
    if seconds < INT_MIN:
        raise ValueError(f"{option} is out of range: {seconds!r}")
    if now is None:
        raise TypeError(f"{option}={seconds!r} counts from `now`, which was not given")
    if now.tzinfo is None:
        now = _aware(now).astimezone(zone or UTC)
    try:
        # By way of UTC: across a change to or from summer time an hour is still 3600 seconds.
        moment = now.astimezone(UTC) + timedelta(seconds=float(seconds))
        return moment.astimezone(now.tzinfo)
    except (ValueError, OverflowError) as exc:
        raise type(exc)(
            f"{option}={seconds!r} is no moment in the calendar: expected seconds from now"
        ) from None


def _iso_text(moment: Any, option: str) -> str | None:
    if isinstance(moment, str):
        if moment and option == "eta":
            _check_eta(moment)
        return moment
    if moment is None:
        return None
    try:
        return moment.isoformat()  # type: ignore[no-any-return]  # date and datetime both do
    except AttributeError:
        expected = "a datetime or ISO 8601 text"
        if option == "expires":
            expected = f"a number of seconds, {expected}"
        raise TypeError(f"{option} must be {expected}, not {moment!r:.80}") from None


def _check_eta(text: str) -> None:
    # A worker would refuse the message, and its sender wait for a task that never runs.
    try:
        parse_iso8601(text)
    except ValueError as exc:
        raise ValueError(f"eta: {exc}") from None


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def from_task_v2(body: Any) -> DecodedBody:
    """`(args, kwargs, embed)` of a decoded protocol 2 body; InvalidTaskError says what is wrong."""
    try:
        args, kwargs, embed = body
    except (TypeError, ValueError):
        raise InvalidTaskError(
            f"the body of a task message must be [args, kwargs, embed], not {body!r:.120}"
        ) from None
    if type(args) is list and type(kwargs) is type(embed) is dict:
        # What JSON gives, without asking abstract classes.
        return args, kwargs, embed
    if isinstance(args, (str, bytes)) or not isinstance(args, Sequence):
        raise InvalidTaskError(f"task args must be a list or tuple, not {args!r:.120}")
    if not isinstance(kwargs, Mapping):
        raise InvalidTaskError(f"task keyword arguments must be a mapping, not {kwargs!r:.120}")
    if embed is not None and not isinstance(embed, Mapping):
        raise InvalidTaskError(f"what follows a task must be a mapping, not {embed!r:.120}")
    return args, kwargs, dict(embed or {})


def from_task_v1(
    body: Any, headers: Mapping[str, Any] | None = None
) -> tuple[DecodedBody, dict[str, Any], bool, bool]:
    """A protocol 1 body as `(protocol 2 body, headers, decoded, utc)`.

    `headers` are those the message came with; the task finds them under the key `headers`.
    Raises InvalidTaskError when the body is not that of a call.
    """
    args, kwargs = _arguments_of_v1(body)
    converted = dict(
        body,
        argsrepr=saferepr(args),
        kwargsrepr=saferepr(kwargs),
        headers=dict(headers or {}),
    )
    if body.get("taskset"):
        converted["group"] = body["taskset"]
    return (args, kwargs, _embed_of_v1(body)), converted, True, body.get("utc", True)


def hybrid_to_proto2(
    headers: Mapping[str, Any], body: Any
) -> tuple[DecodedBody, dict[str, Any], bool, bool]:
    """A protocol 1 body under headers of protocol 2, as `(body, headers, decoded, utc)`.

    What the headers do not say is taken from the body. Raises InvalidTaskError as `from_task_v1`.
    """
    args, kwargs = _arguments_of_v1(body)
    converted = {name: body.get(name, default) for name, default in _HYBRID_DEFAULTS.items()}
    converted.update(headers)
    return (args, kwargs, _embed_of_v1(body)), converted, True, body.get("utc", True)


def _arguments_of_v1(body: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    if not isinstance(body, Mapping):
        raise InvalidTaskError(
            f"the body of a protocol 1 message must be a mapping, not {body!r:.120}"
        )
    args, kwargs = body.get("args", ()), body.get("kwargs", {})
    if not isinstance(kwargs, Mapping):
        raise InvalidTaskError(
            f"Task keyword arguments must be a mapping, not {kwargs!r:.120}"
        )
    return args, kwargs


def _embed_of_v1(body: Mapping[str, Any]) -> dict[str, Any]:
    # A chain in protocol 1 is nested in the callbacks; a key of that name means something else.
    return {
        "callbacks": body.get("callbacks"),
        "errbacks": body.get("errbacks"),
        "chord": body.get("chord"),
        "chain": None,
    }


def strip_death_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The headers without RabbitMQ's record of how the message died."""
    return {name: value for name, value in headers.items() if name not in DEATH_HEADERS}
