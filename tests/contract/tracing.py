"""Applications for tests of the tracer: an empty in-memory backend, and nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from taskq import Celery, _state
from taskq.backends.memory import MemoryBackend, MemoryStore


@contextmanager
def lone_app(name: str, backend: type[MemoryBackend] = MemoryBackend) -> Iterator[Celery]:
    """An application that is not current, with a backend of this class and a store of its own."""
    finalizers, default = dict(_state._on_app_finalizers), _state.default_app
    fresh = type(backend.__name__, (backend,), {"store": MemoryStore()})
    try:
        with Celery(name, broker="memory://", backend=fresh, set_as_current=False) as app:
            yield app
    finally:
        # Shared tasks turn up in every later application, and workers set the default.
        _state._on_app_finalizers.clear()
        _state._on_app_finalizers.update(finalizers)
        _state.set_default_app(default)
