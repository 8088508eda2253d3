"""This file decides where a call goes: the routers of `task_routes`, and queue names made queues.

Between steps 2 and 3 of the journey. The first router that has an answer wins; its answer is
expanded with the settings of the queue it names, and the options of the call win over both.
"""

from __future__ import annotations

import fnmatch
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kombu import Queue

from taskq.app.queues import check_queue_name
from taskq.exceptions import ImproperlyConfigured, QueueNotFound
from taskq.utils.imports import symbol_by_name
from taskq.utils.text import closest

if TYPE_CHECKING:
    from taskq.app.queues import Queues

__all__ = ("MapRoute", "Router", "expand_router_string", "prepare")

#: Stands for "nothing given" where None is a value.
MISSING = object()


class MapRoute:
    """A router made of a mapping, or of pairs: task name, glob or regular expression -> route.

    Exact names are looked up first; then patterns are tried in order. A glob is a name with `*`
    and matches whole names; a compiled expression is matched from the start of the name.
    """

    def __init__(self, map: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> None:
        self.map: dict[str, Any] = {}
        self.patterns: OrderedDict[re.Pattern[str], Any] = OrderedDict()
        for name, route in map.items() if isinstance(map, Mapping) else _pairs(map):
            if isinstance(name, re.Pattern):
                self.patterns[name] = route
            elif isinstance(name, str) and "*" in name:
                self.patterns[re.compile(fnmatch.translate(name))] = route
            elif not isinstance(name, str):
                raise ImproperlyConfigured(
                    "task_routes: expected the name of a task, a pattern or a compiled regular "
                    f"expression, got {name!r:.80}"
                )
            else:
                self.map[name] = route

    def __call__(self, name: str, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        route = self.map.get(name, MISSING)
        if route is not MISSING:
            return _as_options(name, route)
        for pattern, route in self.patterns.items():
            if pattern.match(name):
                return _as_options(name, route)
        return None


class Router:
    """Answers with the message options of a call: its queue, exchange, routing key, and the like.

    Arguments:
        routes: routers as `prepare` returns them.
        queues: the queues of the application.
        create_missing: kept for callers; the queues know whether unknown names are created.
        app: whose default queue takes calls that no router has an answer for.
    """

    def __init__(
        self,
        routes: Sequence[Any] | None = None,
        queues: Queues | dict[str, Queue] | None = None,
        create_missing: bool = False,
        app: Any = None,
    ) -> None:
        self.app = app
        self.queues: Any = {} if queues is None else queues
        self.routes: Sequence[Any] = [] if routes is None else routes
        self.create_missing = create_missing

    def route(
        self,
        options: Mapping[str, Any],
        name: str,
        args: Any = (),
        kwargs: Any = None,
        task_type: Any = None,
    ) -> dict[str, Any]:
        """The options of the call `name(*args, **kwargs)` with its route and queue filled in."""
        queue = options.get("queue")
        merged = {**options}
        if queue is not None:
            merged["queue"] = self._queue(queue)
        else:
            merged.pop("queue", None)
        if self.routes:
            route = self.lookup_route(name, args, kwargs, merged, task_type)
            if route:
                return _merged(self.expand_destination(route), merged)
        if queue is None:
            merged["queue"] = self._queue(self.app.conf.task_default_queue)
        return merged

    def expand_destination(self, route: str | Mapping[str, Any]) -> dict[str, Any]:
        """A route as message options in which the name of the queue has become the queue."""
        if isinstance(route, str):
            return {"queue": self._queue(route)}
        if not isinstance(route, Mapping):
            raise TypeError(
                "a router must return the name of a queue, a mapping of message options, or None, "
                f"not {route!r:.80} (setting task_routes)"
            )
        options = {**route}
        queue = options.pop("queue", None)
        if queue is not None:
            options["queue"] = self._queue(queue)
        return options

    def lookup_route(
        self,
        name: str,
        args: Any = None,
        kwargs: Any = None,
        options: Any = None,
        task_type: Any = None,
    ) -> Any:
        """What the first router with an answer says, or None."""
        for router in self.routes:
            route = self.query_router(router, name, args, kwargs, options, task_type)
            if route is not None:
                return route
        return None

    def query_router(
        self, router: Any, task: str, args: Any, kwargs: Any, options: Any, task_type: Any
    ) -> Any:
        """The answer of one router: an object with `route_for_task`, or any callable."""
        router = expand_router_string(router)
        if hasattr(router, "route_for_task"):
            return router.route_for_task(task, args, kwargs)
        return router(task, args, kwargs, options, task=task_type)

    def _queue(self, queue: Any) -> Queue:
        if isinstance(queue, Queue):
            return queue
        try:
            return self.queues[queue]  # type: ignore[no-any-return]  # a dict of queues
        except KeyError:
            raise QueueNotFound(_not_found(queue, self.queues)) from None
        except TypeError:
            # What cannot be hashed is the name of nothing.
            check_queue_name(queue)
            raise


def expand_router_string(router: Any) -> Any:
    """The router an import path names; a class of routers is made an instance."""
    if isinstance(router, str):
        router = _import(router)
    if isinstance(router, type) and hasattr(router, "route_for_task"):
        return router()
    return router


def _import(path: str) -> Any:
    try:
        return symbol_by_name(path)
    except (ImportError, AttributeError, ValueError) as exc:
        hint = "; (pattern, route) pairs go into a list" if "*" in path else ""
        said = f"task_routes names a router that cannot be imported, {path!r}: {exc}{hint}"
        # Of the class that the import raises: callers may look for it.
        for kind in (ModuleNotFoundError, ImportError, AttributeError):
            if isinstance(exc, kind):
                raise kind(said) from exc
        raise ValueError(said) from exc


def prepare(routes: Any) -> Sequence[Any]:
    """The value of `task_routes` as a list of routers.

    It may be a mapping, pairs of (pattern, route), a callable, an import path, an object with
    `route_for_task`, or a list of these.
    """
    if routes is None:
        return ()
    if not isinstance(routes, (list, tuple)):
        return [_as_router(routes)]
    if routes and all(_is_pair(item) for item in routes):
        return [MapRoute(routes)]
    return [_as_router(item) for item in routes]


def _as_router(route: Any) -> Any:
    if isinstance(route, (Mapping, list, tuple)):
        return MapRoute(route)
    router = expand_router_string(route)
    if not callable(router) and not hasattr(router, "route_for_task"):
        raise ImproperlyConfigured(
            "task_routes: expected a mapping, (pattern, route) pairs, a callable, an import path "
            f"or an object with route_for_task(), got {route!r:.80}"
        )
    return router


def _pairs(items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    for item in items:
        if not isinstance(item, (list, tuple)) or len(item) != 2:
            raise ImproperlyConfigured(
                f"task_routes: expected a pair of (pattern, route), got {item!r:.80}"
            )
        yield item[0], item[1]


def _is_pair(item: Any) -> bool:
    return (
        isinstance(item, (list, tuple))
        and len(item) == 2
        and isinstance(item[0], (str, re.Pattern))
        and isinstance(item[1], (str, Mapping))
    )


def _as_options(name: str, route: Any) -> dict[str, Any]:
    if isinstance(route, str):
        return {"queue": route}
    try:
        return dict(route)
    except (TypeError, ValueError):
        raise TypeError(
            f"the route of {name!r} in task_routes must be the name of a queue or a mapping of "
            f"message options, not {route!r:.80}"
        ) from None


def _merged(route: dict[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    # None means "not said": it must not hide what the route says.
    route.update((key, value) for key, value in options.items() if value is not None)
    return route


def _not_found(name: Any, queues: Iterable[str]) -> str:
    near = closest(str(name), queues)
    hint = f"; did you mean {near!r}?" if near is not None else ""
    return f"Queue {name!r} missing from task_queues{hint}"
