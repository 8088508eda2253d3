"""The embedded broker keeps the whole contract."""

from __future__ import annotations

from pathlib import Path

import pytest
from contract.transports import TransportContract

from taskq.transports import register

register()


class TestSQLite(TransportContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/broker.db"
