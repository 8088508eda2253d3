"""An application written for Celery, on a real broker and Redis results, and what a client does.

    python interopproj.py call      # makes every call, prints one JSON document of what came back
    python interopproj.py read      # reads, by their ids, the results of another process's calls
    python interopproj.py flood N   # sends N tasks
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from celery import Celery, chain, group
from celery.result import AsyncResult, GroupResult

HERE = Path(os.environ["INTEROP_FOLDER"])
SIDE = os.environ["INTEROP_SIDE"]
LONG = 60

app = Celery("interopproj")
app.conf.update(
    broker_url=os.environ["INTEROP_BROKER"],
    result_backend=os.environ["INTEROP_RESULTS"],
    broker_connection_retry_on_startup=True,
    task_protocol=int(os.environ.get("INTEROP_PROTOCOL", "2")),
    task_default_queue="interop",
    accept_content=["json", "pickle", "yaml", "msgpack"],
    worker_send_task_events=False,
)


class Refused(ValueError):
    """A user's exception."""


def note(*facts):
    with (HERE / "notes").open("a") as file:
        file.write(json.dumps([SIDE, *facts]) + "\n")


@app.task
def add(x, y):
    return x + y


@app.task
def refuse(text):
    raise Refused(text, 7)


@app.task(bind=True, max_retries=3)
def again(self, until):
    if self.request.retries < until:
        raise self.retry(countdown=0.05)
    return self.request.retries


@app.task(bind=True, autoretry_for=(OSError,), max_retries=2, default_retry_delay=0.05)
def auto(self, until):
    if self.request.retries < until:
        raise OSError("not yet")
    return self.request.retries


@app.task(acks_late=True)
def late(x):
    return x


@app.task
def moment():
    return time.time()


@app.task(ignore_result=True)
def silent(text):
    note("silent", text)


@app.task
def failed(request, exc, traceback):
    note("failed", request.id, type(exc).__name__, str(exc))


@app.task
def linked(value):
    note("linked", value)


@app.task
def mark(number):
    note(number)


def outcome(result):
    """The value, or the exception's type and message."""
    try:
        return result.get(timeout=LONG)
    except Exception as exc:
        return [type(exc).__name__, str(exc), isinstance(exc, Refused)]


def call():
    start = time.time()
    ids = {
        "add": add.delay(1, 2).id,
        "refuse": refuse.delay("no").id,
        "chain": chain(add.s(1, 1), add.s(10), late.s()).apply_async().id,
    }
    members = group(add.s(i, i) for i in range(5)).apply_async()
    members.save()
    told = refuse.apply_async(("told",), link_error=failed.s())
    ignored = silent.delay("here")
    done = {
        "success": outcome(AsyncResult(ids["add"])),
        "failure": outcome(AsyncResult(ids["refuse"])),
        "chain": outcome(AsyncResult(ids["chain"])),
        "group": members.get(timeout=LONG),
        "retry": outcome(again.delay(2)),
        "autoretry": outcome(auto.delay(1)),
        "autoretry, too often": outcome(auto.delay(5)),
        "late ack": outcome(late.delay("late")),
        "eta": moment.apply_async(countdown=1).get(timeout=LONG) - start >= 1,
        "expired": outcome(add.apply_async((1, 1), expires=-60)),
        "link": outcome(add.apply_async((3, 4), link=linked.s())),
        "told": outcome(told),
        "ignored": ignored.state,
    }
    for serializer in ("json", "pickle", "yaml", "msgpack"):
        text = "naïve ☃"
        done[serializer] = outcome(late.apply_async((text,), serializer=serializer)) == text
    return {"ids": {**ids, "group": members.id, "told": told.id}, "done": done}


def ask():
    """As call(), of results that only this process can read."""
    members = group(add.s(i, i) for i in range(5)).apply_async()
    told = []
    again_and_on = again.delay(2)
    value = again_and_on.get(timeout=LONG, on_message=lambda document: told.append(document))
    return {
        "success": outcome(add.delay(1, 2)),
        "failure": outcome(refuse.delay("no")),
        "chain": outcome(chain(add.s(1, 1), add.s(10), late.s()).apply_async()),
        "group": members.get(timeout=LONG),
        "expired": outcome(add.apply_async((1, 1), expires=-60)),
        "ignored": silent.delay("here").state,
        "retry": value,
        "states": [each["status"] for each in told if each["task_id"] == again_and_on.id],
    }


def read(ids):
    members = GroupResult.restore(ids["group"])
    return {
        "add": outcome(AsyncResult(ids["add"])),
        "refuse": outcome(AsyncResult(ids["refuse"])),
        "traceback": "Refused" in AsyncResult(ids["refuse"]).traceback,
        "chain": outcome(AsyncResult(ids["chain"])),
        "group": members.get(timeout=LONG),
        "states": [AsyncResult(ids[name]).state for name in ("add", "refuse")],
    }


def flood(count):
    for number in range(count):
        mark.apply_async((number,), ignore_result=True)


if __name__ == "__main__":
    import interopproj  # tasks are named after the module, not after __main__

    what, *given = sys.argv[1:]
    print(json.dumps(getattr(interopproj, what)(*map(json.loads, given))))
