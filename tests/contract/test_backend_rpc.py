"""Results that are sent to the client: what `rpc://` does, on every broker."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import traceback
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from journey.harness import Worker
from kombu import Connection
from kombu.exceptions import DecodeError, OperationalError
from patience import PATIENCE_S, wait_until
from servers import Proxy

from taskq import App, group, states
from taskq.backends import rpc, rpc_mailbox
from taskq.context import Context
from taskq.exceptions import TimeoutError
from taskq.result import AsyncResult, GroupResult

BROKERS = ["memory", "redis", "rabbitmq", "sqlite"]
#: Where the broker matters little, for the long run.
TWIN = pytest.param("rabbitmq", marks=pytest.mark.long)


@pytest.fixture(params=BROKERS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return "memory://"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/broker.db"
    return str(request.getfixturevalue(f"{request.param}_url"))


def make_app(url: str, **settings: Any) -> App:
    app = App("rpc", broker=url, backend="rpc://", set_as_current=False)
    # A queue of its own: others share the server.
    app.conf.update({
        "task_default_queue": str(uuid.uuid4()),
        "broker_transport_options": {"polling_interval": 0.01},
        **settings,
    })  # fmt: skip
    return app


class Answerer:
    """In the worker's place: takes the calls of `client` and publishes reports on them."""

    def __init__(self, client: App) -> None:
        self.app = make_app(client.conf.broker_url)
        self.app.conf.result_serializer = client.conf.result_serializer
        self.connection = client.connection_for_read()
        self.queue = client.amqp.queues[client.conf.task_default_queue]
        self.queue(self.connection.default_channel).declare()

    def take(self) -> Context:
        """The next call."""
        queue = self.queue(self.connection.default_channel)
        message = wait_until(lambda: queue.get(no_ack=True), "a call")
        return Context(
            id=message.headers["id"], args=message.payload[0],
            reply_to=message.properties["reply_to"],
        )  # fmt: skip

    def report(self, request: Context, value: Any, state: str = states.SUCCESS) -> None:
        self.app.backend.store_result(request.id, value, state, request=request)

    def close(self) -> None:
        self.connection.close()
        self.app.close()


@pytest.fixture
def app(url: str) -> Iterator[App]:
    made = make_app(url)
    yield made
    made.backend.mailbox.close()
    made.close()


@pytest.fixture
def answerer(app: App) -> Iterator[Answerer]:
    made = Answerer(app)
    yield made
    made.close()


def call(app: App, *args: Any) -> AsyncResult[Any]:
    return app.send_task("rpc.task", args)


def test_states_and_the_end(app: App, answerer: Answerer) -> None:
    first, second = call(app, 1), call(app, 2)
    assert (first.state, first.result, first.ready()) == ("PENDING", None, False)
    requests = [answerer.take(), answerer.take()]
    answerer.report(requests[0], {"done": 1}, "PROGRESS")
    wait_until(lambda: first.state == "PROGRESS", "the report")
    assert (first.info, second.state) == ({"done": 1}, "PENDING")
    for request in requests:
        answerer.report(request, request.args)
    seen: list[Any] = []
    assert second.get(timeout=PATIENCE_S, on_message=seen.append) == [2]
    assert [each["task_id"] for each in seen] == [second.id]
    assert (first.get(timeout=PATIENCE_S), first.get(timeout=0.01)) == ([1], [1])
    # Whoever asks later, in this process.
    assert (app.AsyncResult(first.id).state, app.AsyncResult(first.id).get(timeout=1)) == (
        "SUCCESS", [1],
    )  # fmt: skip
    first.forget()
    assert app.AsyncResult(first.id).state == "PENDING"
    with pytest.raises(TimeoutError):
        app.AsyncResult("of nobody").get(timeout=0.01)


def test_every_report_is_told(app: App, answerer: Answerer) -> None:
    result = call(app)
    request = answerer.take()
    told = [("STARTED", {"pid": 1}), ("PROGRESS", 1), ("PROGRESS", 2), ("SUCCESS", 3)]
    for state, value in told:
        answerer.report(request, value, state)
    seen: list[Any] = []
    assert result.get(timeout=PATIENCE_S, on_message=seen.append) == 3
    assert [(each["status"], each["result"]) for each in seen] == told


