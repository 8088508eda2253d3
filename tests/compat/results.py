"""Result documents; run by Celery 5.7.0 and by taskq, each as `celery`.

`write SERIALIZER` prints a JSON object, name -> stored document; `read SERIALIZER` takes such an
object from standard input and prints name -> what a client is told. Celery's are recorded in
`recorded_results.json`: {serializer: what `write` printed}.
"""

from __future__ import annotations

import base64
import json
import sys
import traceback

from celery import Celery
from celery.app.task import Context
from celery.exceptions import (
    ChordError,
    MaxRetriesExceededError,
    NotRegistered,
    Reject,
    WorkerLostError,
)
from celery.result import AsyncResult, GroupResult

app = Celery("results", broker="memory://", backend="cache+memory://")
app.conf.update(
    result_serializer=sys.argv[2], accept_content=["json", "pickle"], result_extended=True
)
PLAIN = [1, "two", None, {"three": [3.5, True]}]
FAILURES = {
    "builtin": KeyError("missing"),
    "no_arguments": ZeroDivisionError(),
    "many_arguments": OSError(2, "No such file", "name"),
    "max_retries": MaxRetriesExceededError("no more"),
    "not_registered": NotRegistered("proj.gone"),
    "chord_error": ChordError("Dependency x raised ValueError()"),
    "lost": WorkerLostError("gone"),
    "reject": Reject("bad", True),
}


class Refused(ValueError):
    """A user's exception; its module is this file, run as a program."""


def request(name):
    return Context(
        id=name, task="proj.add", args=[1, "x"], kwargs={"k": None}, retries=2, hostname="w@h",
        delivery_info={"routing_key": "celery"}, parent_id="parent-1", group="group-1",
    )  # fmt: skip


def store():
    backend = app.backend
    backend.mark_as_done("plain", PLAIN, request=request("plain"))
    backend.mark_as_done("bare", None)
    parent = request("children")
    parent._children = [AsyncResult("child-1"), GroupResult("group-2", [AsyncResult("child-2")])]
    backend.mark_as_done("children", "parent", request=parent)
    backend.mark_as_started("started", pid=1, hostname="w@h")
    backend.store_result("progress", {"done": 0.5}, "PROGRESS", request=request("progress"))
    for name, error in {**FAILURES, "user_error": Refused("too dear", 7)}.items():
        try:
            raise error
        except Exception as exc:
            text = traceback.format_exc().strip()
            backend.mark_as_failure(name, exc, text, request=request(name))
    backend.mark_as_retry("retry", ValueError("again"), "the traceback", request=request("retry"))
    backend.mark_as_revoked("revoked", "told to", request=request("revoked"))
    names = ["plain", "bare", "children", "started", "progress", "retry", "revoked", "user_error"]
    return [*names, *FAILURES]


def write():
    backend = app.backend
    documents = {}
    for name in store():
        document = backend.get(backend.get_key_for_task(name))
        if isinstance(document, str):
            document = document.encode()
        documents[name] = base64.b64encode(document).decode()
    return documents


def read(documents):
    backend = app.backend
    told = {}
    for name, document in documents.items():
        backend.set(backend.get_key_for_task(name), base64.b64decode(document))
        told[name] = describe(AsyncResult(name))
    return told


def describe(result):
    value = result.result
    facts = {
        "state": result.state,
        "type": type(value).__name__,
        "value": repr(value),
        "arguments": repr(getattr(value, "args", None)),
        # A traceback names the class where it is defined.
        "traceback": (result.traceback or "").rpartition("\n")[2].replace("taskq.", "celery."),
        "children": [child.as_tuple() for child in result.children or ()],
        "dated": type(result.date_done).__name__,
        "call": [result.name, result.args, result.kwargs, result.retries, result.worker,
                 result.queue],
        "raised": None,
    }  # fmt: skip
    if result.ready():
        try:
            result.get(timeout=60)
        except Exception as exc:
            facts["raised"] = [type(exc).__name__, str(exc)]
    return facts


if __name__ == "__main__":
    answer = write() if sys.argv[1] == "write" else read(json.load(sys.stdin))
    json.dump(answer, sys.stdout, indent=1, sort_keys=True)
    print()
