"""The contract, kept by the in-memory twin."""

from __future__ import annotations

from typing import Any

import pytest
from contract.backends import BackendContract

from taskq.backends.memory import MemoryBackend, MemoryStore


class TestMemoryBackend(BackendContract):
    shared = False
    notices = True

    @pytest.fixture(params=["memory://", "cache+memory://"])
    def url(self, request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
        self.now = 0.0
        monkeypatch.setattr(MemoryBackend, "store", MemoryStore(clock=lambda: self.now))
        return str(request.param)

    def age(self, backend: Any, seconds: float) -> None:
        self.now += seconds

    def test_the_oldest_make_room(self, backend: Any) -> None:
        backend.store.limit = 3
        for number in range(5):
            backend.store_result(str(number), number, "SUCCESS")
        assert [backend.get_state(str(n)) for n in range(5)] == ["PENDING"] * 2 + ["SUCCESS"] * 3

    def test_counting(self, backend: Any) -> None:
        assert [backend.incr("n") for _ in range(3)] == [1, 2, 3]
        backend.expire("n", 10)
        self.now += 11
        assert backend.incr("n") == 1
        backend.delete("n")
        assert backend.get("n") is None
