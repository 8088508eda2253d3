"""Results in Redis; run by Celery 5.7.0 and by taskq, each as `celery`.

`store URL SERIALIZER` stores results under the ids read from standard input as `id outcome`, one a
line, and prints each id when it is done. `get URL SERIALIZER` prints `waiting`, waits for the
results of the ids it reads, all at once in threads, and prints what `get()` has given or raised.
"""

from __future__ import annotations

import json
import sys
import threading

from celery import Celery
from celery.result import AsyncResult, GroupResult

app = Celery("results", broker="memory://", backend=sys.argv[2])
app.conf.update(
    result_serializer=sys.argv[3],
    result_accept_content=["json", "pickle", "msgpack", "yaml"],
    result_backend_transport_options={"global_keyprefix": "shop"},
    result_compression="zlib" if sys.argv[3] == "pickle" else None,
)
ENDINGS = {
    "value": lambda backend, task_id: backend.mark_as_done(task_id, {"x": [1, "two", None]}),
    "error": lambda backend, task_id: backend.mark_as_failure(task_id, KeyError("k", 3), "tb"),
    "revoked": lambda backend, task_id: backend.mark_as_revoked(task_id, "told to"),
}


def finish(backend, task_id, ending):
    backend.mark_as_started(task_id, pid=1, hostname="w@h")
    ENDINGS[ending](backend, task_id)
    # What comes late never replaces a success, whoever stored that.
    if ending == "value":
        backend.mark_as_failure(task_id, ValueError("late"))


def store():
    for line in sys.stdin:
        task_id, ending = line.split()
        if ending == "group":
            GroupResult(task_id, [AsyncResult(f"{task_id}-{n}") for n in range(3)]).save()
            for number in range(3):
                app.backend.mark_as_done(f"{task_id}-{number}", number)
        else:
            finish(app.backend, task_id, ending)
        print(task_id, flush=True)


def get():
    told = {}

    def wait(task_id):
        try:
            told[task_id] = app.AsyncResult(task_id).get(timeout=60)
        except Exception as exc:
            told[task_id] = [type(exc).__name__, str(exc)]

    lines = [line.split() for line in iter(sys.stdin.readline, "\n")]
    threads = [
        threading.Thread(target=wait, args=(task_id,))
        for task_id, ending in lines
        if ending != "group"
    ]
    for thread in threads:
        thread.start()
    print("waiting", flush=True)
    sys.stdin.readline()
    for task_id, ending in lines:
        if ending == "group":
            told[task_id] = app.GroupResult.restore(task_id).get(timeout=60)
    for thread in threads:
        thread.join()
    print(json.dumps(told, sort_keys=True), flush=True)


if __name__ == "__main__":
    {"store": store, "get": get}[sys.argv[1]]()
