"""Remote control commands, asked over the broker of a worker in this process."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from contract.workers import memory_app, serving
from patience import PATIENCE_S, wait_until

from taskq import Celery
from taskq.worker import control, state


@pytest.fixture
def app() -> Iterator[Celery]:
    app = memory_app("commands", broker_url="memory://user:s3cret@here//")

    @app.task(name="add", rate_limit="100/s", shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    yield app
    app.close()


@pytest.fixture
def ask(app: Celery) -> Iterator[Any]:
    with serving(app):

        def ask(command: str, **arguments: Any) -> Any:
            replies = app.control.broadcast(
                command, arguments, reply=True, limit=1, timeout=PATIENCE_S
            )
            return replies[0]["w@test"]

        ask.app = app  # type: ignore[attr-defined]
        yield ask


def test_what_a_node_tells_about_itself(ask: Any) -> None:
    assert ask("ping") == {"ok": "pong"}
    assert ask("clock")["clock"] > 0
    assert "taskq:" in ask("report")["ok"]
    stats = ask("stats")
    assert stats["pool"]["implementation"] == "celery.concurrency.solo:TaskPool"
    assert stats["total"] == {}
    assert stats["prefetch_count"] > 0
    assert stats["rusage"]["utime"] >= 0
    conf = ask("conf", with_defaults=True)
    assert conf["worker_prefetch_multiplier"] == 4
    assert "s3cret" not in repr((stats, conf))


def test_tasks_by_type(ask: Any) -> None:
    assert ask("registered") == ["add [rate_limit=100/s]"]
    assert ask("registered", taskinfoitems=["name", "_app"]) == ["add [name=add]"]
    assert "celery.group" in " ".join(ask("registered", builtins=True))
    assert ask("rate_limit", task_name="nothing", rate_limit="1/s") == {"error": "unknown task"}
    assert "Invalid rate limit" in ask("rate_limit", task_name="add", rate_limit="1/x")["error"]
    assert "ok" in ask("time_limit", task_name="add", soft=1, hard=2)
    assert ask.app.tasks["add"].time_limit == 2
    assert ask("time_limit", task_name="nothing") == {"error": "unknown task"}


def test_requests(ask: Any) -> None:
    ask.app.send_task("add", (1, 1), task_id="waits", countdown=600)
    wait_until(lambda: state.scheduled_requests)
    assert ask("scheduled")[0]["request"]["id"] == "waits"
    assert ask("query_task", ids=["waits", "nobody"])["waits"][0] == "scheduled"
    assert ask("active") == ask("reserved") == []
    assert ask("terminate", signal="TERM", task_id=["nobody"]) == {"ok": "terminate: tasks unknown"}


def test_an_unknown_signal_does_nothing(ask: Any) -> None:
    for given, near in (("SIGTREM", "SIGTERM"), ("term", "TERM"), ("KIL", "KILL")):
        reply = ask("terminate", signal=given, task_id=["never"])
        assert reply == {"error": f"unknown signal {given!r}; did you mean {near!r}?"}
    assert ask("revoke", task_id="never", terminate=True, signal=999)["error"].startswith("unknown")
    reply = ask("revoke_by_stamped_headers", headers=["a=b"], terminate=True, signal="NO")
    assert "unknown signal 'NO'" in reply["error"]
    assert "never" not in ask("revoked")
    assert "a" not in state.revoked_stamps


def test_revoking(ask: Any) -> None:
    assert ask("revoke", task_id="a") == {"ok": "tasks {'a'} flagged as revoked"}
    assert ask("revoked") == ["a"]
    reply = ask("revoke_by_stamped_headers", headers=["batch=7"])
    assert reply == {"ok": "headers {'batch': '7'} flagged as revoked, but not terminated"}
    assert state.revoked_stamps == {"batch": ["7"]}
    assert ask("hello", from_node="other@test", revoked=["b"])["revoked"]
    assert set(ask("revoked")) == {"a", "b"}
    assert ask("hello", from_node="w@test") is None


def test_errors_are_replies(ask: Any) -> None:
    assert ask("no_such_command") == {"error": "KeyError('no_such_command')"}
    assert "Pool restarts not enabled" in ask("pool_restart")["error"]
    assert "grow" in ask("pool_grow")["error"]
    assert "Autoscale not enabled" in ask("autoscale", max=3)["error"]
    assert ask("ping") == {"ok": "pong"}


@pytest.mark.parametrize("command", ["pool_grow", "pool_shrink"])
def test_the_size_of_an_autoscaled_pool_is_not_for_commands(command: str) -> None:
    controller = SimpleNamespace(autoscaler=object())
    asked = SimpleNamespace(consumer=SimpleNamespace(controller=controller))
    assert control.Panel.data[command](asked) == {
        "error": f"{command} is not supported with autoscale. Adjust autoscale range instead."
    }


@pytest.mark.parametrize("n", [0, -1, "x", 1.5, None])
def test_a_pool_is_resized_by_whole_numbers(n: Any) -> None:
    consumer = SimpleNamespace(controller=SimpleNamespace(autoscaler=None), pool=None)
    reply = control.Panel.data["pool_grow"](SimpleNamespace(consumer=consumer), n=n)
    assert reply == {"error": f"pool_grow takes a whole number of processes from 1 up, not {n!r}"}


def test_users_add_commands(ask: Any) -> None:
    @control.control_command(name="double", args=[("n", int)], signature="<n>")
    def double_it(state: Any, n: int) -> dict[str, int]:
        """Double a number."""
        return {"ok": 2 * n}

    try:
        assert ask("double", n=4) == {"ok": 8}
        assert control.Panel.meta["double"].help == "Double a number."
        assert control.Panel.meta["double"].type == "control"
    finally:
        del control.Panel.data["double"], control.Panel.meta["double"]


def test_aliases_stay_callable(ask: Any) -> None:
    assert ask("dump_active") == []
    assert control.Panel.meta["active"].alias == "dump_active"
