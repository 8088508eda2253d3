"""kombu's memory:// keeps the contract, as far as it goes: the twin used in tests."""

from __future__ import annotations

import pytest
from contract.transports import TransportContract


class TestMemory(TransportContract):
    LACKS = frozenset(
        {
            "hub",
            "restore",
            "ack_multiple",
            "priority",
            "eta",
            "ttl",
            "auto_delete",
            "conditional_delete",
            "batch",
        }
    )
    OPTIONS = {"polling_interval": 0.01}

    @pytest.fixture
    def url(self) -> str:
        return "memory://"
