"""This file asks and commands running workers: `app.control`, `app.control.inspect()`.

A command is broadcast to every worker's mailbox (kombu's pidbox); `worker/control.py` answers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from billiard.common import TERM_SIGNAME
from kombu.matcher import match
from kombu.pidbox import Mailbox
from kombu.utils.compat import register_after_fork
from kombu.utils.functional import lazy

from taskq.exceptions import DuplicateNodenameWarning
from taskq.utils.text import pluralize

if TYPE_CHECKING:
    from taskq.app.base import App

__all__ = ("Control", "Inspect", "flatten_reply")

DUPLICATE_NODES = (
    "Received multiple replies from node {0}: {1}.\n"
    "Please make sure you give each node a unique nodename using\n"
    "the taskq worker `-n` option."
)

Destination = Sequence[str] | None


def flatten_reply(reply: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Make one mapping, node -> reply, of the replies; warns when a node name replied twice."""
    nodes: dict[str, Any] = {}
    seen: set[str] = set()
    twice: set[str] = set()
    for item in reply:
        twice.update(seen & item.keys())
        seen.update(item)
        nodes.update(item)
    if twice:
        warnings.warn(
            DUPLICATE_NODES.format(pluralize(len(twice), "name"), ", ".join(sorted(twice))),
            DuplicateNodenameWarning,
            stacklevel=2,
        )
    return nodes


def _checked(destination: Any) -> Any:
    if destination is not None and not isinstance(destination, (list, tuple)):
        raise ValueError(
            f"destination must be a list of node names, not {type(destination).__name__}: "
            f"{destination!r}"
        )
    return destination


