"""RabbitMQ, by kombu's transport, keeps the contract as far as AMQP goes."""

from __future__ import annotations

import pytest
from contract.transports import TransportContract


class TestKombuRabbitMQ(TransportContract):
    # A queue has priorities or a time to live only when it was declared with them; kombu's Hub
    # cannot be closed after a connection of pyamqp.
    LACKS = frozenset({"hub", "priority", "eta", "ttl", "batch"})
    OPTIONS = {"confirm_publish": True}

    @pytest.fixture
    def url(self, rabbitmq_url: str) -> str:
        return rabbitmq_url

    # Where AMQP differs: `redelivered` stands beside the headers, not in them;
    test_closing_gives_back_what_is_not_acked = None
    # what is put back comes next;
    test_requeue_puts_back_behind_the_others = None
    # a window is that of the consumers to come;
    test_a_bigger_window_takes_effect = None
    # a queue is emptied as far as the window allows before the next has its turn;
    test_queues_take_turns = None
    # a channel is closed by its first error;
    test_a_passive_declaration_only_looks = None
    # and nobody else may look at an exclusive queue.
    test_an_exclusive_queue_ends_with_its_connection = None
