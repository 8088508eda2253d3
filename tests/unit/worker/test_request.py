"""A request: what it reads from its message and how it settles it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from contract.workers import forget, memory_app
from kombu.message import Message

from taskq import Celery
from taskq.exceptions import Ignore, InvalidTaskError, Reject, Retry
from taskq.worker import state
from taskq.worker.request import Request, create_request_cls


@pytest.fixture
def app() -> Iterator[Celery]:
    app = memory_app("requests")

    @app.task(name="add")
    def add(x: int, y: int = 0) -> int:
        return x + y

    app.finalize()
    yield app
    forget()
    state.revoked.clear()
    state.revoked_stamps.clear()
    app.close()


class Settled:
    """Notes how a message is settled."""

    def __init__(self) -> None:
        self.how: list[str] = []

    def ack(self, logger: Any, errors: Any) -> None:
        self.how.append("ack")

    def reject(self, logger: Any, errors: Any, requeue: bool = False) -> None:
        self.how.append("requeue" if requeue else "reject")


def message(args: Any = (1,), kwargs: Any = None, embed: Any = None, **headers: Any) -> Message:
    return Message(
        body=json.dumps([args, kwargs or {}, embed or {}]),
        content_type="application/json",
        content_encoding="utf-8",
        headers={"task": "add", "id": "id-1", **headers},
        properties={"correlation_id": "id-1", "reply_to": "me", "priority": 3},
        delivery_info={"exchange": "", "routing_key": "celery", "redelivered": True},
    )


def make(app: Celery, msg: Message | None = None, cls: type[Request] = Request) -> Any:
    settled = Settled()
    request = cls(
        msg or message(),
        app=app,
        hostname="w@here",
        on_ack=settled.ack,
        on_reject=settled.reject,
    )
    request_and_settled: Any = request
    return request_and_settled, settled


def failed(exc: BaseException) -> ExceptionInfo:
    try:
        raise exc
    except BaseException:
        return ExceptionInfo()


def test_it_knows_its_call(app: Celery) -> None:
    request, _ = make(app, message((1,), {"y": 2}, shadow="sum", argsrepr="(1,)", root_id="r"))
    assert (request.id, request.type, request.name, request.root_id) == ("id-1", "add", "sum", "r")
    assert (request.task_id, request.task_name) == ("id-1", "sum")
    assert request.args == [1]
    assert request.kwargs == {"y": 2}
    assert request.task is app.tasks["add"]
    assert (request.reply_to, request.correlation_id) == ("me", "id-1")
    assert (request.parent_id, request.argsrepr, request.kwargsrepr) == (None, "(1,)", "")
    assert request.ignore_result is False
    assert str(request) == "sum[id-1]"
    assert repr(request).startswith("<Request: sum[id-1] (1,)")
    assert request.delivery_info == {
        "exchange": "", "routing_key": "celery", "priority": 3, "redelivered": True,
    }  # fmt: skip


def test_what_the_task_will_see(app: Celery) -> None:
    request, _ = make(app, message((1,), embed={"chord": {"task": "c"}}, timelimit=[3, 2], own=1))
    context = request._context
    assert context.hostname == "w@here"
    assert context.correlation_id == "id-1"
    assert context.time_limit == 3
    assert context.chord == request.chord == {"task": "c"}
    assert context.headers["own"] == 1
    assert request.request_dict["delivery_info"]["redelivered"] is True


def test_info_is_what_inspect_shows(app: Celery) -> None:
    request, _ = make(app, message((1,), argsrepr="(one,)"))
    assert request.info() == {
        "id": "id-1", "name": "add", "args": [1], "kwargs": {}, "type": "add",
        "hostname": "w@here", "time_start": None, "acknowledged": False,
        "delivery_info": request.delivery_info, "worker_pid": None,
    }  # fmt: skip
    assert request.info(safe=True)["args"] == "(one,)"


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2030-01-01T00:00:00+02:00", datetime(2029, 12, 31, 22, tzinfo=timezone.utc)),
        ("2030-01-01T00:00:00", datetime(2030, 1, 1, tzinfo=timezone.utc)),
    ],
)
def test_a_moment_without_offset_is_utc(app: Celery, moment: str, expected: datetime) -> None:
    request, _ = make(app, message(eta=moment, expires=moment))
    assert request.eta == request.expires == expected


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"id": None}, "'id' must be text"),
        ({"id": ["a"]}, "'id' must be text"),
        ({"eta": "soon"}, "invalid ETA value 'soon'"),
        ({"expires": "never"}, "invalid expires value 'never'"),
        ({"timelimit": [1, 2, 3]}, "'timelimit' must be"),
        ({"timelimit": 5}, "'timelimit' must be"),
    ],
)
def test_headers_that_do_not_fit(app: Celery, headers: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidTaskError, match=says):
        make(app, message(**headers))


@pytest.mark.parametrize(
    "body", [[1, 2], 5, "text", [{"a": 1}, {}, {}], [[], [], {}], [[], {}, [1]]]
)
def test_bodies_that_do_not_fit(app: Celery, body: Any) -> None:
    odd = message()
    odd.body = json.dumps(body)
    with pytest.raises(InvalidTaskError):
        make(app, odd)


def test_early_ack_when_the_task_has_started(app: Celery) -> None:
    request, settled = make(app)
    state.task_reserved(request)
    request.on_accepted(7, 0.0)
    assert settled.how == ["ack"]
    assert request.worker_pid == 7
    assert request in state.active_requests
    assert state.total_count["add"] == 1
    request.on_success((0, "1", 0.1))
    assert settled.how == ["ack"]
    assert not state.requests
    assert not state.active_requests
    assert not state.reserved_requests


def test_late_ack_when_it_has_ended(app: Celery) -> None:
    app.tasks["add"].acks_late = True
    request, settled = make(app)
    request.on_accepted(7, 0.0)
    assert settled.how == []
    request.on_success((0, "1", 0.1))
    assert settled.how == ["ack"]
    request.acknowledge()
    request.reject()
    assert settled.how == ["ack"]


@pytest.mark.parametrize(
    ("error", "options", "how"),
    [
        (ValueError(), {}, "ack"),
        (ValueError(), {"acks_on_failure": False}, "reject"),
        (Ignore(), {}, "ack"),
        (Reject("no", requeue=False), {}, "reject"),
        (Reject("no", requeue=True), {}, "requeue"),
        (Retry("again", ValueError()), {}, "ack"),
        (WorkerLostError("gone"), {}, "ack"),
        (WorkerLostError("gone"), {"reject_on_worker_lost": True}, "requeue"),
        (TimeLimitExceeded(3), {}, "ack"),
        (TimeLimitExceeded(3), {"acks_on_timeout": False}, "requeue"),
        (Terminated("TERM"), {}, "ack"),
    ],
)
def test_how_a_late_ack_task_that_did_not_succeed_is_settled(
    app: Celery, error: BaseException, options: dict[str, Any], how: str
) -> None:
    task = app.tasks["add"]
    task.acks_late = True
    for name, value in options.items():
        setattr(task, name, value)
    request, settled = make(app)
    request.on_accepted(7, 0.0)
    request.on_success((1, failed(error), 0.1))
    assert settled.how == [how]
    assert not state.active_requests


def test_a_lost_child_is_a_failure_unless_it_is_run_again(app: Celery) -> None:
    task = app.tasks["add"]
    task.acks_late = True
    request, _ = make(app)
    request.on_failure(failed(WorkerLostError("gone")))
    assert app.AsyncResult("id-1").state == "FAILURE"
    app.AsyncResult("id-1").forget()
    task.reject_on_worker_lost = True
    request, _ = make(app)
    request.on_failure(failed(WorkerLostError("gone")))
    assert app.AsyncResult("id-1").state == "PENDING"


def test_a_hard_timeout_is_a_failure(app: Celery) -> None:
    request, _ = make(app)
    request.on_timeout(True, 1)
    assert app.AsyncResult("id-1").state == "PENDING"
    request.on_timeout(False, 2)
    assert isinstance(app.AsyncResult("id-1").result, TimeLimitExceeded)


def test_what_stops_the_worker_is_raised(app: Celery) -> None:
    request, _ = make(app)
    info = failed(ValueError())
    info.exception = SystemExit(1)
    with pytest.raises(SystemExit):
        request.on_success((1, info, 0.1))


def test_a_revoked_request_is_announced_and_acknowledged(app: Celery) -> None:
    request, settled = make(app)
    assert not request.revoked()
    state.revoked.add("id-1")
    assert request.revoked()
    assert request.revoked()
    assert settled.how == ["ack"]
    assert app.AsyncResult("id-1").state == "REVOKED"


def test_an_expired_request_is_revoked(app: Celery) -> None:
    moment = datetime.now(timezone.utc)
    request, _ = make(app, message(expires=(moment - timedelta(seconds=5)).isoformat()))
    assert request.revoked()
    assert "id-1" in state.revoked
    later, _ = make(app, message(id="id-2", expires=(moment + timedelta(hours=1)).isoformat()))
    assert not later.revoked()


def test_stamps_can_be_revoked(app: Celery) -> None:
    request, _ = make(app, message(stamped_headers=["batch"], stamps={"batch": [7]}))
    assert not request.is_revoked_by_stamp()
    state.revoked_stamps["batch"] = [6]
    assert not request.is_revoked_by_stamp()
    state.revoked_stamps["batch"] = [6, 7]
    assert request.revoked()


def test_a_request_that_has_not_started_is_terminated_when_it_does(app: Celery) -> None:
    class Pool:
        ended: list[tuple[int, int]] = []

        def terminate_job(self, pid: int, signal: int) -> None:
            self.ended.append((pid, signal))

    request, _ = make(app)
    request.terminate(Pool(), "SIGTERM")
    assert Pool.ended == []
    request.on_accepted(7, 0.0)
    assert Pool.ended == [(7, 15)]
    assert app.AsyncResult("id-1").state == "REVOKED"


def test_a_users_class_keeps_its_methods(app: Celery) -> None:
    class Mine(Request):
        timeouts: list[float] = []

        def on_timeout(self, soft: bool, timeout: float) -> None:
            self.timeouts.append(timeout)

    cls = create_request_cls(Mine, app.tasks["add"], None, "w@here", None, app=app)
    request, _ = make(app, cls=cls)
    request.note = "users set attributes"
    request.on_timeout(False, 3)
    assert Mine.timeouts == [3]


def test_it_can_run_without_a_pool(app: Celery) -> None:
    request, settled = make(app, message((2,), {"y": 3}))
    assert request.execute() == 5
    assert settled.how == ["ack"]
    assert app.AsyncResult("id-1").result == 5


@pytest.mark.parametrize("still_ours", [True, False])
def test_in_this_thread_a_task_is_acked_before_it_starts_or_does_not_start(
    app: Celery, still_ours: bool
) -> None:
    seen: list[Any] = []

    class Channel:
        def flush_acks(self, starting: int) -> bool:
            seen.append(("flush", starting, settled.how[:]))
            return still_ours

    class Pool:
        runs_in_caller = True

        def apply_async(self, *args: Any, **options: Any) -> None:
            seen.append("run")

    msg = message()
    msg.channel, msg.delivery_tag = Channel(), 5
    cls = create_request_cls(Request, app.tasks["add"], Pool(), "w@here", None, app=app)
    request, settled = make(app, msg, cls=cls)
    state.task_reserved(request)
    request.execute_using_pool(Pool())
    assert seen == [("flush", 5, ["ack"]), *(["run"] if still_ours else [])]
    assert (request in state.reserved_requests) is still_ours
