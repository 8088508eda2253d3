"""Behaviours 19 to 25: what a running task knows about its call."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone

from celery import chain, group
from celery.app.task import Context
from patience import PATIENCE_S

FIELDS = [
    "id", "root_id", "parent_id", "group", "chord", "correlation_id", "args", "kwargs", "origin",
    "retries", "is_eager", "eta", "expires", "hostname", "delivery_info", "reply_to",
    "called_directly", "timelimit", "callbacks", "errbacks", "utc", "headers", "chain",
    "properties", "replaced_task_nesting",
]  # fmt: skip


def shown(request):
    """The fields of the guide's table; what cannot be compared is reduced to what it says."""
    return {name: getattr(request, name) for name in FIELDS}


def test_019_every_field_in_a_worker(app, worker):
    seen = []

    @app.task(bind=True)
    def look(self, x, y=0):
        seen.append(shown(self.request))

    @app.task
    def other(*args):
        pass

    expires = datetime.now(timezone.utc) + timedelta(hours=1)
    result = worker.finish(
        look.apply_async(
            (1,), {"y": 2}, countdown=0.01, expires=expires, headers={"tenant": "acme"},
            link=other.s(1), link_error=other.s(2), time_limit=60, soft_time_limit=50, priority=3,
        )
    )  # fmt: skip
    [found] = seen
    assert (found["id"], found["root_id"], found["parent_id"]) == (result.id, result.id, None)
    assert (found["correlation_id"], found["group"], found["chord"]) == (result.id, None, None)
    assert (found["args"], found["kwargs"], found["retries"]) == ([1], {"y": 2}, 0)
    assert found["origin"].startswith("gen") and "@" in found["origin"]
    assert (found["is_eager"], found["called_directly"]) == (False, False)
    assert datetime.fromisoformat(found["eta"]) <= datetime.now(timezone.utc)
    assert datetime.fromisoformat(found["expires"]) == expires
    assert found["timelimit"] == [60, 50]
    assert [each["args"] for each in found["callbacks"]] == [[1]]
    assert [each["args"] for each in found["errbacks"]] == [[2]]
    # Readable, but protocol 2 does not carry it.
    assert found["utc"] is None
    assert found["headers"] == {"tenant": "acme"}
    assert (found["chain"], found["replaced_task_nesting"]) == (None, 0)
    assert found["reply_to"] and found["reply_to"] == found["properties"]["reply_to"]
    assert found["properties"]["correlation_id"] == result.id


def test_019_the_name_of_the_worker(program):
    source = """
        @app.task(bind=True)
        def where(self):
            return self.request.hostname
        """
    started = program(source, pool="solo")
    assert started.finish(started.call("where")).result == "compat@test"


def test_019_without_options(app, worker):
    seen = []

    @app.task(bind=True)
    def look(self):
        seen.append(shown(self.request))

    worker.finish(look.delay())
    [found] = seen
    nothing = ("parent_id", "group", "chord", "eta", "expires", "callbacks", "errbacks", "chain")
    assert {name: found[name] for name in nothing} == dict.fromkeys(nothing)
    assert (found["timelimit"], found["headers"]) == ([None, None], None)


def test_019_custom_headers_are_attributes_too(app, worker):
    @app.task(bind=True)
    def tenant(self):
        request = self.request
        return [request.tenant, request.get("tenant"), request.get("nobody", "default")]

    result = worker.finish(tenant.apply_async(headers={"tenant": "acme"}))
    assert result.result == ["acme", "acme", "default"]


def test_019_update_and_clear():
    request = Context({"id": "1", "retries": 2})
    request.update({"retries": 3}, tenant="acme")
    assert (request.id, request.retries, request.tenant) == ("1", 3, "acme")
    request.clear()
    assert (request.id, request.retries, hasattr(request, "tenant")) == (None, 0, False)


def test_019_threads_have_requests_of_their_own(app):
    meeting, seen = threading.Barrier(2, timeout=PATIENCE_S), {}

    @app.task(bind=True)
    def meet(self, key):
        meeting.wait()
        seen[key] = self.request.id
        meeting.wait()

    app.finalize()
    threads = [
        threading.Thread(target=meet.apply, args=((key,),), kwargs={"task_id": key})
        for key in ("a", "b")
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE_S)
    assert seen == {"a": "a", "b": "b"}
    assert meet.request.id is None


