"""Reading outcomes: the client's end of the journey, from a task id to a value or an exception.

`AsyncResult` reads one task, `GroupResult` and `ResultSet` (result_sets.py) read many,
`EagerResult` holds what `Task.apply()` has already computed. None of them knows how an outcome
is stored: they ask `app.backend`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, TypeVar, cast

from vine import Thenable, promise

from taskq import exceptions, states
from taskq._state import app_or_default
from taskq.joining import (
    E_WOULDBLOCK,
    ReadyHook,
    ResultBase,
    allow_join_result,
    assert_will_not_block,
    denied_join_result,
)
from taskq.result_document import Meta, ResultDocument, result_from_tuple
from taskq.result_sets import GroupResult, ResultSet
from taskq.utils.imports import symbol_by_name

if TYPE_CHECKING:
    from taskq.app.base import App
    from taskq.backends.abstract import Backend

__all__ = (
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "ResultBase",
    "ResultSet",
    "result_from_tuple",
    # not in the reference's list, but imported from here everywhere
    "E_WOULDBLOCK",
    "allow_join_result",
    "assert_will_not_block",
    "denied_join_result",
)

R = TypeVar("R")

E_NO_TBLIB = (
    "task_remote_tracebacks needs the package tblib, which is not installed: "
    'pip install "taskq[tblib]", or turn the setting off.'
)


class AsyncResult(ResultDocument, Generic[R]):
    """The outcome of one task, asked for by its id.

    `backend` and `app` default to those of the current app; `parent` is the result of the task
    before this one in a chain. Once a ready state has been seen it is kept and never asked again.
    """

    #: Raised by get() when the timeout has passed.
    TimeoutError: ClassVar[type[exceptions.TimeoutError]] = exceptions.TimeoutError

    def __init__(
        self,
        id: str,
        backend: Backend | None = None,
        task_name: str | None = None,
        app: App | None = None,
        parent: Any = None,
    ) -> None:
        if id is None:
            raise ValueError(f"AsyncResult requires valid id, not {type(id)}")
        self.app = app = app or self.app or app_or_default()
        self.id = id
        self.backend = backend or app.backend
        self.parent = parent

    # -- waiting

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], Any] | None = None,
        on_message: Callable[[Any], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        disable_sync_subtasks: bool = True,
        EXCEPTION_STATES: frozenset[str] = states.EXCEPTION_STATES,
        PROPAGATE_STATES: frozenset[str] = states.PROPAGATE_STATES,
    ) -> R:
        """Wait until the task has ended; give its return value or raise its exception.

        timeout: seconds to wait, None for ever; TimeoutError when they have passed.
        propagate: False gives the exception as the value instead of raising it.
        interval: seconds between two looks, for backends that have to look.
        follow_parents: raise at once when an earlier step of the chain has failed.
        callback: called with (task id, value) when the value is there.
        on_message: called with every state report; only backends that push results have them.
        on_interval: called while waiting, once per interval.
        disable_sync_subtasks: False allows waiting inside a task.
        """
        if self._ignored:
            return cast(R, None)
        if disable_sync_subtasks:
            assert_will_not_block()
        if follow_parents and propagate and self.parent is not None:
            self._maybe_reraise_parent_error()
            on_interval = self._watch_parents_too(on_interval)
        if self._cache is not None:
            return cast(R, self.maybe_throw(propagate=propagate, callback=callback))
        # Weak: one who gave up waiting must not be kept for ever.
        self.backend.add_pending_result(self, weak=True)
        return cast(
            R,
            self.backend.wait_for_pending(
                self,
                timeout=timeout,
                interval=interval,
                on_interval=on_interval,
                no_ack=no_ack,
                propagate=propagate,
                callback=callback,
                on_message=on_message,
            ),
        )

    wait = get  # deprecated name

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        follow_parents: bool = True,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """As `get`, for asyncio code: its loop goes on meanwhile. `await result` is `aget()`."""
        if self._ignored:
            return cast(R, None)
        if disable_sync_subtasks:
            assert_will_not_block()
        if self._cache is None:
            # By name: only who awaits something has asyncio loaded.
            wait_for_end = symbol_by_name("taskq.backends.awaiting:wait_for_end")
            if not await wait_for_end(self, timeout, parents=follow_parents and propagate):
                raise exceptions.TimeoutError("The operation timed out.")
        return cast(R, self.maybe_throw(propagate=propagate))

    def __await__(self) -> Generator[Any, None, R]:
        return self.aget().__await__()

    def _watch_parents_too(self, on_interval: Callable[[], Any] | None) -> Callable[[], Any]:
        def look_around() -> None:
            self._maybe_reraise_parent_error()
            if on_interval is not None:
                on_interval()

        return look_around

    def _maybe_reraise_parent_error(self) -> None:
        for node in reversed(list(self._parents())):
            node.maybe_throw()

    def _parents(self) -> Iterator[Any]:
        node = self.parent
        while node is not None:
            yield node
            node = node.parent

    def then(
        self, callback: ReadyHook, on_error: ReadyHook | None = None, weak: bool = False
    ) -> Any:
        """Call `callback(result)` once the outcome has been seen; gives a vine promise."""
        if self._cache is None:
            self.backend.add_pending_result(self, weak=weak)
        return self.on_ready.then(callback, on_error)

    @property
    def on_ready(self) -> promise:
        """Fulfilled once the outcome has been seen. Made on first use: most results need none."""
        if self._on_ready is None:
            self._on_ready = promise()
            if self._cache is not None:
                self._on_ready(self)
        return self._on_ready

    def maybe_throw(
        self, propagate: bool = True, callback: Callable[[str, Any], Any] | None = None
    ) -> Any:
        """Raise the task's exception if it failed or was revoked, else give the current result."""
        meta = self._get_task_meta()
        value = meta["result"]
        if propagate and meta["status"] in states.PROPAGATE_STATES:
            self.throw(_as_exception(value, self), self._to_remote_traceback(meta, value))
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw  # deprecated name

    def throw(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise the given exception here, and tell who waits through then(on_error=)."""
        self.on_ready.throw(*args, **kwargs)
        raise args[0]

    def _to_remote_traceback(self, meta: Meta, value: Any) -> TracebackType | None:
        text = meta.get("traceback")
        if not text or not self.app.conf.task_remote_tracebacks:
            return None
        try:
            from tblib import Traceback, TracebackParseError
        except ImportError:
            raise exceptions.ImproperlyConfigured(E_NO_TBLIB) from value
        try:
            return Traceback.from_string(text).as_traceback()
        except TracebackParseError:
            return None

    # -- ending

    def forget(self) -> None:
        """Remove the outcome of this task, and of its parents, from the backend."""
        self._cache = None
        if self.parent:
            self.parent.forget()
        self.backend.forget(self.id)

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Tell all workers not to run this task.

        terminate: also send `signal` to the process that runs it.
        wait, timeout: wait for the workers' answers, at most `timeout` seconds.
        """
        self.app.control.revoke(
            self.id,
            connection=connection,
            terminate=terminate,
            signal=signal,
            reply=wait,
            timeout=timeout,
        )

    def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any],
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Tell all workers not to run any task that carries these stamps."""
        self.app.control.revoke_by_stamped_headers(
            headers,
            connection=connection,
            terminate=terminate,
            signal=signal,
            reply=wait,
            timeout=timeout,
        )

    # -- as a value

    def as_tuple(self) -> tuple[Any, Any]:
        """((id, parent), None): what result_from_tuple() reads."""
        parent = self.parent
        return (self.id, parent and parent.as_tuple()), None

    def as_list(self) -> list[str]:
        """Ids of this task and of the chain before it."""
        return [self.id, *(self.parent.as_list() if self.parent else ())]

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __hash__(self) -> int:
        return hash(self.id)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return bool(other.id == self.id)
        if isinstance(other, str):
            return other == self.id
        return NotImplemented

    def __copy__(self) -> AsyncResult[R]:
        return self.__class__(*self.__reduce_args__())

    def __reduce__(self) -> Any:
        return self.__class__, self.__reduce_args__()

    def __reduce_args__(self) -> tuple[Any, ...]:
        return self.id, self.backend, None, None, self.parent

    def __del__(self) -> None:
        # Backends that push results hold a subscription for us; the others have nothing to drop.
        backend = self.backend
        if backend is not None and backend.is_async:
            backend.remove_pending_result(self)

    @property
    def task_id(self) -> str:
        """Another name of `id`."""
        return self.id

    @task_id.setter
    def task_id(self, id: str) -> None:
        self.id = id

    @property
    def supports_native_join(self) -> bool:
        """Can the backend read many results at once?"""
        return bool(self.backend.supports_native_join)


Thenable.register(AsyncResult)


class EagerResult(AsyncResult[R]):
    """What Task.apply() has computed in this process: ready from the start, stored nowhere."""

    def __init__(
        self,
        id: str,
        ret_value: Any,
        state: str,
        traceback: str | None = None,
        name: str | None = None,
    ) -> None:
        self.id = id
        self._cache = {
            "task_id": id,
            "result": ret_value,
            "status": state,
            "traceback": traceback,
            "name": name,
        }

    def get(  # type: ignore[override]  # Celery's own, shorter list of parameters
        self,
        timeout: float | None = None,
        propagate: bool = True,
        disable_sync_subtasks: bool = True,
        **kwargs: Any,
    ) -> R:
        """Give the value, or raise the exception unless `propagate` is False. Never waits."""
        if disable_sync_subtasks:
            assert_will_not_block()
        if self.state in states.PROPAGATE_STATES and propagate:
            raise _as_exception(self.result, self)
        has_ended = self.state in states.READY_STATES
        return cast(R, self.result if has_ended else None)

    wait = get  # type: ignore[assignment]  # as get

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        follow_parents: bool = True,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """As `get`: nothing to wait for."""
        return self.get(propagate=propagate, disable_sync_subtasks=disable_sync_subtasks)

    def _to_remote_traceback(self, meta: Meta, value: Any) -> TracebackType | None:
        return None

    def ready(self) -> bool:
        """Always true."""
        return True

    def exists(self) -> bool:
        """Always true: the outcome is in this object."""
        return True

    def forget(self) -> None:
        """Nothing to remove."""

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        """Too late to stop it: marks it as revoked."""
        revoked = exceptions.TaskRevokedError("revoked")
        self._cache = {**self._get_task_meta(), "status": states.REVOKED, "result": revoked}

    @property
    def supports_native_join(self) -> bool:
        """False: there is no backend to ask."""
        return False

    def __reduce_args__(self) -> tuple[Any, ...]:
        return self.id, self.result, self.state, self.traceback, self.name


def _as_exception(value: Any, result: AsyncResult[Any]) -> BaseException:
    """What to raise for a failed task, also when somebody has stored something else there."""
    if isinstance(value, BaseException):
        return value
    if value is None:
        return Exception(f"task {result.id} ended in {result.state} without an exception")
    return Exception(value)
