"""Node names, and texts in which they are filled in."""

from __future__ import annotations

import os
import socket

import pytest

from taskq.utils import nodenames


def test_names_have_two_parts() -> None:
    assert nodenames.nodename("w", "h") == "w@h"
    assert nodenames.nodesplit("w@h") == ("w", "h")
    assert nodenames.nodesplit("h") == (None, "h")
    assert nodenames.gethostname() == socket.gethostname()


@pytest.mark.parametrize(
    ("given", "whole"),
    [
        ("h", "celery@h"),
        ("w@h", "w@h"),
        (None, f"celery@{socket.gethostname()}"),
        ("@h", "celery@h"),
    ],
)
def test_what_is_missing_is_filled_in(given: str | None, whole: str) -> None:
    assert nodenames.default_nodename(given) == whole


def test_a_process_without_a_name() -> None:
    assert nodenames.anon_nodename("h") == f"gen{os.getpid()}@h"
    assert nodenames.anon_nodename("h", "beat") == f"beat{os.getpid()}@h"


def test_formats() -> None:
    shown = nodenames.node_format("%n|%h|%d|%%|%p|%i%I", "w@a.example.com")
    assert shown == "w|a.example.com|example.com|%|w@a.example.com|0"
    assert nodenames.host_format("%n.%h.%d", host="a.b.c") == "a.a.b.c.b.c"
    assert nodenames.host_format("%n", host="a.b.c", name="w") == "w"
    assert nodenames.host_format("%z", z="3") == "3"
    with pytest.raises(ValueError, match="%q"):
        nodenames.host_format("%q")


def test_in_a_pool_process_the_index_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodenames, "current_process_index", lambda: 3)
    assert nodenames.node_format("%n%I-%i.log", "w@h") == "w-3-3.log"


def test_the_direct_queue_of_a_worker() -> None:
    queue = nodenames.worker_direct("w@h")
    assert (queue.name, queue.exchange.name, queue.routing_key) == ("w@h.dq2", "C.dq2", "w@h")
    assert nodenames.worker_direct(queue) is queue
