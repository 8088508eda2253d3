"""What is known about one task: its stored document and the tree of the tasks it has called.

The half of AsyncResult (result.py) that looks and never waits. A document that says how the task
ended is kept; any other is asked for again each time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from vine import promise

from taskq import states
from taskq._state import app_or_default
from taskq.exceptions import IncompleteStream
from taskq.joining import ResultBase
from taskq.utils.graph import DependencyGraph, GraphFormatter
from taskq.utils.time import isoparse

if TYPE_CHECKING:
    from taskq.app.base import App

__all__ = ("Meta", "ResultDocument", "result_from_tuple")

Meta = Mapping[str, Any]


class ResultDocument(ResultBase):
    """State, value and relatives of one task, as the backend tells them."""

    app: Any = None
    #: Id of the task this result belongs to.
    id: str = None  # type: ignore[assignment]  # every constructor sets it
    backend: Any = None

    _cache: dict[str, Any] | None = None
    _ignored: bool = False
    _on_ready: promise | None = None

    @property
    def state(self) -> str:
        """PENDING, STARTED, RETRY, SUCCESS, FAILURE, REVOKED or a state of the task's own."""
        return cast(str, self._get_task_meta()["status"])

    @property
    def status(self) -> str:
        """Old name of `state`."""
        return self.state

    @property
    def result(self) -> Any:
        """The return value, the exception when the task failed, or what update_state() stored."""
        return self._get_task_meta()["result"]

    info = result

    @property
    def traceback(self) -> str | None:
        """Text of the traceback of a failed task."""
        return cast("str | None", self._get_task_meta().get("traceback"))

    @property
    def children(self) -> list[Any] | None:
        """Results of the tasks this task has called, once it has ended."""
        children = self._get_task_meta().get("children")
        if children and self._cache is None:
            return [result_from_tuple(child, self.app) for child in children]
        return children

    @property
    def date_done(self) -> datetime | None:
        """When the task ended, with its time zone; None while it has not."""
        date_done = self._get_task_meta().get("date_done")
        if date_done and not isinstance(date_done, datetime):
            return isoparse(date_done)
        return cast("datetime | None", date_done)

    def ready(self) -> bool:
        """Has the task ended, well or not?"""
        return self.state in states.READY_STATES

    def successful(self) -> bool:
        """Has the task ended well?"""
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        """Has the task raised an exception?"""
        return self.state == states.FAILURE

    def exists(self) -> bool:
        """Does the backend hold anything about this task?"""
        return bool(self.backend.task_result_exists(self.id))

    @property
    def ignored(self) -> bool:
        """True when the task was called with ignore_result: get() then gives None at once."""
        return self._ignored

    @ignored.setter
    def ignored(self, value: bool) -> None:
        self._ignored = value

    # What follows is stored only with result_extended.

    @property
    def name(self) -> Any:
        """Name of the task (needs result_extended)."""
        return self._get_task_meta().get("name")

    @property
    def args(self) -> Any:
        """Positional arguments of the call (needs result_extended)."""
        return self._get_task_meta().get("args")

    @property
    def kwargs(self) -> Any:
        """Keyword arguments of the call (needs result_extended)."""
        return self._get_task_meta().get("kwargs")

    @property
    def worker(self) -> Any:
        """Node name of the worker that ran the task (needs result_extended)."""
        return self._get_task_meta().get("worker")

    @property
    def retries(self) -> Any:
        """How often the task was retried (needs result_extended)."""
        return self._get_task_meta().get("retries")

    @property
    def queue(self) -> Any:
        """Routing key the message came with (needs result_extended)."""
        return self._get_task_meta().get("queue")

    def _get_task_meta(self) -> Meta:
        if self._cache is None:
            return self._maybe_set_cache(self.backend.get_task_meta(self.id))
        return self._cache

    def _maybe_set_cache(self, meta: Meta) -> Meta:
        """Keep `meta` if it says how the task ended; gives what is known now."""
        if not meta or meta["status"] not in states.READY_STATES:
            return meta
        # A copy: the backend's own cache may hold the same document.
        cache = self._cache = dict(self.backend.meta_from_decoded(meta))
        children = cache.get("children")
        if children:
            cache["children"] = [result_from_tuple(child, self.app) for child in children]
        if self._on_ready is not None:
            self._on_ready(self)
        return cache

    # -- the tasks called by this task

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[Any, Any]]:
        """Walk the tree of children, level by level, as (parent, result).

        Raises IncompleteStream at the first one that is not ready, unless `intermediate`.
        """
        waiting: deque[tuple[Any, Any]] = deque([(None, self)])
        while waiting:
            parent, node = waiting.popleft()
            yield parent, node
            if node.ready():
                waiting.extend((node, child) for child in node.children or ())
            elif not intermediate:
                raise IncompleteStream()

    def collect(self, intermediate: bool = False, **kwargs: Any) -> Iterator[tuple[Any, Any]]:
        """Walk the tree of children as (result, value); `kwargs` go to each get()."""
        for _, node in self.iterdeps(intermediate=intermediate):
            yield node, node.get(**kwargs)

    def get_leaf(self) -> Any:
        """The value of the last result of the tree of children."""
        value = None
        for _, node in self.iterdeps():
            value = node.get()
        return value

    def build_graph(self, intermediate: bool = False, formatter: Any = None) -> DependencyGraph:
        """The tree of children as a graph that can be drawn with to_dot()."""
        graph = DependencyGraph(
            formatter=formatter or GraphFormatter(root=self.id, shape="oval"),
        )
        for parent, node in self.iterdeps(intermediate=intermediate):
            graph.add_arc(node)
            if parent is not None:
                graph.add_edge(parent, node)
        return graph

    @property
    def graph(self) -> DependencyGraph:
        """`build_graph()`, kept once all of it is ready."""
        graph = self.__dict__.get("_graph")
        if graph is None:
            graph = self.__dict__["_graph"] = self.build_graph()
        return cast(DependencyGraph, graph)


def result_from_tuple(r: Any, app: App | None = None) -> Any:
    """Rebuild the AsyncResult or GroupResult that as_tuple() took apart.

    `r` is [[id, parent], members] where parent is None or such a list again, and members is None
    for one task and a list of such lists for a group.
    """
    if isinstance(r, ResultBase):
        return r
    app = app_or_default(app)
    res, nodes = r
    id, parent = res if isinstance(res, (list, tuple)) else (res, None)
    if parent:
        parent = result_from_tuple(parent, app)
    if nodes is not None:
        return app.GroupResult(id, [result_from_tuple(n, app) for n in nodes], parent=parent)
    return app.AsyncResult(id, parent=parent)