class Inspect:
    """Questions to workers: `app.control.inspect().active()`.

    Every method gives a mapping node -> reply; None when no node replied within `timeout` seconds.
    """

    app: Any = None

    def __init__(
        self,
        destination: Any = None,
        timeout: float = 1.0,
        callback: Callable[[Any], Any] | None = None,
        connection: Any = None,
        app: Any = None,
        limit: int | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> None:
        """Ask all nodes, those in `destination`, or those that match `pattern` (glob or pcre)."""
        self.app = app or self.app
        self.destination = [destination] if isinstance(destination, str) else destination
        self.timeout = timeout
        self.callback = callback
        self.connection = connection
        self.limit = limit
        self.pattern = pattern
        self.matcher = matcher

    def _request(self, command: str, **arguments: Any) -> Any:
        replies = self.app.control.broadcast(
            command,
            arguments=arguments,
            destination=self.destination,
            callback=self.callback,
            connection=self.connection,
            limit=self.limit,
            timeout=self.timeout,
            reply=True,
            pattern=self.pattern,
            matcher=self.matcher,
        )
        if not replies:
            return None
        nodes = flatten_reply(replies)
        if self.pattern:
            pattern, matcher = self.pattern, self.matcher or "glob"
            return {node: reply for node, reply in nodes.items() if match(node, pattern, matcher)}
        return nodes

    def report(self) -> Any:
        """Give each node's bug report."""
        return self._request("report")

    def clock(self) -> Any:
        """Give each node's logical clock."""
        return self._request("clock")

    def active(self, safe: Any = None) -> Any:
        """Give the running tasks; safe=True shows the texts of their arguments."""
        return self._request("active", safe=safe)

    def scheduled(self, safe: Any = None) -> Any:
        """Give the tasks that wait for an ETA."""
        return self._request("scheduled")

    def reserved(self, safe: Any = None) -> Any:
        """Give the tasks that were received and do not run yet."""
        return self._request("reserved")

    def stats(self) -> Any:
        """Give each node's statistics."""
        return self._request("stats")

    def revoked(self) -> Any:
        """Give the revoked ids."""
        return self._request("revoked")

    def registered(self, *taskinfoitems: str) -> Any:
        """Give the registered tasks, with these attributes."""
        return self._request("registered", taskinfoitems=taskinfoitems)

    registered_tasks = registered

    def ping(self, destination: Destination = None) -> Any:
        """Give {'ok': 'pong'} for each node."""
        if destination:
            self.destination = destination
        return self._request("ping")

    def active_queues(self) -> Any:
        """Give the queues each node consumes from."""
        return self._request("active_queues")

    def query_task(self, *ids: Any) -> Any:
        """Give state and facts of these tasks."""
        if len(ids) == 1 and isinstance(ids[0], (list, tuple)):
            ids = tuple(ids[0])
        return self._request("query_task", ids=ids)

    def conf(self, with_defaults: bool = False) -> Any:
        """Give each node's settings."""
        return self._request("conf", with_defaults=with_defaults)

    def hello(self, from_node: str, revoked: Any = None) -> Any:
        """Exchange revoked ids and clocks, as workers do."""
        return self._request("hello", from_node=from_node, revoked=revoked)

    def memsample(self) -> Any:
        """Have each node measure its memory."""
        return self._request("memsample")

    def memdump(self, samples: int = 10) -> Any:
        """Give the measured memory."""
        return self._request("memdump", samples=samples)

    def objgraph(self, type: str = "Request", n: int = 200, max_depth: int = 10) -> Any:
        """Have each node draw its objects of this type."""
        return self._request("objgraph", num=n, max_depth=max_depth, type=type)


class Control:
    """Commands for workers: `app.control.revoke(id)`.

    All take `destination` (list of node names; all nodes by default) and broadcast's options,
    among them reply=True to wait for the nodes' replies.
    """

    Mailbox = Mailbox

    def __init__(self, app: App | None = None) -> None:
        """Name the mailboxes by the application's settings."""
        self.app = cast(Any, app)
        conf = self.app.conf
        self.mailbox = self.Mailbox(
            conf.control_exchange,
            type="fanout",
            accept=conf.accept_content,
            serializer=conf.task_serializer,
            producer_pool=lazy(lambda: self.app.amqp.producer_pool),
            queue_ttl=conf.control_queue_ttl,
            queue_expires=conf.control_queue_expires,
            queue_exclusive=conf.control_queue_exclusive,
            queue_durable=conf.control_queue_durable,
            reply_queue_ttl=conf.control_queue_ttl,
            reply_queue_expires=conf.control_queue_expires,
            clock=self.app.clock,
        )
        register_after_fork(self, _forget_identity)

    @cached_property
    def inspect(self) -> type[Inspect]:
        """The class of questions, for this application."""
        cls: type[Inspect] = self.app.subclass_with_self(Inspect, reverse="control.inspect")
        return cls

    def broadcast(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        destination: Destination = None,
        connection: Any = None,
        reply: bool = False,
        timeout: float = 1.0,
        limit: int | None = None,
        callback: Callable[[Any], Any] | None = None,
        channel: Any = None,
        pattern: str | None = None,
        matcher: str | None = None,
        **extra_kwargs: Any,
    ) -> Any:
        """Send a command; with reply=True give the list of replies, [{node: value}, ...].

        `timeout` is in seconds, `limit` a number of replies after which not to wait.
        """
        _checked(destination)
        with self.app.connection_or_acquire(connection) as conn:
            return self.mailbox(conn)._broadcast(
                command,
                dict(arguments or {}, **extra_kwargs),
                destination=destination,
                reply=reply,
                timeout=timeout,
                limit=limit,
                callback=callback,
                channel=channel,
                pattern=pattern,
                matcher=matcher,
            )

    def purge(self, connection: Any = None) -> int:
        """Throw away all waiting messages of the task queues; gives their number."""
        with self.app.connection_or_acquire(connection) as conn:
            return int(self.app.amqp.TaskConsumer(conn).purge())

    discard_all = purge

    def election(self, id: str, topic: str, action: Any = None, connection: Any = None) -> None:
        """Have the workers agree on who does something."""
        arguments = {"id": id, "topic": topic, "action": action}
        self.broadcast("election", arguments=arguments, connection=connection)

    def revoke(
        self,
        task_id: Any,
        destination: Destination = None,
        terminate: bool = False,
        signal: Any = TERM_SIGNAME,
        **kwargs: Any,
    ) -> Any:
        """Have workers skip a task (id, or list of ids); with terminate=True also end it."""
        arguments = {"task_id": task_id, "terminate": terminate, "signal": signal}
        return self.broadcast("revoke", arguments, destination, **kwargs)

    def revoke_by_stamped_headers(
        self,
        headers: Any,
        destination: Destination = None,
        terminate: bool = False,
        signal: Any = TERM_SIGNAME,
        **kwargs: Any,
    ) -> Any:
        """Have workers skip all tasks with these stamps."""
        arguments = {"headers": headers, "terminate": terminate, "signal": signal}
        return self.broadcast("revoke_by_stamped_headers", arguments, destination, **kwargs)

    def terminate(
        self,
        task_id: Any,
        destination: Destination = None,
        signal: Any = TERM_SIGNAME,
        **kwargs: Any,
    ) -> Any:
        """Skip a task and end it where it runs."""
        return self.revoke(task_id, destination, terminate=True, signal=signal, **kwargs)

    def ping(self, destination: Destination = None, timeout: float = 1.0, **kwargs: Any) -> Any:
        """Ask who is there; gives [{node: {'ok': 'pong'}}, ...]."""
        return self.broadcast("ping", {}, destination, reply=True, timeout=timeout, **kwargs)

    def rate_limit(
        self, task_name: str, rate_limit: Any, destination: Destination = None, **kwargs: Any
    ) -> Any:
        """Change a task type's rate limit (0 or None: none)."""
        arguments = {"task_name": task_name, "rate_limit": rate_limit}
        return self.broadcast("rate_limit", arguments, destination, **kwargs)

    def add_consumer(
        self,
        queue: str,
        exchange: str | None = None,
        exchange_type: str = "direct",
        routing_key: str | None = None,
        options: Mapping[str, Any] | None = None,
        destination: Destination = None,
        **kwargs: Any,
    ) -> Any:
        """Have workers consume from one more queue."""
        arguments = {
            "queue": queue,
            "exchange": exchange,
            "exchange_type": exchange_type,
            "routing_key": routing_key,
            **(options or {}),
        }
        return self.broadcast("add_consumer", arguments, destination, **kwargs)

    def cancel_consumer(self, queue: str, destination: Destination = None, **kwargs: Any) -> Any:
        """Have workers consume from a queue no more."""
        return self.broadcast("cancel_consumer", {"queue": queue}, destination, **kwargs)

    def time_limit(
        self,
        task_name: str,
        soft: float | None = None,
        hard: float | None = None,
        destination: Destination = None,
        **kwargs: Any,
    ) -> Any:
        """Change a task type's time limits (seconds)."""
        arguments = {"task_name": task_name, "hard": hard, "soft": soft}
        return self.broadcast("time_limit", arguments, destination, **kwargs)

    def enable_events(self, destination: Destination = None, **kwargs: Any) -> Any:
        """Have workers send task events."""
        return self.broadcast("enable_events", {}, destination, **kwargs)

    def disable_events(self, destination: Destination = None, **kwargs: Any) -> Any:
        """Have workers send no task events."""
        return self.broadcast("disable_events", {}, destination, **kwargs)

    def pool_grow(self, n: int = 1, destination: Destination = None, **kwargs: Any) -> Any:
        """Have pools grow by n."""
        return self.broadcast("pool_grow", {"n": n}, destination, **kwargs)

    def pool_shrink(self, n: int = 1, destination: Destination = None, **kwargs: Any) -> Any:
        """Have pools shrink by n."""
        return self.broadcast("pool_shrink", {"n": n}, destination, **kwargs)

    def autoscale(self, max: int, min: int, destination: Destination = None, **kwargs: Any) -> Any:
        """Change the bounds of autoscaling."""
        return self.broadcast("autoscale", {"max": max, "min": min}, destination, **kwargs)

    def shutdown(self, destination: Destination = None, **kwargs: Any) -> Any:
        """Stop workers after what they are running; they do not reply."""
        return self.broadcast("shutdown", {}, destination, **kwargs)

    def pool_restart(
        self,
        modules: Any = None,
        reload: bool = False,
        reloader: Any = None,
        destination: Destination = None,
        **kwargs: Any,
    ) -> Any:
        """Replace what runs the tasks, importing (or reloading) modules first."""
        arguments = {"modules": modules, "reload": reload, "reloader": reloader}
        return self.broadcast("pool_restart", arguments, destination, **kwargs)

    def heartbeat(self, destination: Destination = None, **kwargs: Any) -> Any:
        """Have workers send a heartbeat event now."""
        return self.broadcast("heartbeat", {}, destination, **kwargs)


def _forget_identity(control: Control) -> None:
    # A child must not read the replies to its parent, nor speak on its connections.
    for name in ("producer_pool", "reply_queue"):
        control.mailbox.__dict__.pop(name, None)
