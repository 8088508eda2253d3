"""The public face of result backends: what adapters derive from, and the one that keeps nothing."""

from __future__ import annotations

from typing import Any, NoReturn

from taskq.backends.abstract import (
    MESSAGE_BUFFER_MAX,
    W_COMPRESSION_UNSUPPORTED,
    W_FAILURE_EXPIRES_UNSUPPORTED,
    Backend,
    pending_results_t,
    unpickle_backend,
)
from taskq.backends.compression import (
    COMPRESSED_PAYLOAD_MAGIC,
    E_UNKNOWN_COMPRESSION,
    compress_payload,
    decompress_payload,
)
from taskq.backends.error_coding import EXCEPTION_ABLE_CODECS
from taskq.backends.keyvalue import BaseKeyValueStoreBackend
from taskq.backends.marking import logger
from taskq.backends.waiting import SyncBackendMixin

__all__ = (
    "BaseBackend",
    "DisabledBackend",
    "KeyValueStoreBackend",
    # what adapters and tests also import from here
    "COMPRESSED_PAYLOAD_MAGIC",
    "EXCEPTION_ABLE_CODECS",
    "E_CHORD_NO_BACKEND",
    "E_NO_BACKEND",
    "E_UNKNOWN_COMPRESSION",
    "MESSAGE_BUFFER_MAX",
    "W_COMPRESSION_UNSUPPORTED",
    "W_FAILURE_EXPIRES_UNSUPPORTED",
    "Backend",
    "BaseDictBackend",
    "BaseKeyValueStoreBackend",
    "SyncBackendMixin",
    "compress_payload",
    "decompress_payload",
    "logger",
    "pending_results_t",
    "unpickle_backend",
)

E_NO_BACKEND = """
No result backend is configured.
Set result_backend, for instance to "sqlite:///taskq.db".
"""

E_CHORD_NO_BACKEND = """
Starting chords requires a result backend to be configured.

Note that a group chained with a task is also upgraded to be a chord,
as this pattern requires synchronization.

Result backends that supports chords: Redis, Database, Memcached, and more.
"""


class BaseBackend(Backend, SyncBackendMixin):
    """A backend whose store has to be asked for results."""


#: Old name.
BaseDictBackend = BaseBackend


class KeyValueStoreBackend(BaseKeyValueStoreBackend, SyncBackendMixin):
    """A backend whose store keeps bytes under a key and has to be asked for results."""


class DisabledBackend(BaseBackend):
    """What there is when no result backend is configured: keeps nothing, and says so when asked."""

    def store_result(self, *args: Any, **kwargs: Any) -> None:
        """Keep nothing."""

    def ensure_chords_allowed(self) -> NoReturn:
        """Raise NotImplementedError: chords need results."""
        raise NotImplementedError(E_CHORD_NO_BACKEND.strip())

    def as_uri(self, *args: Any, **kwargs: Any) -> str:
        """disabled://"""
        return "disabled://"

    def _is_disabled(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise NotImplementedError that says how to configure a backend."""
        raise NotImplementedError(E_NO_BACKEND.strip())

    get_state = get_status = get_result = get_traceback = _is_disabled
    get_task_meta = get_task_meta_for = get_children = _is_disabled
    get_many = wait_for = iter_native = _is_disabled
    task_result_exists = reload_task_result = _is_disabled
    get_group_meta = restore_group = save_group = delete_group = _is_disabled
    reload_group_result = _is_disabled
