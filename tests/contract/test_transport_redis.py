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


@pytest.mark.long
class TestKombuRedis(TestRedis):
    """kombu's own transport."""

    LACKS = TestRedis.LACKS | {"batch"}
    OPTIONS: dict[str, Any] = {"lane": "kombu"}

    # What is given back comes in the opposite order;
    test_closing_gives_back_what_is_not_acked = None
    # a binding is for ever;
    test_an_unbound_queue_gets_nothing_more = None
    # and who has not declared an exchange does not know its type.
    test_other_connections_see_queues_and_bindings = None
