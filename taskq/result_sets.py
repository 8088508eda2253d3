"""Reading many outcomes at once: a set of results, and the result of a group.

`join_native` asks the backend for all of them together; `join` asks one after the other and works
with every backend.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

from vine import Thenable, barrier, promise

from taskq._state import current_app
from taskq.exceptions import ImproperlyConfigured
from taskq.joining import ReadyHook, ResultBase, assert_will_not_block
from taskq.states import PROPAGATE_STATES

if TYPE_CHECKING:
    from taskq.app.base import App
    from taskq.backends.abstract import Backend

__all__ = ("GroupResult", "ResultSet")

NO_MESSAGES = (
    "Backend does not support on_message callback: this result store announces nothing, Redis "
    "does. Ask result.state and result.info from time to time instead."
)

Callback = Callable[[str, Any], Any]


class ResultSet(ResultBase):
    """An ordered collection of results that are read together.

    `results` may hold AsyncResult, EagerResult and other sets. `ready_barrier` replaces the vine
    barrier that `then()` waits on.
    """

    _app: Any = None
    _on_ready: promise | None = None
    _on_full: Any = None

    #: The results, in order.
    results: list[Any] = None  # type: ignore[assignment]  # every constructor sets it

    def __init__(
        self,
        results: Iterable[Any] | None,
        app: App | None = None,
        ready_barrier: Any = None,
        **kwargs: Any,
    ) -> None:
        self._app = app
        self.results = results if isinstance(results, list) else list(results or ())
        if ready_barrier is not None:
            self._on_full = ready_barrier

    # -- the collection

    def add(self, result: Any) -> None:
        """Add `result` unless it is in already."""
        if result not in self.results:
            self.results.append(result)
            if self._on_ready is not None:
                self._on_full.add(result)

    def update(self, results: Iterable[Any]) -> None:
        """Add those of `results` that are not in yet."""
        for result in results:
            self.add(result)

    def remove(self, result: Any) -> None:
        """Take out a result, or the result of a task id; KeyError when it is not in."""
        if isinstance(result, str):
            result = self.app.AsyncResult(result)
        try:
            self.results.remove(result)
        except ValueError:
            raise KeyError(result)

    def discard(self, result: Any) -> None:
        """Take out a result if it is in."""
        try:
            self.remove(result)
        except KeyError:
            pass

    def clear(self) -> None:
        """Take out all results."""
        self.results[:] = []

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    def __getitem__(self, index: Any) -> Any:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ResultSet):
            return other.results == self.results
        return NotImplemented

    # A set that changes has no hash; a group has that of its id.
    __hash__: Any = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: [{', '.join(str(r.id) for r in self.results)}]>"

    # -- looking without waiting

    def ready(self) -> bool:
        """Have all tasks ended?"""
        return all(result.ready() for result in self.results)

    def successful(self) -> bool:
        """Have all tasks ended well?"""
        return all(result.successful() for result in self.results)

    def failed(self) -> bool:
        """Has any task failed?"""
        return any(result.failed() for result in self.results)

    def waiting(self) -> bool:
        """Is any task not ready yet?"""
        return any(not result.ready() for result in self.results)

    def completed_count(self) -> int:
        """How many tasks have ended well."""
        return sum(int(result.successful()) for result in self.results)

    def maybe_throw(self, callback: Callback | None = None, propagate: bool = True) -> None:
        """Raise the exception of the first task that failed or was revoked."""
        for result in self.results:
            result.maybe_throw(callback=callback, propagate=propagate)

    maybe_reraise = maybe_throw  # deprecated name

    # -- waiting

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callback | None = None,
        no_ack: bool = True,
        on_message: Callable[[Any], Any] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> Any:
        """All values in order, read the best way the backend has. Parameters as `join()`."""
        join = self.join_native if self.supports_native_join else self.join
        return join(
            timeout=timeout,
            propagate=propagate,
            interval=interval,
            callback=callback,
            no_ack=no_ack,
            on_message=on_message,
            disable_sync_subtasks=disable_sync_subtasks,
            on_interval=on_interval,
        )

    def join(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callback | None = None,
        no_ack: bool = True,
        on_message: Callable[[Any], Any] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> list[Any]:
        """Wait for one result after the other and give the values in order.

        timeout: seconds for all of them; TimeoutError when they have passed.
        propagate: False gives an exception as a value instead of raising it.
        callback: called with (task id, value) for each; the list is then empty.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        if on_message is not None:
            raise ImproperlyConfigured(NO_MESSAGES)
        remaining = _countdown(timeout)
        values = []
        for result in self.results:
            value = result.get(
                timeout=remaining(),
                propagate=propagate,
                interval=interval,
                no_ack=no_ack,
                on_interval=on_interval,
                disable_sync_subtasks=disable_sync_subtasks,
            )
            if callback is not None:
                callback(result.id, value)
            else:
                values.append(value)
        return values

    def join_native(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callback | None = None,
        no_ack: bool = True,
        on_message: Callable[[Any], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> list[Any] | None:
        """As `join()`, but all results are asked for together and taken as they come.

        With `callback` gives None, and calls it in the order in which tasks end.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        values: dict[str, Any] = {}
        remaining = _countdown(timeout)
        for task_id, meta in self.iter_native(timeout, interval, no_ack, on_message, on_interval):
            if isinstance(meta, list):  # the members of a set inside this one
                value: Any = [
                    member.get(
                        timeout=remaining(),
                        propagate=propagate,
                        interval=interval,
                        disable_sync_subtasks=disable_sync_subtasks,
                    )
                    for member in meta
                ]
            else:
                value = meta["result"]
                if propagate and meta["status"] in PROPAGATE_STATES:
                    raise value if isinstance(value, BaseException) else Exception(value)
            if callback is not None:
                callback(task_id, value)
            else:
                values[task_id] = value
        return None if callback is not None else [values[r.id] for r in self.results]

    def iter_native(
        self,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Any], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """(task id, result document) of each task as it ends.

        A set inside this one comes as (its id, list of its results) and is not waited for.
        """
        return cast(
            "Iterator[tuple[str, Any]]",
            self.backend.iter_native(
                self,
                timeout=timeout,
                interval=interval,
                no_ack=no_ack,
                on_message=on_message,
                on_interval=on_interval,
            ),
        )

    def then(
        self, callback: ReadyHook, on_error: ReadyHook | None = None, weak: bool = False
    ) -> Any:
        """Call `callback(self)` once all outcomes have been seen; gives a vine promise."""
        return self.on_ready.then(callback, on_error)

    @property
    def on_ready(self) -> promise:
        """Fulfilled once all outcomes have been seen. Made on first use: most sets need none."""
        if self._on_ready is None:
            self._on_ready = promise()
            if self._on_full is None:
                self._on_full = barrier(self.results)
            self._on_full.then(promise(self._on_ready, args=(self,)))
            if not self.results:
                self._on_full.finalize()
        return self._on_ready

    # -- ending

    def forget(self) -> None:
        """Remove the outcomes of all tasks from the backend."""
        for result in self.results:
            result.forget()

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Tell all workers not to run any of these tasks. Parameters as `AsyncResult.revoke()`."""
        self.app.control.revoke(
            list(self._task_ids()),
            connection=connection,
            timeout=timeout,
            terminate=terminate,
            signal=signal,
            reply=wait,
        )

    def _task_ids(self) -> Iterator[str]:
        for result in self.results:
            if isinstance(result, ResultSet):
                yield from result._task_ids()
            else:
                yield result.id

    # -- whom to ask

    @property
    def app(self) -> Any:
        if self._app is None:
            self._app = (
                self.results[0].app if self.results else None
            ) or current_app._get_current_object()
        return self._app

    @app.setter
    def app(self, app: Any) -> None:
        self._app = app

    @property
    def backend(self) -> Any:
        return self.app.backend if self.app else self.results[0].backend

    @property
    def supports_native_join(self) -> bool | None:
        """Can the backend read many results at once? None for an empty set."""
        return bool(self.results[0].supports_native_join) if self.results else None


Thenable.register(ResultSet)


class GroupResult(ResultSet):
    """The results of the tasks of one group, under the group's id.

    Unlike a plain set it can be saved and found again, and may have a `parent` in a chain.
    """

    #: The group's id.
    id: Any = None

    def __init__(
        self,
        id: str | None = None,
        results: Iterable[Any] | None = None,
        parent: Any = None,
        **kwargs: Any,
    ) -> None:
        self.id = id
        self.parent = parent
        super().__init__(results, **kwargs)

    def save(self, backend: Backend | None = None) -> Any:
        """Keep the list of members in the backend, to be read by `restore()`."""
        return (backend or self.app.backend).save_group(self.id, self)

    def delete(self, backend: Backend | None = None) -> None:
        """Remove what `save()` has kept."""
        (backend or self.app.backend).delete_group(self.id)

    @classmethod
    def restore(
        cls, id: str, backend: Backend | None = None, app: App | None = None
    ) -> GroupResult | None:
        """The group saved under `id`, or None."""
        known: Any = app or (current_app if isinstance(cls.app, property) else cls.app)
        return cast("GroupResult | None", (backend or known.backend).restore_group(id))

    @property
    def children(self) -> list[Any]:
        """The results of the members."""
        return self.results

    def as_tuple(self) -> tuple[Any, Any]:
        """((id, parent), members): what result_from_tuple() reads."""
        parent = self.parent
        return (self.id, parent and parent.as_tuple()), [r.as_tuple() for r in self.results]

    def as_list(self) -> list[Any]:
        """Ids of this group and of the chain before it."""
        return [self.id, *(self.parent.as_list() if self.parent else ())]

    def __bool__(self) -> bool:
        # An empty group is a result all the same.
        return bool(self.id or self.results)

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id} [{', '.join(str(r.id) for r in self.results)}]>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return bool(
                other.id == self.id
                and other.results == self.results
                and other.parent == self.parent
            )
        if isinstance(other, str):
            return bool(other == self.id)
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __reduce__(self) -> Any:
        return self.__class__, self.__reduce_args__()

    def __reduce_args__(self) -> tuple[Any, ...]:
        return self.id, self.results


def _countdown(timeout: float | None) -> Callable[[], float | None]:
    """Tells how many seconds are left: 0 at the end, so that what is ready is still read."""
    if timeout is None:
        return lambda: None
    deadline = time.monotonic() + timeout
    return lambda: max(deadline - time.monotonic(), 0.0)
