"""Behaviours 79 to 84, 88 to 91 and 105: acknowledging, and time limits."""

from __future__ import annotations

import pytest
import sides
from billiard.exceptions import WorkerLostError
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from kombu.message import Message
from servers.fixtures import redis_server  # noqa: F401 # a fixture

#: What the tasks below do, and what becomes of their messages, as lines of the worker's log.
SOURCE = """
import os, signal, time
from celery import signals
from celery.exceptions import Reject, SoftTimeLimitExceeded
from celery.worker.request import Request

MAIN = os.getpid()

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def spy(cls, name, tell):
    original = getattr(cls, name)
    def call(self, *args, **kwargs):
        tell(self, *args, **kwargs)
        return original(self, *args, **kwargs)
    setattr(cls, name, call)

def settle(self, how):
    if not self.acknowledged:
        say("SETTLED", self.id, how)

spy(Request, "acknowledge", lambda self: settle(self, "ack"))
spy(Request, "reject", lambda self, requeue=False: settle(self, "requeue" if requeue else "reject"))

@signals.task_failure.connect(weak=False)
def on_failed(sender, task_id, exception, **kwargs):
    say("FAILED", task_id, type(exception).__name__, "main" if os.getpid() == MAIN else "child")

class Told(app.Task):
    def on_failure(self, exc, task_id, args, kwargs, einfo):
        say("HOOK", task_id, type(exc).__name__, "main" if os.getpid() == MAIN else "child")

    def on_retry(self, exc, task_id, args, kwargs, einfo):
        say("RETRIED", task_id, type(exc).__name__)

def begin(self):
    request = self.request
    say("RUN", request.id, request.retries, bool(request.delivery_info["redelivered"]))

def die():
    # A child that dies before it has said that it begins is another matter.
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)

@app.task(bind=True, base=Told)
def early_killed(self):
    begin(self)
    die()

@app.task(bind=True, base=Told, acks_late=True)
def killed(self):
    begin(self)
    die()

@app.task(bind=True, acks_late=True)
def leaving(self):
    begin(self)
    raise SystemExit(3)

@app.task(bind=True, base=Told, acks_late=True, reject_on_worker_lost=True)
def killed_once(self):
    begin(self)
    if not self.request.delivery_info["redelivered"]:
        die()
    return "second"

@app.task(bind=True, base=Told, acks_late=True, retry_on_worker_lost=True, max_retries=1,
          default_retry_delay=0.1)
def killed_always(self):
    begin(self)
    die()

@app.task(bind=True, base=Told, soft_time_limit=0.2)
def softly(self, catches):
    try:
        time.sleep(60)
    except SoftTimeLimitExceeded:
        if not catches:
            raise
        return "caught"

@app.task(bind=True, base=Told, time_limit=0.3)
def hard(self):
    begin(self)
    time.sleep(60)

@app.task(bind=True, base=Told, time_limit=0.3, acks_late=True)
def hard_late(self):
    begin(self)
    time.sleep(60)

@app.task(bind=True, base=Told, time_limit=0.3, acks_late=True, acks_on_timeout=False)
def hard_once(self):
    begin(self)
    if not self.request.delivery_info["redelivered"]:
        time.sleep(60)
    return "second"

@app.task(bind=True, acks_late=True)
def rejecting(self):
    begin(self)
    if not self.request.delivery_info["redelivered"]:
        raise Reject("again", requeue=True)

@app.task
def errback(request, exc, traceback):
    say("ERRBACK", request.id, type(exc).__name__)
"""


@pytest.fixture(scope="module")
def lossy(redis_server, tmp_path_factory):  # noqa: F811
    """A worker on a broker that can take messages back while others come."""
    url = redis_server.database(1)
    source = f"app.conf.broker_url = {url!r}\n{SOURCE}"
    program = sides.Program(tmp_path_factory.mktemp("lossy"), source, (), "prefork")
    program.app.conf.broker_url = url
    program.wait_for_log(" ready.")
    yield program
    program.stop()


def told(program, result):
    """What the log tells of this call, in order."""
    lines = [line.split() for line in program.log.splitlines() if f" {result.id}" in line]
    return [" ".join([words[0], *words[2:]]) for words in lines if words[0].isupper()]


def finish(program, name, *args, until, **options):
    """The result of the call, and what the log tells once all lines of `until` are there."""
    result = program.finish(program.call(name, *args, **options))
    sides.wait_until(
        lambda: set(until) <= set(told(program, result)), f"the log of {name} tells {until}",
        report=lambda: "\n".join([*told(program, result), program.log]),
    )  # fmt: skip
    return result, told(program, result)


class Journal:
    """What a task does and what becomes of its message, in one list."""

    def __init__(self, monkeypatch):
        self.lines = []
        for name in ("ack", "reject"):
            monkeypatch.setattr(Message, name, self.watch(name, getattr(Message, name)))

    def watch(self, name, original):
        def settle(message, *args, **kwargs):
            requeue = kwargs.get("requeue")
            if "id" in message.headers:
                self.lines.append(name if requeue is None else f"{name} requeue={requeue}")
            return original(message, *args, **kwargs)

        return settle


@pytest.fixture
def journal(monkeypatch):
    return Journal(monkeypatch)


