"""The port to the store of outcomes: what every result backend does, whatever the store.

The tracer's end of it is marking.py (`mark_as_done` and its siblings, which all call
`store_result`), the client's is here (`get_task_meta`). A store fills in the methods under "the
store's part"; the document they carry (documents.py) is the same everywhere.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, cast

from kombu.serialization import prepare_accept_content
from kombu.utils.functional import LRUCache
from kombu.utils.url import maybe_sanitize_url

from taskq import states
from taskq._state import current_app
from taskq.backends.compression import require_compression
from taskq.backends.documents import Documents, find_codec
from taskq.backends.marking import Marking
from taskq.exceptions import BackendGetMetaError, TimeoutError
from taskq.utils.collections import BufferMap

if TYPE_CHECKING:
    from taskq.app.base import App
    from taskq.context import Context

__all__ = ("Backend", "pending_results_t", "unpickle_backend")

#: Reports about tasks nobody waits for yet, kept per backend.
MESSAGE_BUFFER_MAX = 8192

W_COMPRESSION_UNSUPPORTED = """\
The {0} result backend cannot store compressed payloads, so the
result_compression setting is ignored and results are stored uncompressed.
"""
W_FAILURE_EXPIRES_UNSUPPORTED = """\
The {0} result backend does not support result_failure_expires, so failed
results expire like any other result.
"""
W_EAGER = (
    "Results are not stored in backend and should not be retrieved when "
    "task_always_eager is enabled, unless task_store_eager_result is enabled."
)


class pending_results_t(NamedTuple):
    """Results somebody waits for: kept alive by us, or only as long as their owner keeps them."""

    concrete: Any
    weak: Any


class _nulldict(dict[Any, Any]):
    """A cache that forgets at once."""

    def ignore(self, *args: Any, **kwargs: Any) -> None:
        """Keep nothing."""

    __setitem__ = update = setdefault = ignore


def unpickle_backend(cls: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """A backend of class `cls` for the current app: what a pickled backend becomes."""
    return cls(*args, app=current_app._get_current_object(), **kwargs)


class Backend(Marking, Documents):
    """Stores and reads result documents.

    serializer, accept, expires, max_cached_results: default to the settings result_serializer,
    result_accept_content (else accept_content), result_expires and result_cache_max.
    `expires` is in seconds (or a timedelta), None means the setting, 0 means never.
    """

    READY_STATES = states.READY_STATES
    UNREADY_STATES = states.UNREADY_STATES
    EXCEPTION_STATES = states.EXCEPTION_STATES

    TimeoutError = TimeoutError

    #: Seconds between two looks of a backend that is asked while it waits for messages.
    subpolling_interval: float | None = None
    #: Can several results be read at once?
    supports_native_join = False
    #: Does the store remove expired results by itself?
    supports_autoexpire = False
    #: Can the store keep bytes that are not text?
    supports_result_compression = False
    #: Can failures have a life of their own?
    supports_failure_expires = False
    #: Do results survive a restart of the store?
    persistent = True

    retry_policy: dict[str, Any] = {
        "max_retries": 20,
        "interval_start": 0,
        "interval_step": 1,
        "interval_max": 1,
    }

    def __init__(
        self,
        app: App,
        serializer: str | None = None,
        max_cached_results: int | None = None,
        accept: Any = None,
        expires: float | timedelta | None = None,
        expires_type: Callable[[Any], Any] | None = None,
        url: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.app = app
        conf = app.conf
        self.serializer: str = serializer or conf.result_serializer
        self.content_type, self.content_encoding, self.encoder = find_codec(self.serializer)
        self.compression = self.prepare_compression(conf.result_compression)
        cached = max_cached_results or conf.result_cache_max
        self._cache: Any = _nulldict() if cached == -1 else LRUCache(limit=cached)
        self.expires: Any = self.prepare_expires(expires, expires_type)
        if accept is None:
            accept = conf.result_accept_content
        self.accept = prepare_accept_content(conf.accept_content if accept is None else accept)
        self.always_retry: bool = conf.result_backend_always_retry
        self.max_sleep_between_retries_ms = conf.result_backend_max_sleep_between_retries_ms
        self.base_sleep_between_retries_ms = conf.result_backend_base_sleep_between_retries_ms
        self.max_retries: float = conf.result_backend_max_retries
        self.thread_safe: bool = conf.result_backend_thread_safe
        self.url = url
        self._pending_results = pending_results_t({}, {})
        self._pending_messages = BufferMap(MESSAGE_BUFFER_MAX)
        if conf.result_failure_expires is not None and not self.supports_failure_expires:
            warnings.warn(W_FAILURE_EXPIRES_UNSUPPORTED.format(type(self).__name__), stacklevel=2)

    # -- reading

    def get_task_meta(self, task_id: str, cache: bool = True) -> Any:
        """The document of a task, exceptions rebuilt; {status: PENDING, result: None} if none.

        Raises DecodeError or ContentDisallowed for a document that can not be read, and, with
        result_backend_always_retry, BackendGetMetaError.
        """
        self._ensure_not_eager()
        if cache:
            known = self._cache.get(task_id)
            if known is not None:
                return known
        if self.always_retry:
            failed = BackendGetMetaError("failed to get meta", task_id=task_id)
            meta = self._retry(failed, self._get_task_meta_for, task_id)
        else:
            meta = self._get_task_meta_for(task_id)
        if cache and meta.get("status") == states.SUCCESS:
            self._cache[task_id] = meta
        return meta

    def get_state(self, task_id: str) -> str:
        """State of a task; PENDING when nothing is known."""
        return cast(str, self.get_task_meta(task_id)["status"])

    get_status = get_state  # old name

    def get_result(self, task_id: str) -> Any:
        """Value or exception of a task."""
        return self.get_task_meta(task_id).get("result")

    def get_traceback(self, task_id: str) -> str | None:
        """Text of the traceback of a failed task."""
        return cast("str | None", self.get_task_meta(task_id).get("traceback"))

    def get_children(self, task_id: str) -> Any:
        """Results of the tasks a task has called, as tuples."""
        return self.get_task_meta(task_id).get("children")

    def task_result_exists(self, task_id: str) -> bool:
        """Is anything stored about this task?"""
        return bool(self._get_task_meta_for(task_id)["status"] != states.PENDING)

    # -- groups

    def save_group(self, group_id: str, result: Any) -> Any:
        """Keep a GroupResult under its id."""
        return self._save_group(group_id, result)

    def get_group_meta(self, group_id: str, cache: bool = True) -> Any:
        """{result: GroupResult} as saved, or None."""
        self._ensure_not_eager()
        if cache:
            known = self._cache.get(group_id)
            if known is not None:
                return known
        meta = self._restore_group(group_id)
        if cache and meta is not None:
            self._cache[group_id] = meta
        return meta

    def restore_group(self, group_id: str, cache: bool = True) -> Any:
        """The GroupResult saved under this id, or None."""
        meta = self.get_group_meta(group_id, cache=cache)
        return meta["result"] if meta else None

    def delete_group(self, group_id: str) -> None:
        """Remove a saved group."""
        self._cache.pop(group_id, None)
        self._delete_group(group_id)

    # -- the local cache, and forgetting

    def is_cached(self, task_id: str) -> bool:
        """Has the outcome of this task been read already?"""
        return task_id in self._cache

    def reload_task_result(self, task_id: str) -> None:
        """Read a task's document anew even if it is cached."""
        self._cache[task_id] = self.get_task_meta(task_id, cache=False)

    def reload_group_result(self, group_id: str) -> None:
        """Read a saved group anew even if it is cached."""
        self._cache[group_id] = self.get_group_meta(group_id, cache=False)

    def forget(self, task_id: str) -> None:
        """Remove what is stored about a task."""
        self._cache.pop(task_id, None)
        self._forget(task_id)

    def cleanup(self) -> None:
        """Remove expired results, for stores that do not do it themselves."""

    def process_cleanup(self) -> None:
        """Close what a process that ends must close; called at the end of every run."""

    def on_task_call(self, producer: Any, task_id: str) -> dict[str, Any]:
        """A task is about to be sent; gives extra properties for its message."""
        return {}

    # -- waiting (waiting.py)

    def change_mark(self) -> Any:
        """Where the store stands now; taken before a look, given to `wait_for_change` after it."""
        return None

    def wait_for_change(self, mark: Any, seconds: float) -> None:
        """Come back after `seconds`, or sooner when the store has changed since `mark`."""
        time.sleep(seconds)

    # -- settings

    def prepare_expires(self, value: Any, type: Callable[[Any], Any] | None = None) -> Any:
        """Seconds that results live: `value`, or the setting result_expires."""
        if value is None:
            value = self.app.conf.result_expires
        if isinstance(value, timedelta):
            value = value.total_seconds()
        return type(value) if value is not None and type else value

    def prepare_persistent(self, enabled: bool | None = None) -> bool:
        """Should results survive a restart of the store? `enabled`, the setting, or our default."""
        if enabled is not None:
            return enabled
        setting = self.app.conf.result_persistent
        return self.persistent if setting is None else setting

    def prepare_compression(self, compression: str | None) -> str | None:
        """The method to compress with; None, with a warning, if the store can not keep bytes."""
        if not compression:
            return None
        if not self.supports_result_compression:
            warnings.warn(W_COMPRESSION_UNSUPPORTED.format(type(self).__name__), stacklevel=3)
            return None
        return require_compression(compression)

    def as_uri(self, include_password: bool = False) -> str:
        """Where results are kept, with the password masked unless asked for."""
        url = self.url or ""
        if include_password:
            return url
        url = str(maybe_sanitize_url(url))
        return url[:-1] if url.endswith(":///") else url

    def _ensure_not_eager(self) -> None:
        conf = self.app.conf
        if conf.task_always_eager and not conf.task_store_eager_result:
            warnings.warn(W_EAGER, RuntimeWarning, stacklevel=3)

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        return unpickle_backend, (self.__class__, args, kwargs or {})

    # -- the store's part

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Context | None = None,
        **kwargs: Any,
    ) -> Any:
        self._not_implemented("store results")

    def _get_task_meta_for(self, task_id: str) -> Any:
        self._not_implemented("read results")

    def _forget(self, task_id: str) -> None:
        raise NotImplementedError("backend does not implement forget.")

    def _save_group(self, group_id: str, result: Any) -> Any:
        self._not_implemented("save groups")

    def _restore_group(self, group_id: str) -> Any:
        self._not_implemented("restore groups")

    def _delete_group(self, group_id: str) -> None:
        self._not_implemented("delete groups")

    def _not_implemented(self, what: str) -> NoReturn:
        raise NotImplementedError(f"The {type(self).__name__} result backend can not {what}.")
