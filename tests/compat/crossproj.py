"""An application written for Celery; taskq and Celery 5.7.0 both run it, each as `celery`.

Tasks write down what they saw, one JSON line each, because the two have no result store in common.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from celery import Celery, group, shared_task, signature
from celery.canvas import Signature
from celery.utils.log import get_task_logger

HERE = Path(os.environ["CROSS_FOLDER"])
SIDE = os.environ["CROSS_SIDE"]
SERIALIZER = os.environ["CROSS_SERIALIZER"]

app = Celery("crossproj", broker=os.environ["CROSS_BROKER"], backend=os.environ["CROSS_RESULTS"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_serializer=SERIALIZER,
    result_serializer=SERIALIZER,
    accept_content=["json", "pickle"],
    task_default_queue=os.environ.get("CROSS_QUEUE", "cross"),
    worker_send_task_events=False,
    result_extended=True,
)
logger = get_task_logger(__name__)


class Refused(ValueError):
    """A user's exception."""


def note(what, *facts):
    line = json.dumps([what, SIDE, *facts]) + "\n"
    with (HERE / "notes").open("a") as file:
        file.write(line)


@app.task
def add(x, y):
    note("add", x, y)
    return x + y


@app.task
def keep(value):
    note("keep", value)


@app.task(bind=True, max_retries=3)
def again(self, until):
    note("again", self.request.retries)
    if self.request.retries < until:
        raise self.retry(countdown=0.05)
    return until


@app.task
def boom(text):
    raise Refused(text, 7)


@shared_task(name="crossproj.failed")
def failed(request, exc, traceback):
    """An errback that takes three arguments; run by the worker that saw the error."""
    note("failed", request.id, request.task, type(exc).__name__, list(exc.args))


@shared_task(name="crossproj.failed_id")
def failed_id(task_id):
    """An errback of the old kind."""
    note("failed_id", task_id)


@app.task(bind=True)
def about(self, *args, **kwargs):
    """What of the call can be seen in the task."""
    request = self.request
    note(
        "about", request.id, list(args), kwargs, request.headers or {}, request.root_id,
        request.parent_id, request.group, request.delivery_info["routing_key"],
        request.timelimit, request.eta, request.is_eager, request.correlation_id,
        request.origin.partition("@")[0][:3], request.argsrepr,
    )  # fmt: skip


@app.task
def call(sig):
    """A signature as an argument."""
    note("call", isinstance(sig, Signature), signature(sig, app=app).task)
    signature(sig, app=app).delay()


@app.task
def fan_out(numbers):
    """A group made and sent by the worker."""
    group(keep.si(number) for number in numbers).delay()


@app.task
def kinds(*values):
    note("kinds", [f"{type(value).__name__} {value}" for value in values])
