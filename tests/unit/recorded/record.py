"""Record what Celery 5.7.0 publishes, as JSON beside this file; run with a Python that has it.

    python tests/unit/recorded/record.py     (celery==5.7.0, kombu, PyYAML, msgpack)

The messages go through kombu's memory transport. Ids, time and origin are fixed, so that a second
run writes the same bytes. `CASES` names the calls; tests/unit/test_protocol.py and
tests/unit/app/test_amqp.py make the same calls with taskq and compare.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

NOW = datetime(2030, 3, 31, 0, 30, tzinfo=timezone.utc)
TASK_ID = "c3a7d2a4-7f5e-4a53-9a0e-2f3f3d7f3e01"
REPLY_TO = "0e0d8d8c-7b57-3c1b-8b4e-5b8a4c8f0a11"
ORIGIN = "gen4242@recorder"

OSLO_SUMMER = timezone(timedelta(hours=2))
SIGNATURE = {
    "task": "proj.after",
    "args": [1],
    "kwargs": {"k": None},
    "options": {"task_id": "after-1", "reply_to": REPLY_TO},
    "subtask_type": None,
    "immutable": False,
}

#: name -> (args, kwargs of the task, options of create_task_message, options of publishing).
CASES: dict[str, tuple[Any, Any, dict[str, Any], dict[str, Any]]] = {
    "plain": ((1, "two"), {"three": 3.5}, {}, {}),
    "no_arguments": (None, None, {}, {}),
    "list_arguments": ([1, [2, [3, [4, [5]]]]], {"d": {"e": {"f": {"g": {}}}}}, {}, {}),
    "countdown": ((), {}, {"countdown": 10}, {}),
    "countdown_fraction": ((), {}, {"countdown": 0.5}, {}),
    "eta_aware": ((), {}, {"eta": datetime(2031, 6, 1, 12, 0, tzinfo=OSLO_SUMMER)}, {}),
    "eta_naive": ((), {}, {"eta": datetime(2031, 6, 1, 12, 0, 0, 250)}, {}),
    "eta_text": ((), {}, {"eta": "2031-06-01T12:00:00"}, {}),
    "eta_and_countdown": ((), {}, {"eta": datetime(2031, 6, 1), "countdown": 60}, {}),
    "expires_seconds": ((), {}, {"expires": 120}, {"expiration": 120}),
    "expires_datetime": ((), {}, {"expires": datetime(2031, 6, 1, tzinfo=timezone.utc)}, {}),
    "expires_past": ((), {}, {"expires": -5}, {"expiration": 0}),
    "shadow": ((), {}, {"shadow": "shown.name"}, {}),
    "headers": ((), {}, {}, {"headers": {"tenant": "acme", "nested": {"a": [1]}}}),
    "link": ((2,), {}, {"callbacks": [SIGNATURE]}, {}),
    "link_error": ((2,), {}, {"errbacks": [SIGNATURE, SIGNATURE]}, {}),
    "chain_member": (
        (2,),
        {},
        {"chain": [SIGNATURE], "root_id": "root-1", "parent_id": "parent-1"},
        {},
    ),
    "chord_member": ((), {}, {"chord": SIGNATURE, "group_id": "g-1", "group_index": 0}, {}),
    "group_member": ((), {}, {"group_id": "g-1", "group_index": 3, "root_id": "root-1"}, {}),
    "priority": ((), {}, {}, {"priority": 7}),
    "quotes": (
        ("it's", 'say "hi"', "back\\slash", "new\nline", "\u00e9\u4e2d"),
        {"o'k": "'"},
        {},
        {},
    ),
    "constants": ((1,), {"n": None, "t": True, "f": float("inf")}, {}, {}),
    "argsrepr_truncated": ((list(range(500)),), {"text": "x" * 2000}, {}, {}),
    "argsrepr_long_text": (("y" * 3000,), {}, {}, {}),
    "argsrepr_given": ((1,), {}, {"argsrepr": "(secret)", "kwargsrepr": "{hidden}"}, {}),
    "ignore_result": ((), {}, {"ignore_result": True}, {}),
    "ignore_result_unsaid": ((), {}, {"ignore_result": None}, {}),
    "time_limits": ((), {}, {"time_limit": 30, "soft_time_limit": 20.5}, {}),
    "retried": (
        (1,),
        {},
        {"retries": 2, "countdown": 180, "parent_id": TASK_ID},
        {"origin": ORIGIN},
    ),
    "replaced": ((), {}, {"replaced_task_nesting": 2}, {}),
    "stamped": (
        (),
        {},
        {"stamped_headers": ["tenant", "trace"], "tenant": ["a", "b"], "trace": "t-1", "other": 1},
        {},
    ),
    "custom_properties": ((), {}, {}, {"user_id": "u", "message_id": "m-1", "app_id": "a"}),
    "transient": ((), {}, {}, {"delivery_mode": 1}),
    "own_queue": ((), {}, {}, {"queue": "images"}),
    "gzip": ((1, "z" * 500), {}, {}, {"compression": "gzip"}),
    "bzip2": ((1, "z" * 500), {}, {}, {"compression": "bzip2"}),
    "pickle": ((1, "two"), {"three": 3}, {}, {"serializer": "pickle"}),
    "yaml": ((1, "two"), {"three": 3}, {}, {"serializer": "yaml"}),
    "msgpack": ((1, "two"), {"three": 3}, {}, {"serializer": "msgpack"}),
    "json_types": (
        (datetime(2030, 1, 2, 3, 4, 5), datetime(2030, 1, 2).date(), b"raw", b"\xff\x00"),
        {},
        {},
        {},
    ),
}
#: Those that protocol 1 can carry; recorded a second time with task_protocol = 1.
CASES_V1 = (
    "plain", "no_arguments", "countdown", "expires_seconds", "link", "link_error",
    "group_member", "chord_member", "time_limits", "headers", "priority", "gzip",
)  # fmt: skip


#: Where taskq's argsrepr escapes as repr() does, and Celery's does not.
READABLE_REPR = ("quotes", "json_types")

#: What a worker knows of the run that is retried.
REQUEST = {
    "id": TASK_ID,
    "args": (1, 2),
    "kwargs": {},
    "headers": {"x-death": [{"count": 1}], "x-first-death-queue": "q", "x-tenant": "acme"},
    "delivery_info": {"exchange": "", "routing_key": "images", "priority": 4},
    "timelimit": [30, 20],
    "parent_id": "parent-1",
    "root_id": "root-1",
    "group": "g-1",
    "group_index": 2,
    "callbacks": [SIGNATURE],
    "errbacks": None,
    "chain": None,
    "chord": None,
    "retries": 1,
    "reply_to": REPLY_TO,
    "correlation_id": TASK_ID,
    "origin": ORIGIN,
    "stamped_headers": ["tenant"],
    "stamps": {"tenant": "acme"},
    "replaced_task_nesting": 0,
    "ignore_result": False,
}

#: Calls by way of tasks and signatures: name -> function of (task, group).
CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "delay": lambda add, group: add.delay(1, y=2),
    "link": lambda add, group: add.apply_async((1, 2), link=add.s(3), link_error=add.si(4, 5)),
    "links": lambda add, group: add.apply_async((1, 2), link=[add.s(3), add.s(4)]),
    "chain": lambda add, group: (add.s(1, 2) | add.s(3) | add.s(4)).apply_async(),
    "chain_link": lambda add, group: (add.s(1, 2) | add.s(3)).apply_async(link=add.s(9)),
    "chain_to_group": lambda add, group: (add.s(1, 2) | group(add.s(3), add.s(4))).apply_async(),
    "group": lambda add, group: group(add.s(1, 1), add.s(2, 2)).apply_async(),
    "group_countdown": lambda add, group: group(add.s(1, 1), add.s(2, 2)).apply_async(countdown=5),
    "options": lambda add, group: add.apply_async(
        (1, 2), countdown=3, expires=60, priority=3, shadow="shown", time_limit=9, headers={"a": 1}
    ),
    "signature": lambda add, group: add.signature((1, 2), priority=6).set(queue="images").delay(),
    "send_task": lambda add, group: add.app.send_task("proj.unknown", (1,), {"k": 2}),
    "retry": lambda add, group: add.signature_from_request(
        type(add.request)(REQUEST), (1, 2), {}, countdown=180, retries=2
    ).apply_async(),
}

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def make_app(module: Any, **settings: Any) -> Any:
    """An application of Celery or taskq that publishes to memory."""
    app = module("recorded", broker="memory://", set_as_current=False)
    app.conf.update(settings)
    app.now = lambda: NOW
    return app


def publish(app: Any, name: str) -> dict[str, Any]:
    """Make the call `name`, and give back what arrives at the broker."""
    args, kwargs, call, sending = CASES[name]
    call = dict({"reply_to": REPLY_TO}, **call)
    if app.conf.task_protocol == 2:
        call.setdefault("origin", ORIGIN)
    message = app.amqp.create_task_message(TASK_ID, "proj.work", args, kwargs, **call)
    with app.producer_or_acquire() as producer:
        app.amqp.send_task_message(producer, "proj.work", message, **sending)
        channel = producer.channel
        queue = app.amqp.queues[sending.get("queue", "celery")]
        raw = channel._get(queue.name)
    raw["properties"].pop("delivery_tag")
    return raw  # type: ignore[no-any-return]  # kombu's raw message is a dict


def sent_event(app: Any, name: str) -> dict[str, Any]:
    """The fields of the task-sent event of the call `name`."""
    args, kwargs, call, _ = CASES[name]
    message = app.amqp.create_task_message(
        TASK_ID, "proj.work", args, kwargs, create_sent_event=True, **call
    )
    return message.sent_event  # type: ignore[no-any-return]  # an untyped attribute of both


def call(app: Any, group: Any, name: str) -> list[dict[str, Any]]:
    """Make the call `name` of CALLS, and give back its messages with decoded bodies.

    Ids are numbered in the order they turn up; the sender's address is taken out.
    """
    add = app.tasks.get("proj.add") or app.task(name="proj.add")(_add)
    CALLS[name](add, group)
    messages = []
    with app.connection_for_write() as connection:
        for queue in ("celery", "images"):
            messages += _drain(connection.default_channel, queue)
    text = json.dumps(messages).replace(messages[0]["properties"]["reply_to"], "reply-to")
    seen: dict[str, str] = {}
    text = _UUID.sub(lambda found: seen.setdefault(found[0], f"id-{len(seen)}"), text)
    return json.loads(re.sub(r"gen\d+@[^\"]+", ORIGIN, text))  # type: ignore[no-any-return]


def _add(x: Any, y: Any) -> Any:
    return x + y


def _drain(channel: Any, queue: str) -> list[dict[str, Any]]:
    raw = []
    while channel.queues.get(queue) is not None and channel._size(queue):
        raw.append(channel._get(queue))
    for message in raw:
        message["properties"].pop("delivery_tag")
        message["body"] = json.loads(base64.b64decode(message["body"]))
    return raw


def record() -> None:
    """Write the recordings."""
    import celery

    assert celery.__version__ == "5.7.0", celery.__version__
    app = make_app(celery.Celery)
    _write("protocol2.json", {name: publish(app, name) for name in CASES})
    _write("sent_events.json", {name: sent_event(app, name) for name in ("plain", "countdown")})
    app = make_app(celery.Celery)
    _write("calls.json", {name: call(app, celery.group, name) for name in CALLS})
    app = make_app(celery.Celery, task_protocol=1)
    _write("protocol1.json", {name: publish(app, name) for name in CASES_V1})


def _write(filename: str, recorded: dict[str, Any]) -> None:
    text = json.dumps(recorded, indent=1, sort_keys=False)
    (HERE / filename).write_text(text + "\n")
    sys.stdout.write(f"{filename}: {len(recorded)} messages\n")


if __name__ == "__main__":
    record()
