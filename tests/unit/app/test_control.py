"""The client's side of remote control."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from contract.workers import memory_app

from taskq import Celery
from taskq.app.control import flatten_reply
from taskq.exceptions import DuplicateNodenameWarning


@pytest.fixture
def app() -> Iterator[Celery]:
    app = memory_app("control")
    yield app
    app.close()


def test_replies_become_one_mapping() -> None:
    assert flatten_reply([{"a": 1}, {"b": 2}]) == {"a": 1, "b": 2}


def test_two_nodes_of_one_name_are_warned_of() -> None:
    with pytest.warns(DuplicateNodenameWarning, match="a"):
        flatten_reply([{"a": 1}, {"a": 2}, {"b": 2}])


def test_a_destination_is_a_list(app: Celery) -> None:
    with pytest.raises(ValueError, match="destination must be a list"):
        app.control.ping(destination="w1@here")


def test_nobody_replies(app: Celery) -> None:
    assert app.control.ping(timeout=0.01) == []
    assert app.control.inspect(timeout=0.01).active() is None


def test_a_single_node_may_be_named(app: Celery) -> None:
    assert app.control.inspect("w1@here").destination == ["w1@here"]


def test_purge_counts_what_it_throws_away(app: Celery) -> None:
    for _ in range(3):
        app.send_task("nothing")
    assert app.control.purge() == 3
    assert app.control.discard_all() == 0


def test_mailboxes_follow_the_settings(app: Celery) -> None:
    other = memory_app("other", control_exchange="elsewhere")
    assert app.control.mailbox.namespace == "celery"
    assert other.control.mailbox.namespace == "elsewhere"
    assert app.control.mailbox.accept == ("json",)
    other.close()
