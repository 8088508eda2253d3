"""This file answers remote control commands (`app.control`, `taskq inspect`, `taskq control`).

Each command is a function of `state` (app, hostname, consumer) and its arguments, registered in
`Panel`; users add theirs with the same decorators. What a command returns is the node's reply.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

from billiard.common import TERM_SIGNAME
from kombu.utils.encoding import safe_repr

from taskq.exceptions import WorkerShutdown
from taskq.platforms import EX_OK, SIGMAP, SIGNAMES
from taskq.platforms import signals as process_signals
from taskq.utils.log import get_logger
from taskq.utils.serialization import jsonify, strtobool
from taskq.utils.text import closest
from taskq.utils.time import rate
from taskq.worker import state as worker_state
from taskq.worker.request import Request

__all__ = ("Panel", "control_command", "inspect_command")

DEFAULT_TASK_INFO_ITEMS = ("exchange", "routing_key", "rate_limit")

SIZE_IS_AUTOMATIC = "{command} is not supported with autoscale. Adjust autoscale range instead."

logger = get_logger(__name__)

Command = TypeVar("Command", bound=Callable[..., Any])


class Decorator(Protocol):
    """What registers a function and leaves it as it is."""

    def __call__(self, function: Command, /) -> Command:
        """Register."""


class controller_info_t(NamedTuple):
    """What the command line needs to know about a command."""

    alias: str | None
    type: str
    visible: bool
    default_timeout: float
    help: str
    signature: str | None
    args: list[tuple[str, Callable[..., Any]]] | None
    variadic: str | None


class Panel(UserDict[str, Any]):
    """Every command by name, aliases included; `meta` describes them."""

    data: ClassVar[dict[str, Any]] = {}  # type: ignore[misc] # one registry, as Celery's
    meta: ClassVar[dict[str, controller_info_t]] = {}

    @classmethod
    def register(cls, *args: Any, **kwargs: Any) -> Any:
        """Register a command; a decorator, with or without arguments."""
        if args:
            return cls._register(**kwargs)(*args)
        return cls._register(**kwargs)

    @classmethod
    def _register(
        cls,
        name: str | None = None,
        alias: str | None = None,
        type: str = "control",
        visible: bool = True,
        default_timeout: float = 1.0,
        help: str | None = None,
        signature: str | None = None,
        args: list[tuple[str, Callable[..., Any]]] | None = None,
        variadic: str | None = None,
    ) -> Decorator:
        def decorate(function: Command) -> Command:
            command = name or function.__name__
            text = help or (function.__doc__ or "").strip().split("\n", 1)[0]
            cls.data[command] = function
            cls.meta[command] = controller_info_t(
                alias, type, visible, default_timeout, text, signature, args, variadic
            )
            if alias:
                cls.data[alias] = function
            return function

        return decorate


def control_command(**kwargs: Any) -> Decorator:
    """Register a command that changes something."""
    return Panel._register(type="control", **kwargs)


def inspect_command(**kwargs: Any) -> Decorator:
    """Register a command that only tells something."""
    return Panel._register(type="inspect", **kwargs)


def ok(value: Any) -> dict[str, Any]:
    """Give the reply of a command that worked."""
    return {"ok": value}


def nok(value: Any) -> dict[str, Any]:
    """Give the reply of a command that did not."""
    return {"error": value}


# --- about the node ---------------------------------------------------------------------------


@inspect_command()
def report(state: Any) -> dict[str, Any]:
    """Information about the installation for bug reports."""
    return ok(state.app.bugreport())


@inspect_command(
    alias="dump_conf",
    signature="[include_defaults=False]",
    args=[("with_defaults", strtobool)],
)
def conf(state: Any, with_defaults: bool = False, **kwargs: Any) -> Any:
    """List configuration."""
    table = state.app.conf.table(with_defaults=with_defaults)
    return jsonify(table, keyfilter=_is_setting, unknown_type_filter=safe_repr)


def _is_setting(key: Any) -> bool:
    return isinstance(key, str) and not key.startswith("__")


@inspect_command()
def clock(state: Any, **kwargs: Any) -> dict[str, Any]:
    """Get current logical clock value."""
    return {"clock": state.app.clock.value}


@inspect_command(default_timeout=0.2)
def ping(state: Any, **kwargs: Any) -> dict[str, Any]:
    """Ping worker(s)."""
    return ok("pong")


@inspect_command()
def stats(state: Any, **kwargs: Any) -> Any:
    """Request worker statistics/information."""
    return state.consumer.controller.stats()


@inspect_command(visible=False)
def hello(state: Any, from_node: str, revoked: Any = None, **kwargs: Any) -> Any:
    """Request mingle sync-data."""
    if from_node == state.hostname:
        return None
    logger.info("sync with %s", from_node)
    if revoked:
        worker_state.merge_revoked(revoked)
    return {"revoked": list(worker_state.revoked), "clock": state.app.clock.forward()}


@control_command()
def shutdown(state: Any, msg: str = "Got shutdown from remote", **kwargs: Any) -> None:
    """Shutdown worker(s)."""
    logger.warning(msg)
    # Raised through the loop: who asked gets no reply, the worker stops.
    raise WorkerShutdown(EX_OK)


# --- about requests ---------------------------------------------------------------------------


@inspect_command(variadic="ids", signature="[id1 [id2 [... [idN]]]]")
def query_task(state: Any, ids: Any, **kwargs: Any) -> dict[str, Any]:
    """Query for task information by id."""
    found = {}
    for task_id in _as_list(ids):
        request = worker_state.requests.get(task_id)
        if request is not None:
            found[task_id] = [_state_of(request), request.info()]
    return found


def _state_of(request: Request) -> str:
    if request in worker_state.active_requests:
        return "active"
    if request in worker_state.scheduled_requests:
        return "scheduled"
    if request in worker_state.reserved_requests:
        return "reserved"
    return "ready"


@inspect_command(alias="dump_active")
def active(state: Any, safe: bool = False, **kwargs: Any) -> list[dict[str, Any]]:
    """List of tasks currently being executed."""
    return [request.info(safe=safe) for request in list(worker_state.active_requests)]


@inspect_command(alias="dump_reserved")
def reserved(state: Any, **kwargs: Any) -> list[dict[str, Any]]:
    """List of currently reserved tasks, not including scheduled/active."""
    waiting = worker_state.reserved_requests - worker_state.active_requests
    return [request.info() for request in waiting]


@inspect_command(alias="dump_schedule")
def scheduled(state: Any, **kwargs: Any) -> list[dict[str, Any]]:
    """List of currently scheduled ETA/countdown tasks."""
    return [
        {
            "eta": request.eta.isoformat() if request.eta else None,
            "priority": 6,
            "request": request.info(),
        }
        for request in list(worker_state.scheduled_requests)
    ]


@inspect_command(alias="dump_revoked")
def revoked(state: Any, **kwargs: Any) -> list[str]:
    """List of revoked task-ids."""
    return list(worker_state.revoked)


@inspect_command(
    alias="dump_tasks", variadic="taskinfoitems", signature="[attr1 [attr2 [... [attrN]]]]"
)
def registered(
    state: Any, taskinfoitems: Any = None, builtins: bool = False, **kwargs: Any
) -> list[str]:
    """List of registered tasks."""
    # What starts with an underscore is nobody's business.
    items = [
        item for item in (taskinfoitems or DEFAULT_TASK_INFO_ITEMS) if not str(item).startswith("_")
    ]
    tasks = state.app.tasks
    names = [name for name in sorted(tasks) if builtins or not name.startswith("celery.")]
    return [_describe_task(tasks[name], items) for name in names]


def _describe_task(task: Any, items: Iterable[str]) -> str:
    values = {item: getattr(task, item, None) for item in items}
    shown = [f"{item}={value}" for item, value in values.items() if value is not None]
    return f"{task.name} [{' '.join(shown)}]" if shown else str(task.name)


@control_command(variadic="task_id", signature="[id1 [id2 [... [idN]]]]")
def revoke(
    state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **kwargs: Any
) -> dict[str, Any]:
    """Revoke task by task id (or list of ids)."""
    ids = set(_as_list(task_id) or [])
    if terminate and (error := _check_signal(signal)):
        return nok(error)
    worker_state.revoked.update(ids)
    if terminate:
        return _terminate(state, ids, signal)
    shown = ", ".join(sorted(ids))
    logger.info("Tasks flagged as revoked: %s", shown)
    return ok(f"tasks {ids} flagged as revoked")


def _check_signal(signal: Any) -> str | None:
    """Say what is wrong with the name or number of a signal; None when nothing is."""
    try:
        if not signal or process_signals.signum(signal) in SIGMAP:
            return None
    except (AttributeError, TypeError):
        pass
    near = closest(str(signal).upper(), [*SIGNAMES, *(name[3:] for name in SIGNAMES)])
    return f"unknown signal {signal!r}" + (f"; did you mean {near!r}?" if near else "")


def _terminate(state: Any, ids: set[str], signal: Any) -> dict[str, Any]:
    signum = process_signals.signum(signal or TERM_SIGNAME)
    # A copy: terminating a task takes it out of the registry.
    requests = [worker_state.requests[id] for id in sorted(ids) if id in worker_state.requests]
    for request in requests:
        logger.info("Terminating %s (%s)", request.id, signum)
        request.terminate(state.consumer.pool, signal=signum)
    if not requests:
        return ok("terminate: tasks unknown")
    return ok("terminate: " + ", ".join(request.id for request in requests))


@control_command(
    variadic="task_id", args=[("signal", str)], signature="<signal> [id1 [id2 [... [idN]]]]"
)
def terminate(state: Any, signal: Any, task_id: Any, **kwargs: Any) -> dict[str, Any]:
    """Terminate task by task id (or list of ids)."""
    return revoke(state, task_id, terminate=True, signal=signal)


@control_command(variadic="headers", signature="[key1=value1 [key2=value2 [... [keyN=valueN]]]]")
def revoke_by_stamped_headers(
    state: Any, headers: Any, terminate: bool = False, signal: Any = None, **kwargs: Any
) -> dict[str, Any]:
    """Revoke task by header (or list of headers)."""
    if terminate and (error := _check_signal(signal)):
        return nok(error)
    if not isinstance(headers, Mapping):
        headers = dict(text.split("=", 1) for text in _as_list(headers))
    for name, values in headers.items():
        known = _as_list(worker_state.revoked_stamps.get(name) or [])
        worker_state.revoked_stamps[name] = [*known, *_as_list(values)]
    if not terminate:
        return ok(f"headers {headers} flagged as revoked, but not terminated")
    ids = {
        request.id
        for request in list(worker_state.requests.values())
        if request.is_revoked_by_stamp()
    }
    if not ids:
        return ok(f"headers {headers} were not terminated")
    _terminate(state, ids, signal)
    return ok(f"headers {headers} revoked, tasks {sorted(ids)} terminated")


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    return [] if value is None else [value]


# --- about task types -------------------------------------------------------------------------


@control_command(
    args=[("task_name", str), ("rate_limit", str)],
    signature="<task_name> <rate_limit (e.g., 5/s | 5/m | 5/h)>",
)
def rate_limit(state: Any, task_name: str, rate_limit: Any, **kwargs: Any) -> dict[str, Any]:
    """Tell worker(s) to modify the rate limit for a task by type."""
    try:
        rate(rate_limit)
    except (ValueError, TypeError, KeyError) as exc:
        return nok(f"Invalid rate limit string: {exc!r}")
    try:
        state.app.tasks[task_name].rate_limit = rate_limit
    except KeyError:
        logger.error("Rate limit attempt for unknown task %s", task_name)
        return nok("unknown task")
    state.consumer.reset_rate_limits()
    if not rate_limit:
        logger.info("Rate limits disabled for tasks of type %s", task_name)
        return ok("rate limit disabled successfully")
    logger.info("New rate limit for tasks of type %s: %s.", task_name, rate_limit)
    return ok("new rate limit set successfully")


@control_command(
    args=[("task_name", str), ("soft", float), ("hard", float)],
    signature="<task_name> <soft_secs> [hard_secs]",
)
def time_limit(
    state: Any,
    task_name: str | None = None,
    hard: float | None = None,
    soft: float | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """Tell worker(s) to modify the time limit for task by type."""
    try:
        task = state.app.tasks[task_name]
    except KeyError:
        logger.error("Change time limit attempt for unknown task %s", task_name)
        return nok("unknown task")
    task.soft_time_limit, task.time_limit = soft, hard
    logger.info("New time limits for tasks of type %s: soft=%s hard=%s", task_name, soft, hard)
    return ok("time limits set successfully")


# --- about queues and pool --------------------------------------------------------------------


@control_command(
    args=[("queue", str), ("exchange", str), ("exchange_type", str), ("routing_key", str)],
    signature="<queue> [exchange [type [routing_key]]]",
)
def add_consumer(
    state: Any,
    queue: str,
    exchange: str | None = None,
    exchange_type: str | None = None,
    routing_key: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Tell worker(s) to consume from task queue by name."""
    state.consumer.call_soon(
        state.consumer.add_task_queue,
        queue,
        exchange,
        exchange_type or "direct",
        routing_key,
        **options,
    )
    return ok(f"add consumer {queue}")


