"""Messages a worker cannot handle: logged, cut to a limit, settled as Celery does; it goes on.

One worker takes all of them; after each one a good task must succeed. What Celery 5.7.0 does with
each was observed: it rejects what is refused or unknown and acknowledges what cannot be decoded.
Where it ends with a traceback (`[args, kwargs]` without embed, no id, ...), the message is refused.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from journey.harness import Worker, client, count_messages, write_project
from kombu import Producer
from kombu.exceptions import EncodeError
from patience import PATIENCE_S, wait_until

from taskq import App
from taskq.exceptions import NotRegistered

GOOD_BODY = b"[[1, 2], {}, {}]"

#: More than this is never logged about one message: body, headers and traceback together.
LOGGED_AT_MOST = 12_000

BIG = b"A" * 2_000_000

SAID = """
from taskq.signals import task_rejected, task_unknown

for signal in (task_rejected, task_unknown):
    @signal.connect(weak=False)
    def tell(signal=None, **kwargs):
        print(f"signal {signal.name}")
"""


class Line(NamedTuple):
    """A running worker and a producer that writes what it likes on its queue."""

    worker: Worker
    app: App
    producer: Producer
    folder: Path


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    folder = tmp_path_factory.mktemp("poison")
    write_project(folder, SAID)
    app = client(folder)
    with Worker(folder) as worker, app.connection_for_write() as connection:
        yield Line(worker, app, Producer(connection.default_channel), folder)
    assert "Unrecoverable" not in worker.log
    assert "Connection to broker lost" not in worker.log


def headers(**changes: Any) -> dict[str, Any]:
    return {"lang": "py", "task": "proj.add", "id": str(uuid.uuid4()), **changes}


def feed(line: Line, body: bytes, said: dict[str, Any], kind: str = "application/json") -> str:
    """Send a message, then a good task; what was logged about the first."""
    start = len(line.worker.log)
    line.producer.publish(
        body, content_type=kind, content_encoding="utf-8", headers=said,
        exchange="", routing_key="celery",
    )  # fmt: skip
    result = line.app.send_task("proj.add", (20, 22))
    assert result.get(timeout=PATIENCE_S) == 42, line.worker.log[start:]
    logged = line.worker.log[start:]
    assert len(logged) < LOGGED_AT_MOST
    # Settled, one way or the other: nothing waits and nothing is held back.
    wait_until(lambda: count_messages(line.folder) == 0, "empty queue")
    return logged


NOT_DECODED = "look at the\nprogram that sent it."
NO_CALL = "A task message has the headers `task`, `id` and the body [args, kwargs, embed]."
REFUSED = "signal task_rejected"

MESSAGES: dict[str, tuple[bytes, dict[str, Any], list[str]]] = {
    "body is not JSON": (b"{nope", headers(), ["Can't decode message body", NOT_DECODED]),
    "body is not UTF-8": (b"\xff[" + BIG, headers(), ["Can't decode message body", NOT_DECODED]),
    "body is not compressed": (
        GOOD_BODY,
        headers(compression="application/x-gzip"),
        ["Can't decode message body", "incorrect header check", NOT_DECODED],
    ),
    "unknown compression": (
        GOOD_BODY,
        headers(compression="application/x-wot"),
        ["Can't decode message body", "application/x-wot", NOT_DECODED],
    ),
    "nested too deep": (
        b"[" * 100_000 + b"]" * 100_000,
        headers(),
        ["Can't decode message body", "RecursionError"],
    ),
    "not JSON, protocol 1": (b"{nope", {}, ["Can't decode message body", NOT_DECODED]),
    "no task at all": (
        b'{"hello": 1}',
        {},
        ["Received and deleted unknown message.  Wrong destination?!?", "{'hello': 1} (12b)"],
    ),
    "no task at all, long": (
        json.dumps(BIG.decode()).encode(),
        {},
        ["Received and deleted unknown message", "(2000002b)"],
    ),
    "a list without headers": (b"[1, 2]", {}, ["Received and deleted unknown message", REFUSED]),
    "no embed": (b"[[1, 2], {}]", headers(), ["invalid task message", NO_CALL, REFUSED]),
    "a number": (b"5", headers(), ["invalid task message", NO_CALL, "not 5", REFUSED]),
    "nothing": (b"", headers(), ["invalid task message", NO_CALL, REFUSED]),
    "args that are none": (
        json.dumps([BIG.decode(), {}, {}]).encode(),
        headers(),
        ["invalid task message: task args must be a list or tuple", REFUSED],
    ),
    "kwargs that are none": (
        b"[[1, 2], 5, {}]",
        headers(),
        ["invalid task message: task keyword arguments must be a mapping, not 5", REFUSED],
    ),
    "no id": (
        GOOD_BODY,
        {"task": "proj.add"},
        ["invalid task message: the message header 'id' must be text, not None", REFUSED],
    ),
    "no id, protocol 1": (b'{"task": "proj.add"}', {}, ["header 'id' must be text", REFUSED]),
    "ETA that is no date": (
        GOOD_BODY,
        headers(eta="soon" + BIG.decode()),
        ["invalid task message: invalid ETA value", REFUSED],
    ),
    "expiry that is no date": (
        GOOD_BODY,
        headers(expires="never"),
        ["invalid expires value 'never'", "expected ISO 8601", REFUSED],
    ),
    "limits that are no pair": (
        GOOD_BODY,
        headers(timelimit=5),
        ["the message header 'timelimit' must be [hard, soft] seconds, not 5", REFUSED],
    ),
    "a task that is no name": (GOOD_BODY, headers(task=["x"]), ["Received unregistered task"]),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_that_is_no_call(line: Line, name: str) -> None:
    body, said, texts = MESSAGES[name]
    logged = feed(line, body, said)
    for text in texts:
        assert text in logged


@pytest.mark.parametrize(
    ("kind", "body"), [("application/x-foo", BIG), ("application/x-python-serialize", b"\x80\x04N")]
)
def test_a_content_type_that_is_unknown_or_not_accepted(line: Line, kind: str, body: bytes) -> None:
    logged = feed(line, body, headers(), kind)
    assert "Refusing to deserialize" in logged
    assert kind in logged
    assert "This worker accepts json (setting accept_content)." in logged
    assert "add the type to accept_content" in logged
    assert REFUSED in logged


def test_an_unknown_task(line: Line) -> None:
    said = headers(task="proj.ad")
    logged = feed(line, GOOD_BODY, said)
    assert "Received unregistered task of type 'proj.ad'." in logged
    assert "Did you mean 'proj.add'?" in logged
    assert "Did you remember to import the module containing this task" in logged
    assert "[[1, 2], {}, {}]" in logged
    assert "signal task_unknown" in logged
    with pytest.raises(NotRegistered):
        line.app.AsyncResult(said["id"]).get(timeout=PATIENCE_S)


def test_an_unknown_task_with_a_name_without_end(line: Line) -> None:
    feed(line, GOOD_BODY, headers(task=BIG.decode()))


def test_a_mapping_under_headers_of_protocol_2(line: Line) -> None:
    good = headers()
    feed(line, b'{"args": [1, 2], "kwargs": {}}', good)
    assert line.app.AsyncResult(good["id"]).get(timeout=PATIENCE_S) == 3
    other = headers()
    feed(line, b'{"hello": 1}', other)
    with pytest.raises(TypeError, match="missing 2 required positional arguments"):
        line.app.AsyncResult(other["id"]).get(timeout=PATIENCE_S)


def test_ten_megabytes_there_and_back(line: Line) -> None:
    text = "0123456789" * 1_000_000
    start = len(line.worker.log)
    result = line.app.send_task("proj.echo", (text,))
    back = result.get(timeout=PATIENCE_S)
    assert hashlib.sha256(back.encode()).digest() == hashlib.sha256(text.encode()).digest()
    line.worker.wait_for_log(f"{result.id}] succeeded")
    assert len(line.worker.log) - start < LOGGED_AT_MOST


class Unwritable:
    """What no serializer but pickle can write."""


def test_arguments_that_cannot_be_written_are_refused_in_the_caller(tmp_path: Path) -> None:
    app = client(tmp_path)

    @app.task(name="bad.any")
    def anything(value: object = None) -> None:
        """Never run."""

    for send in (
        lambda: anything.delay(Unwritable()),
        lambda: anything.apply_async(kwargs={"value": {1, 2, Unwritable()}}),
        lambda: app.send_task("elsewhere", ([Unwritable()],)),
    ):
        with pytest.raises(EncodeError, match="is not JSON serializable"):
            send()
    anything.delay("fine")
    assert count_messages(tmp_path) == 1