def test_errors(app: App, answerer: Answerer) -> None:
    result = call(app)
    answerer.report(answerer.take(), KeyError("gone"), "FAILURE")
    with pytest.raises(KeyError, match="gone"):
        result.get(timeout=PATIENCE_S)
    unreadable, other = call(app), call(app)
    request = answerer.take()
    with answerer.app.producer_or_acquire() as producer:
        producer.publish(
            "{", routing_key=request.reply_to, correlation_id=request.id,
            content_type="application/json", content_encoding="utf-8",
        )  # fmt: skip
    answerer.report(answerer.take(), "fine")
    assert other.get(timeout=PATIENCE_S) == "fine"
    with pytest.raises(DecodeError, match="Expecting"):
        unreadable.get(timeout=PATIENCE_S)


@pytest.mark.parametrize("persistent", [None, True])
@pytest.mark.parametrize("url", ["redis", "rabbitmq"], indirect=True)
def test_the_message(app: App, answerer: Answerer, persistent: bool | None) -> None:
    answerer.app.conf.result_persistent = persistent
    result = call(app)
    request = answerer.take()
    request.update(group="its group", parent_id="its parent")
    answerer.report(request, 1)
    assert request.reply_to == app.thread_oid
    queue = app.backend.binding(answerer.connection.default_channel)
    message = wait_until(lambda: queue.get(no_ack=True), "the answer")
    facts = message.content_type, message.properties["correlation_id"], message.headers
    assert facts == ("application/json", result.id, {})
    assert message.properties["delivery_mode"] == (2 if persistent else 1)
    document = message.payload
    assert document.pop("date_done")
    assert document == {
        "status": "SUCCESS", "result": 1, "traceback": None, "children": [],
        "task_id": result.id, "group_id": "its group", "parent_id": "its parent",
    }  # fmt: skip


def test_the_reply_queue(app: App) -> None:
    queue = app.backend.binding
    assert (queue.name, queue.routing_key, queue.exchange.name) == (app.thread_oid,) * 2 + ("",)
    assert (queue.durable, queue.auto_delete, queue.exclusive) == (True, True, False)
    assert queue.expires == 86400
    for given, kept in ((60, 60), (0, None)):
        assert rpc.RPCBackend(app, expires=given).binding.expires == kept


def test_threads_wait_for_their_own_and_for_each_others(app: App, answerer: Answerer) -> None:
    count, threads = 10, 6
    results: dict[int, list[AsyncResult[Any]]] = {}
    all_sent = threading.Barrier(threads)
    wrong: list[Any] = []

    def run(number: int) -> None:
        try:
            results[number] = [call(app, number, each) for each in range(count)]
            all_sent.wait(PATIENCE_S)
            for whose in (number, (number + 1) % threads):
                values = [each.get(timeout=PATIENCE_S) for each in results[whose]]
                if values != [[whose, each] for each in range(count)]:
                    wrong.append((number, values))
        except BaseException:
            wrong.append(traceback.format_exc())

    workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for each in workers:
        each.start()
    queues = set()
    for _ in range(count * threads):
        request = answerer.take()
        queues.add(request.reply_to)
        answerer.report(request, request.args)
    for each in workers:
        each.join(PATIENCE_S)
        assert not each.is_alive()
    assert wrong == []
    assert len(queues) == threads


def test_awaiting(app: App, answerer: Answerer) -> None:
    results = [call(app, number) for number in range(5)]

    def answer() -> None:
        for _ in results:
            request = answerer.take()
            answerer.report(request, request.args)

    async def main() -> list[Any]:
        waiting = [asyncio.ensure_future(each.aget(timeout=PATIENCE_S)) for each in results]
        await asyncio.to_thread(answer)
        return await asyncio.gather(*waiting)

    assert asyncio.run(main()) == [[number] for number in range(5)]


def test_a_group(app: App, answerer: Answerer) -> None:
    results = group(app.signature("rpc.task", (number,)) for number in range(5)).apply_async()
    for _ in range(5):
        request = answerer.take()
        answerer.report(request, request.args)
    assert results.get(timeout=PATIENCE_S) == [[number] for number in range(5)]
    assert (results.completed_count(), results.successful()) == (5, True)