@control_command(args=[("queue", str)], signature="<queue>")
def cancel_consumer(state: Any, queue: str, **_: Any) -> dict[str, Any]:
    """Tell worker(s) to stop consuming from task queue by name."""
    state.consumer.call_soon(state.consumer.cancel_task_queue, queue)
    return ok(f"no longer consuming from {queue}")


@inspect_command()
def active_queues(state: Any) -> list[dict[str, Any]]:
    """List the task queues a worker is currently consuming from."""
    if state.consumer.task_consumer:
        return [dict(queue.as_dict(recurse=True)) for queue in state.consumer.task_consumer.queues]
    return []


@control_command(args=[("n", int)], signature="[N=1]")
def pool_grow(state: Any, n: int = 1, **kwargs: Any) -> dict[str, Any]:
    """Grow pool by n processes/threads."""
    return _resize(state, "grow", n)


@control_command(args=[("n", int)], signature="[N=1]")
def pool_shrink(state: Any, n: int = 1, **kwargs: Any) -> dict[str, Any]:
    """Shrink pool by n processes/threads."""
    return _resize(state, "shrink", n)


def _resize(state: Any, verb: str, n: Any) -> dict[str, Any]:
    consumer = state.consumer
    if consumer.controller.autoscaler:
        return nok(SIZE_IS_AUTOMATIC.format(command=f"pool_{verb}"))
    if not isinstance(n, int) or n < 1:
        return nok(f"pool_{verb} takes a whole number of processes from 1 up, not {n!r}")
    getattr(consumer.pool, verb)(n)
    consumer.resize_prefetch(consumer.pool.num_processes)
    return ok(f"pool will {verb}")


@control_command(args=[("max", int), ("min", int)], signature="[max [min]]")
def autoscale(
    state: Any, max: int | None = None, min: int | None = None, **kwargs: Any
) -> dict[str, Any]:
    """Modify autoscale settings."""
    autoscaler = state.consumer.controller.autoscaler
    if not autoscaler:
        raise ValueError("Autoscale not enabled")
    most, least = autoscaler.update(max, min)
    state.consumer.resize_prefetch(most)
    return ok(f"autoscale now max={most} min={least}")


@control_command()
def pool_restart(
    state: Any, modules: Any = None, reload: bool = False, reloader: Any = None, **kwargs: Any
) -> dict[str, Any]:
    """Restart execution pool."""
    if not state.app.conf.worker_pool_restarts:
        raise ValueError("Pool restarts not enabled")
    state.consumer.controller.reload(modules, reload, reloader=reloader)
    return ok("reload started")
