"""Values that travel pickled; run by Celery 5.7.0 and by taskq, each as `celery`.

`write` prints a JSON object, name -> pickle in base64, written by kombu's serialiser;
`read` takes such an object from standard input and prints name -> what was read, as text.
Celery's are recorded in `recorded_pickles.json`: `python pickles.py write > recorded_pickles.json`.
"""

from __future__ import annotations

import base64
import json
import sys

from celery import Celery, chain, group, signature
from celery.exceptions import (
    BackendStoreError,
    ChordError,
    Ignore,
    MaxRetriesExceededError,
    NotRegistered,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    WorkerLostError,
)
from celery.result import AsyncResult, GroupResult
from kombu.serialization import dumps, loads

# A result is pickled with its backend: one that both have.
app = Celery("pickles", broker="memory://", backend="disabled://")


class Refused(ValueError):
    """A user's exception; its module is this file, run as a program."""


def values():
    one, two = signature("proj.add", (1, 2), {"z": {3}}), signature("proj.mul", (4,))
    results = [AsyncResult("id-1"), AsyncResult("id-2", parent=AsyncResult("id-0"))]
    return {
        "signature": one,
        "immutable": one.clone().set(queue="q", immutable=True).on_error(two),
        "chain": chain(one, two),
        "group": group([one, two]),
        "nested": chain(one, group([two, chain(one, two)])),
        "result": results[1],
        "group_result": GroupResult("group-1", results),
        "max_retries": MaxRetriesExceededError("no more", task_args=[1], task_kwargs={"a": 2}),
        "revoked": TaskRevokedError("revoked"),
        "retry": Retry("later", ValueError("why"), when=3),
        "ignore": Ignore(),
        "reject": Reject("bad", requeue=True),
        "not_registered": NotRegistered("proj.gone"),
        "chord_error": ChordError("Dependency id-1 raised ValueError()"),
        "store_error": BackendStoreError("full", state="SUCCESS", task_id="id-1"),
        "soft_limit": SoftTimeLimitExceeded(30),
        "lost": WorkerLostError("gone"),
        "user_error": Refused("too dear", 7),
        "plain": [{1, 2}, (3, b"4"), {"five": 6.0}],
    }


def describe(value):
    """What can be told from a value on either side, in the same words."""
    name = type(value).__name__
    if isinstance(value, BaseException):
        facts = {key: repr(fact) for key, fact in vars(value).items() if not key.startswith("_")}
        # Celery's Retry has itself among its arguments.
        return [name, *([] if name == "Retry" else [repr(value.args)]), str(value), facts]
    if hasattr(value, "as_tuple"):
        return [name, str(value), value.as_tuple()]
    if isinstance(value, dict):
        return [name, repr(value), repr(value["options"]), value["immutable"]]
    return [name, repr(value)]


def write():
    return {
        name: base64.b64encode(dumps(value, "pickle")[2]).decode()
        for name, value in values().items()
    }


def read(pickles):
    kind = "application/x-python-serialize"
    return {
        name: describe(loads(base64.b64decode(text), kind, "binary", accept=[kind]))
        for name, text in pickles.items()
    }


if __name__ == "__main__":
    answer = write() if sys.argv[1] == "write" else read(json.load(sys.stdin))
    json.dump(answer, sys.stdout, indent=1, sort_keys=True)
    print()