@pytest.mark.parametrize("url", ["redis", "rabbitmq"], indirect=True)
def test_a_forked_child_has_its_own(app: App, answerer: Answerer) -> None:
    ours = call(app, "parent")
    assert ours.state == "PENDING"  # and the connection is open
    child = os.fork()
    if not child:
        try:
            os._exit(call(app, "child").get(timeout=PATIENCE_S) != ["child"])
        except BaseException:
            traceback.print_exc()
        os._exit(2)
    requests = [answerer.take(), answerer.take()]
    assert len({request.reply_to for request in requests}) == 2
    for request in reversed(requests):
        answerer.report(request, request.args)
    assert ours.get(timeout=PATIENCE_S) == ["parent"]
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("url", ["redis"], indirect=True)
def test_the_connection_is_made_anew(url: str, answerer: Answerer) -> None:
    port = int(url.rpartition(":")[2].partition("/")[0])
    with Proxy(port) as proxy:
        app = make_app(
            proxy.through(url), task_default_queue=answerer.queue.name,
            broker_write_url=url, result_accept_content=["json"],
        )  # fmt: skip
        first, second = call(app, 1), call(app, 2)
        requests = [answerer.take(), answerer.take()]
        answerer.report(requests[0], 1)
        assert first.get(timeout=PATIENCE_S) == 1
        proxy.cut()
        answerer.report(requests[1], 2)
        assert second.get(timeout=PATIENCE_S) == 2
        app.backend.mailbox.close()
        app.close()


@pytest.mark.parametrize("url", ["redis", TWIN], indirect=True)
def test_a_broker_that_is_away(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    result = call(app)
    monkeypatch.setattr(rpc_mailbox, "RECONNECT_S", 0.001)
    app.conf.broker_read_url = app.conf.broker_url.partition("//")[0] + "//127.0.0.1:1//"
    with pytest.raises(OperationalError):
        _ = result.state
    with pytest.raises(RuntimeError, match="Retry limit exceeded"):
        result.get(timeout=PATIENCE_S)
    with make_app(app.conf.broker_read_url) as away, pytest.raises(OperationalError):
        call(away)


@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_what_needs_a_store(app: App) -> None:
    results = GroupResult("of a group", [app.AsyncResult("one")], app=app)
    backend = app.backend
    for wrong in (
        results.save,
        lambda: GroupResult.restore("of a group", app=app),
        results.delete,
        lambda: backend.reload_task_result("one"),
        lambda: backend.reload_group_result("of a group"),
    ):
        with pytest.raises(NotImplementedError, match="is not supported by this backend"):
            wrong()
    with pytest.raises(NotImplementedError, match="does not support chords"):
        backend.ensure_chords_allowed()
    with pytest.raises(RuntimeError, match="missing task request for 'one'"):
        backend.store_result("one", 1, "SUCCESS")
    assert backend.as_uri() == "rpc://"
    # Nobody has asked for an answer.
    backend.store_result("one", 1, "SUCCESS", request=Context(id="one", reply_to=None))


@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_ignored_results_have_no_reply_queue(app: App) -> None:
    app.send_task("rpc.task", ignore_result=True)
    with app.connection_for_read() as connection:
        assert not _has_queue(connection, app.thread_oid)
    call(app)
    with app.connection_for_read() as connection:
        assert _has_queue(connection, app.thread_oid)


def _has_queue(connection: Connection, name: str) -> bool:
    return bool(connection.default_channel._has_queue(name))


MODULE = """
import json, os, time
from taskq import App

app = App("proj", backend="rpc://")
app.conf.update(json.loads(os.environ["CONF"]))


@app.task(name="proj.add")
def add(x, y):
    return x + y


@app.task(name="proj.stuck", time_limit=0.5)
def stuck():
    time.sleep(60)
"""


@pytest.mark.parametrize("url", ["redis", TWIN], indirect=True)
def test_a_worker_with_processes(app: App, tmp_path: Path) -> None:
    (tmp_path / "rpcapp.py").write_text(MODULE)
    settings = {
        "broker_url": app.conf.broker_url, "task_track_started": True,
        "task_default_queue": app.conf.task_default_queue,
    }  # fmt: skip
    env = {"CONF": json.dumps(settings)}
    with Worker(tmp_path, "-P", "prefork", "-c", "2", app="rpcapp", env=env):

        def add(*args: int) -> Any:
            return app.signature("proj.add", args)

        seen: list[Any] = []
        lost = app.send_task("proj.stuck")
        late = app.send_task("proj.add", (1, 1), expires=-1)
        first = add(1, 2).apply_async()
        assert first.get(timeout=PATIENCE_S, on_message=seen.append) == 3
        assert [each["status"] for each in seen] == ["STARTED", "SUCCESS"]
        chain = (add(1, 1) | add(2) | add(3)).apply_async()
        assert (chain.get(timeout=PATIENCE_S), chain.parent.get(timeout=PATIENCE_S)) == (7, 4)
        assert late.get(timeout=PATIENCE_S, propagate=False).args == ("expired",)
        assert type(lost.get(timeout=PATIENCE_S, propagate=False)).__name__ == "TimeLimitExceeded"
