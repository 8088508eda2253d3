"""The Redis transport keeps the contract, as far as Redis goes."""

from __future__ import annotations

from typing import Any

import pytest
from contract.transports import TransportContract


class TestRedis(TransportContract):
    LACKS = frozenset(
        {
            "auto_delete",
            "conditional_delete",
            "empty_queues",
            "eta",
            "fanout_queues",
            "priority",  # 0 goes first here, as in kombu's
            "ttl",
        }
    )

    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return redis_url


class TestWithPrefix(TestRedis):
    OPTIONS: dict[str, Any] = {"global_keyprefix": "mine:"}
