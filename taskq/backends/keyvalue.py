"""Outcomes in any store that keeps bytes under a key: one document per task, one per group.

A store is a subclass with get, set, delete, and mget if it can read many keys at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from kombu.utils.encoding import bytes_to_str, ensure_bytes

from taskq import states
from taskq.backends.abstract import Backend
from taskq.backends.marking import E_CHORD
from taskq.backends.waiting import Patience
from taskq.exceptions import ImproperlyConfigured, TimeoutError
from taskq.result import result_from_tuple

if TYPE_CHECKING:
    from taskq.context import Context

__all__ = ("BaseKeyValueStoreBackend",)

PENDING_META = {"status": states.PENDING, "result": None}


class BaseKeyValueStoreBackend(Backend):
    """A backend whose store keeps bytes (or text) under a key."""

    #: Makes a key of what the store takes: bytes unless overridden.
    key_t: Any = staticmethod(ensure_bytes)
    task_keyprefix: Any = "celery-task-meta-"
    group_keyprefix: Any = "celery-taskset-meta-"
    chord_keyprefix: Any = "chord-unlock-"
    #: Can the store count? Then chords need no task that looks after them.
    implements_incr = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        prefix = self._global_keyprefix()
        for name in ("task_keyprefix", "group_keyprefix", "chord_keyprefix"):
            setattr(self, name, self.key_t(prefix + bytes_to_str(getattr(type(self), name))))

    def _global_keyprefix(self) -> str:
        options = self.app.conf.result_backend_transport_options or {}
        prefix = options.get("global_keyprefix") or ""
        if not isinstance(prefix, str):
            raise ImproperlyConfigured(
                "global_keyprefix in result_backend_transport_options is put in front of every "
                f"key and must be text, got: {prefix!r}"
            )
        if prefix and prefix[-1] not in ":_-.":
            prefix += "_"
        return prefix

    @property
    def chord_expires(self) -> Any:
        """Seconds that the bookkeeping of a chord lives: result_chord_expires or result_expires."""
        value = self.app.conf.result_chord_expires
        return self.expires if value is None else value

    # -- the store's part

    def get(self, key: Any) -> Any:
        """What is stored under `key`, or None."""
        raise NotImplementedError("Must implement the get method.")

    def mget(self, keys: list[Any]) -> Any:
        """What is stored under each of `keys`: a list in their order, or a mapping."""
        raise NotImplementedError("Does not support get_many")

    def set(self, key: Any, value: Any) -> Any:
        """Store `value` under `key` for `self.expires` seconds."""
        raise NotImplementedError("Must implement the set method.")

    def delete(self, key: Any) -> Any:
        """Remove `key`, if it is there."""
        raise NotImplementedError("Must implement the delete method")

    def incr(self, key: Any) -> int:
        """Add one to the counter under `key` and give its new value."""
        raise NotImplementedError("Does not implement incr")

    def expire(self, key: Any, value: Any) -> Any:
        """Let `key` live for `value` seconds from now; stores that can not do it ignore it."""

    def _set_with_state(self, key: Any, value: Any, state: str) -> Any:
        """Store a document of a task in `state`, for stores to which the state matters."""
        return self.set(key, value)

    # -- keys

    def get_key_for_task(self, task_id: Any, key: Any = "") -> Any:
        """Key of a task's document; `key` is put behind it."""
        return self._key(self.task_keyprefix, "task_id", task_id, key)

    def get_key_for_group(self, group_id: Any, key: Any = "") -> Any:
        """Key of a saved group."""
        return self._key(self.group_keyprefix, "group_id", group_id, key)

    def get_key_for_chord(self, group_id: Any, key: Any = "") -> Any:
        """Key of a chord's counter."""
        return self._key(self.chord_keyprefix, "group_id", group_id, key)

    def _key(self, prefix: Any, what: str, id: Any, suffix: Any) -> Any:
        if not id:
            raise ValueError(f"{what} must not be empty. Got {id} instead.")
        if not isinstance(id, (str, bytes)):
            raise TypeError(f"an id is text, got {id!r} ({type(id).__name__})")
        key_t = self.key_t
        return prefix + key_t(id) + key_t(suffix) if suffix else prefix + key_t(id)

    # -- documents

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Context | None = None,
        **kwargs: Any,
    ) -> Any:
        document = self._write_document(bytes_to_str(task_id), result, state, traceback, request)
        key = self.get_key_for_task(task_id)
        if self._stored_state(key) != states.SUCCESS:
            self._set_with_state(key, document, state)
        return result

    def _stored_state(self, key: Any) -> Any:
        # Its exception is not rebuilt: what can not be read must not keep us from writing.
        stored = self.decode(self.get(key))
        return stored.get("status") if isinstance(stored, dict) else None

    def _get_task_meta_for(self, task_id: str) -> Any:
        stored = self.get(self.get_key_for_task(task_id))
        if not stored:
            return dict(PENDING_META)
        return self.decode_result(stored)

    def task_result_exists(self, task_id: str) -> bool:
        """Is anything stored about this task?"""
        return self.get(self.get_key_for_task(task_id)) is not None

    def _forget(self, task_id: str) -> None:
        self.delete(self.get_key_for_task(task_id))

    def _save_group(self, group_id: str, result: Any) -> Any:
        self._set_with_state(
            self.get_key_for_group(group_id),
            self.encode({"result": result.as_tuple()}),
            states.SUCCESS,
        )
        return result

    def _restore_group(self, group_id: str) -> Any:
        stored = self.get(self.get_key_for_group(group_id))
        if not stored:
            return None
        meta = self.decode(stored)
        meta["result"] = result_from_tuple(meta["result"], self.app)
        return meta

    def _delete_group(self, group_id: str) -> None:
        self.delete(self.get_key_for_group(group_id))

    # -- many at once

    def get_many(
        self,
        task_ids: Iterable[Any],
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Any = None,
        on_interval: Any = None,
        max_iterations: int | None = None,
        READY_STATES: frozenset[str] = states.READY_STATES,
    ) -> Iterator[tuple[str, Any]]:
        """(task id, document) of each task as it ends.

        timeout: seconds for all of them together; TimeoutError when they have passed.
        max_iterations: end quietly after so many looks.
        """
        ids = dict.fromkeys(bytes_to_str(task_id) for task_id in task_ids)
        for task_id in list(ids):
            known = self._cache.get(task_id)
            if known is not None and known["status"] in READY_STATES:
                del ids[task_id]
                yield task_id, known
        patience = Patience(timeout, interval, on_interval)
        looks = 0
        while ids:
            mark = self.change_mark()
            ready = self._read_ready(list(ids), READY_STATES)
            self._cache.update(ready)
            for task_id, meta in ready.items():
                del ids[task_id]
                if on_message is not None:
                    on_message(meta)
                yield task_id, meta
            looks += 1
            if not ids or (max_iterations and looks >= max_iterations):
                return
            if patience.spent():
                raise TimeoutError(f"Operation timed out ({timeout})")
            self.wait_for_change(mark, patience.next_pause())

    def _read_ready(self, ids: list[str], ready: frozenset[str]) -> dict[str, Any]:
        keys = [self.get_key_for_task(task_id) for task_id in ids]
        stored = self.mget(keys)
        if isinstance(stored, dict):
            # Stores may give their keys back without the prefix.
            values: Iterable[Any] = [
                stored.get(key, stored.get(task_id)) for key, task_id in zip(keys, ids, strict=True)
            ]
        else:
            values = stored
        documents = {}
        for task_id, value in zip(ids, values, strict=False):
            if value:
                meta = self.decode_result(value)
                if meta["status"] in ready:
                    documents[task_id] = meta
        return documents

    # -- chords

    def on_chord_part_return(
        self, request: Context, state: str, result: Any, **kwargs: Any
    ) -> None:
        """A task of a chord's header has ended: count it, in stores that can count."""
        if self.implements_incr and request.chord:
            raise NotImplementedError(E_CHORD)