def run(app, worker, journal, error=None, **options):
    """What happens when a task with these options runs, or raises `error`."""

    class Base(app.Task):
        def after_return(self, *arguments):
            journal.lines.append("stored")

    @app.task(base=Base, **options)
    def task():
        journal.lines.append("run")
        if error is not None:
            raise error

    @app.task
    def last():
        pass

    task.delay()
    worker.finish(last.delay())
    worker.stop()
    journal.lines = journal.lines[: -1 if journal.lines[-1] == "ack" else None]
    return journal.lines


def test_079_early(app, worker, journal):
    assert run(app, worker, journal) == ["ack", "run", "stored"]


def test_079_late(app, worker, journal):
    assert run(app, worker, journal, acks_late=True) == ["run", "stored", "ack"]


def test_079_late_and_failed(app, worker, journal):
    lines = run(app, worker, journal, error=KeyError(1), acks_late=True)
    assert lines == ["run", "stored", "ack"]


def test_079_by_setting(app, worker, journal):
    app.conf.task_acks_late = True
    assert run(app, worker, journal) == ["run", "stored", "ack"]


@pytest.mark.parametrize(
    "options",
    [
        {"acks_on_failure": False},
        {"acks_on_failure_or_timeout": False},
        {"acks_on_failure_or_timeout": True, "acks_on_failure": False},
    ],
)
def test_080_failures_may_be_rejected(app, worker, journal, options):
    lines = run(app, worker, journal, error=KeyError(1), acks_late=True, **options)
    assert lines == ["run", "stored", "reject requeue=False"]


@pytest.mark.parametrize(
    "options",
    [{"acks_on_timeout": False}, {"acks_on_failure_or_timeout": False, "acks_on_failure": True}],
)
def test_080_each_half_counts_for_itself(app, worker, journal, options):
    lines = run(app, worker, journal, error=KeyError(1), acks_late=True, **options)
    assert lines == ["run", "stored", "ack"]


def test_081_timeouts_may_be_requeued(lossy):
    until = ["RUN 0 False", "FAILED TimeLimitExceeded main", "SETTLED requeue", "RUN 0 True"]
    finish(lossy, "hard_once", until=until)


def test_081_otherwise_they_are_acknowledged(lossy):
    until = ["SETTLED ack", "FAILED TimeLimitExceeded main"]
    result, lines = finish(lossy, "hard_late", until=until)
    assert result.state == "FAILURE"
    assert lines.count("RUN 0 False") == lines.count("SETTLED ack") == 1


@pytest.mark.parametrize("name", ["killed", "early_killed"])
def test_082_a_lost_child(lossy, name):
    result, lines = finish(lossy, name, until=["SETTLED ack", "FAILED WorkerLostError main"])
    assert type(result.result) is WorkerLostError
    assert "signal 9 (SIGKILL)" in str(result.result)
    assert [line for line in lines if line[:3] in ("RUN", "SET")].count("SETTLED ack") == 1
    assert "SETTLED requeue" not in lines and "RUN 0 True" not in lines


def test_082_sys_exit(lossy):
    result, lines = finish(lossy, "leaving", until=["SETTLED ack", "FAILED WorkerLostError main"])
    assert type(result.result) is WorkerLostError
    assert "exitcode 3" in str(result.result)
    assert lines.count("RUN 0 False") == 1


def test_083_rejected_when_lost(lossy):
    result, lines = finish(lossy, "killed_once", until=["SETTLED requeue", "RUN 0 True"])
    assert result.result == "second"
    assert not [line for line in lines if line.startswith("FAILED")]


def test_084_retried_when_lost(lossy):
    until = ["RETRIED WorkerLostError", "RUN 1 False", "FAILED WorkerLostError main"]
    result, lines = finish(lossy, "killed_always", until=until)
    assert type(result.result) is WorkerLostError
    assert [line for line in lines if line.startswith("RUN")] == ["RUN 0 False", "RUN 1 False"]
    assert lines.count("SETTLED ack") == 2
    assert lines.count("RETRIED WorkerLostError") == 1


def test_088_soft_limit(lossy):
    result, _ = finish(lossy, "softly", True, until=["SETTLED ack"])
    assert (result.state, result.result) == ("SUCCESS", "caught")
    result, _ = finish(lossy, "softly", False, until=["HOOK SoftTimeLimitExceeded child"])
    assert type(result.result) is SoftTimeLimitExceeded


def test_089_hard_limit(lossy):
    result, _ = finish(lossy, "hard", until=["RUN 0 False"])
    assert result.state == "FAILURE"
    assert repr(result.result) == "TimeLimitExceeded(0.3)"
    assert type(result.result) is TimeLimitExceeded


def test_090_who_hears_of_it(lossy):
    until = [f"{who} TimeLimitExceeded main" for who in ("HOOK", "FAILED")]
    errback = lossy.app.signature("proj.errback")
    finish(lossy, "hard", until=[*until, "ERRBACK TimeLimitExceeded"], link_error=errback)


def test_091_a_soft_limit_above_the_hard_one(app, sent):
    @app.task(soft_time_limit=20, time_limit=10)
    def task():
        pass

    with pytest.raises(ValueError, match="soft_time_limit must be less than or equal"):
        task.delay()
    assert sent == []


def test_105_the_redelivered_flag(lossy):
    result, lines = finish(lossy, "rejecting", until=["SETTLED requeue", "RUN 0 True"])
    assert result.state == "SUCCESS"
    assert lines.count("RUN 0 False") == 1