def test_019_threads_of_a_worker_too(app, worker):
    meeting = threading.Barrier(2, timeout=PATIENCE_S)

    @app.task(bind=True)
    def meet(self):
        meeting.wait()
        mine = self.request.id
        meeting.wait()
        return [mine, self.request.id, app.current_task.request.id]

    worker.start(pool="threads", concurrency=2)
    results = [meet.delay(), meet.delay()]
    for each in results:
        assert worker.finish(each).result == [each.id] * 3


def test_020_called_directly(app, worker):
    @app.task(bind=True)
    def look(self):
        return [self.request.called_directly, self.request.is_eager]

    assert look() == [True, False]
    assert look.apply().get() == [False, True]
    assert worker.finish(look.delay()).result == [False, False]
    assert look.request.called_directly is True


def test_021_effective_time_limits(app, worker):
    @app.task(bind=True, time_limit=40, soft_time_limit=30)
    def limits(self):
        request = self.request
        return [request.time_limit, request.soft_time_limit, list(request.timelimit)]

    @app.task(bind=True)
    def unlimited(self):
        return [self.request.time_limit, self.request.soft_time_limit]

    assert worker.finish(limits.delay()).result == [40, 30, [40, 30]]
    overridden = limits.apply_async(time_limit=20, soft_time_limit=10)
    assert worker.finish(overridden).result == [20, 10, [20, 10]]
    assert worker.finish(unlimited.delay()).result == [None, None]


def test_021_limits_of_the_settings(app, worker, sent):
    app.conf.update(task_time_limit=400, task_soft_time_limit=300)

    @app.task(bind=True)
    def limits(self):
        return [self.request.time_limit, self.request.soft_time_limit]

    assert worker.finish(limits.delay()).result == [400, 300]
    assert sent[0].headers["timelimit"] == [400, 300]


def test_021_limits_of_an_eager_run_are_the_tasks(app):
    @app.task(bind=True, time_limit=40, soft_time_limit=30)
    def limits(self):
        return self.request.timelimit, self.request.time_limit, self.request.soft_time_limit

    @app.task(bind=True)
    def unlimited(self):
        return self.request.timelimit

    assert limits.apply(time_limit=9).get() == ([40, 30], 40, 30)
    assert unlimited.apply(time_limit=9).get() is None


def test_022_the_chain_is_reversed(app, worker):
    seen = []

    @app.task(bind=True)
    def step(self, *args):
        seen.append([each["args"] for each in self.request.chain or []])

    worker.finish(chain(step.si(1), step.si(2), step.si(3)).delay())
    # The next step is the last of the list.
    assert seen == [[[3], [2]], [[3]], []]


def test_023_delivery_info(app, worker):
    @app.task(bind=True)
    def where(self):
        return self.request.delivery_info

    plain = worker.finish(where.apply_async(priority=4)).result
    assert plain["exchange"] == ""
    assert (plain["routing_key"], plain["priority"]) == ("celery", 4)
    assert not plain["redelivered"]


def test_024_a_direct_call_has_an_empty_request(app):
    @app.task(bind=True)
    def look(self, *args, **kwargs):
        request = self.request
        return request.id, request.args, request.kwargs, request.delivery_info, request.retries

    assert look(1, y=2) == (None, (1,), {"y": 2}, None, 0)
    assert look.request.id is None and look.request.args is None


def test_025_root_and_parent(app, worker, eventually):
    seen = {}

    @app.task(bind=True)
    def leaf(self, key):
        seen[key] = (self.request.id, self.request.root_id, self.request.parent_id)

    @app.task(bind=True)
    def branch(self):
        leaf.delay("sent by a task")
        return self.request.id

    top = worker.finish(chain(branch.s(), leaf.si("second step")).delay())
    eventually(lambda: len(seen) == 2, "both leaves")
    root = top.parent.id
    assert seen["second step"][1:] == (root, root)
    assert seen["sent by a task"][1:] == (root, root)

    grouped = group(leaf.s("g1"), leaf.s("g2")).delay()
    worker.finish(grouped)
    assert {seen["g1"][0], seen["g2"][0]} == {each.id for each in grouped}
    assert seen["g1"][2] is None
