"""Task: calling, options, the request stack, binding, hooks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kombu.exceptions import EncodeError
from kombu.transport.memory import Channel

from taskq import _state
from taskq.app.base import Celery
from taskq.app.task import (
    Context,
    Task,
    TaskType,
    extract_exec_options,
    get_actual_ignore_result,
)
from taskq.exceptions import CDeprecationWarning, MaxRetriesExceededError
from taskq.result import EagerResult


@pytest.fixture
def app() -> Iterator[Celery]:
    Channel.queues.clear()  # the memory transport's queues are the process's
    with Celery("t", broker="memory://", backend="memory://", set_as_current=False) as app:
        yield app


@pytest.fixture
def add(app: Celery) -> Any:
    @app.task(shared=False)
    def add(x: int, y: int = 1, *, scale: int = 1) -> int:
        return (x + y) * scale

    return app.tasks[add.name]


def take(app: Celery, queue: str = "celery") -> Any:
    """The next message of the queue, as a worker would decode it."""
    with app.connection_for_read() as connection:
        message = connection.default_channel.basic_get(queue)
        assert message is not None
        message.ack()
        message.decode()
        return message


def in_worker(task: Any, **request: Any) -> Any:
    """Make the task current, as if a worker ran it."""
    _state.push_current_task(task)
    task.push_request(called_directly=False, **request)


def out_of_worker(task: Any) -> None:
    task.pop_request()
    _state.pop_current_task()


# -- calling


def test_delay_sends_arguments_and_gives_a_result(app: Celery, add: Any) -> None:
    result = add.delay(2, y=3)
    message = take(app)
    assert message.headers["task"] == add.name
    assert message.headers["id"] == result.id == message.properties["correlation_id"]
    assert message.payload[:2] == [[2], {"y": 3}]
    assert message.headers["ignore_result"] is False
    assert message.properties["reply_to"] == app.thread_oid


def test_calling_runs_here_and_sends_nothing(app: Celery, add: Any) -> None:
    assert add(2, 3, scale=2) == 10
    with app.connection_for_read() as connection:
        assert connection.default_channel.basic_get("celery") is None


def test_apply_async_options_reach_the_message(app: Celery, add: Any) -> None:
    result = add.apply_async(
        (1,),
        task_id="chosen",
        queue="other",
        priority=4,
        shadow="shown",
        headers={"mine": 1},
        countdown=10,
        time_limit=20,
        soft_time_limit=15,
        link=add.s(5),
        link_error=[add.s(6)],
        argsrepr="(secret)",
    )
    assert result.id == "chosen"
    message = take(app, "other")
    headers, embed = message.headers, message.payload[2]
    assert headers["id"] == "chosen"
    assert headers["shadow"] == "shown"
    assert headers["mine"] == 1
    assert headers["eta"] is not None
    assert headers["timelimit"] == [20, 15]
    assert headers["argsrepr"] == "(secret)"
    assert "argsrepr" not in message.properties
    assert message.properties["priority"] == 4
    assert [sig["args"] for sig in embed["callbacks"]] == [[5]]
    assert [sig["args"] for sig in embed["errbacks"]] == [[6]]


def test_options_of_the_task_are_defaults_and_the_call_wins(app: Celery) -> None:
    @app.task(
        shared=False, priority=3, expires=60, time_limit=9, compression="zlib", ignore_result=True
    )
    def careful() -> None: ...

    careful.delay()
    message = take(app)
    assert message.properties["priority"] == 3
    assert message.properties["expiration"] == "60000"
    assert message.headers["timelimit"] == [9, None]
    assert message.headers["ignore_result"] is True
    assert message.headers["compression"] == "application/x-gzip"
    careful.apply_async(priority=8, expires=None, time_limit=1, ignore_result=False)
    message = take(app)
    assert message.properties["priority"] == 8
    assert message.headers["expires"] is None
    assert message.headers["timelimit"] == [1, None]
    assert message.headers["ignore_result"] is False


def test_ignored_result_answers_at_once(add: Any) -> None:
    result = add.apply_async((1,), ignore_result=True)
    assert result.ignored
    assert result.get() is None


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1, 2, 3), {}), ((1,), {"z": 2}), ((1,), {"x": 1})],
)
def test_wrong_arguments_are_a_type_error_in_the_caller(
    app: Celery, add: Any, args: Any, kwargs: Any
) -> None:
    with pytest.raises(TypeError, match=r"add\(\)"):
        add.apply_async(args, kwargs)
    with app.connection_for_read() as connection:
        assert connection.default_channel.basic_get("celery") is None


def test_typing_off_sends_whatever_is_given(app: Celery) -> None:
    @app.task(shared=False, typing=False)
    def picky(x: int) -> None: ...

    picky.delay()
    assert take(app).payload[0] == []
    lax = Celery("lax", broker="memory://", strict_typing=False, set_as_current=False)
    lax.task(name="p", shared=False)(lambda x: x).delay(1, 2, 3)
    assert take(app).payload[0] == [1, 2, 3]


def test_a_bound_task_is_checked_without_self(app: Celery) -> None:
    @app.task(bind=True, shared=False)
    def bound(self: Any, x: int) -> None: ...

    bound.delay(1)
    take(app)
    with pytest.raises(TypeError, match=r"bound\(\) takes 1 positional argument but 2 were given"):
        bound.delay(1, 2)


def test_args_must_be_a_sequence_and_kwargs_a_mapping(app: Celery) -> None:
    with pytest.raises(TypeError, match="list or tuple"):
        app.send_task("any", "abc")
    with pytest.raises(TypeError, match="mapping"):
        app.send_task("any", (), [1])


def test_soft_limit_above_the_hard_one_is_an_error(app: Celery) -> None:
    task = app.task(name="l", shared=False, time_limit=1, soft_time_limit=2)(lambda: None)
    with pytest.raises(ValueError, match="soft_time_limit"):
        task.delay()


def test_arguments_that_cannot_be_serialised_raise_here(app: Celery, add: Any) -> None:
    with pytest.raises(EncodeError):
        add.delay(object())
    with app.connection_for_read() as connection:
        assert connection.default_channel.basic_get("celery") is None


def test_shadow_name_of_a_subclass_names_the_call(app: Celery) -> None:
    class Shadowed(app.Task):
        def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str:
            return f"for {args[0]}"

    task = app.task(name="s", shared=False, base=Shadowed)(lambda who: who)
    task.delay("me")
    assert take(app).headers["shadow"] == "for me"


# -- eager


def test_always_eager_runs_here_with_serialised_arguments(app: Celery) -> None:
    app.conf.task_always_eager = True
    seen: list[Any] = []

    @app.task(shared=False)
    def eager(x: Any) -> Any:
        seen.append(x)
        return len(x)

    result = eager.apply_async(((1, 2),), task_id="given")
    assert isinstance(result, EagerResult)
    assert (result.id, result.get()) == ("given", 2)
    assert seen == [[1, 2]]  # a tuple is a list after JSON
    with pytest.raises(EncodeError):
        eager.delay(object())


# -- request


def test_request_is_empty_outside_of_a_run(add: Any) -> None:
    assert add.request.id is None
    assert add.request.called_directly
    assert isinstance(add.request, Context)


def test_requests_are_a_stack_and_inherit(add: Any) -> None:
    add.push_request(id="one", retries=2)
    add.push_request(args=(1,))
    assert (add.request.id, add.request.args, add.request.retries) == ("one", (1,), 2)
    add.pop_request()
    assert add.request.args is None
    add.pop_request()
    assert add.request.id is None


def test_a_direct_call_sees_a_request_of_its_own(app: Celery) -> None:
    @app.task(bind=True, shared=False)
    def look(self: Any, *args: Any) -> Any:
        return self.request.id, self.request.args, self.request.called_directly, app.current_task

    task = app.tasks[look.name]
    assert look(1, 2) == (None, (1, 2), True, task)
    assert app.current_task is None


def test_a_failing_body_leaves_no_request_behind(app: Celery) -> None:
    @app.task(shared=False)
    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    assert fail.request_stack.top is None
    assert app.current_task is None


# -- inside a worker


def test_calls_of_a_run_know_their_parent_and_root(app: Celery, add: Any) -> None:
    in_worker(add, id="me", root_id="root", delivery_info={"priority": 7})
    try:
        result = add.delay(1)
        headers = take(app).headers
        assert (headers["root_id"], headers["parent_id"]) == ("root", "me")
        other = app.send_task("unknown", root_id="r", parent_id="p", add_to_parent=False)
        message = take(app)
        assert (message.headers["root_id"], message.headers["parent_id"]) == ("r", "p")
        assert "priority" not in message.properties or not message.properties["priority"]
        assert add.request.children == [result]
        assert other.id == message.headers["id"]
    finally:
        out_of_worker(add)


def test_priority_of_the_parent_is_inherited_on_demand(app: Celery, add: Any) -> None:
    app.conf.task_inherit_parent_priority = True
    in_worker(add, id="me", delivery_info={"priority": 7})
    try:
        add.delay(1)
        assert take(app).properties["priority"] == 7
        add.apply_async((1,), priority=2)
        assert take(app).properties["priority"] == 2
    finally:
        out_of_worker(add)


def test_a_run_without_trail_remembers_no_children(app: Celery, add: Any) -> None:
    quiet = app.task(name="quiet", trail=False, shared=False)(lambda: None)
    in_worker(app.tasks["quiet"], id="q")
    try:
        assert quiet.add_trail("x") == "x"
        assert quiet.request.children == []
    finally:
        out_of_worker(app.tasks["quiet"])


def test_update_state_stores_for_this_run_or_an_id(app: Celery, add: Any) -> None:
    in_worker(add, id="busy")
    try:
        add.update_state(state="PROGRESS", meta={"done": 3})
    finally:
        out_of_worker(add)
    assert (app.AsyncResult("busy").state, app.AsyncResult("busy").info) == (
        "PROGRESS",
        {"done": 3},
    )
    add.update_state("elsewhere", "HALF", {})
    assert app.AsyncResult("elsewhere").state == "HALF"


@pytest.mark.parametrize(
    ("call", "task", "expected"),
    [(None, True, True), (None, None, False), (True, False, True), (False, True, False)],
)
def test_the_call_decides_whether_the_result_is_ignored(
    add: Any, call: bool | None, task: bool | None, expected: bool
) -> None:
    add.ignore_result = task
    assert get_actual_ignore_result(add, Context(ignore_result=call)) is expected
    if call is None:
        assert get_actual_ignore_result(add, Context()) is expected


# -- signatures


def test_signature_methods(app: Celery, add: Any) -> None:
    assert dict(add.s(1, y=2)) == dict(add.signature((1,), {"y": 2}))
    assert add.si(1).immutable
    assert add.subtask((1,), {}, {"queue": "q"}, countdown=3).options == {
        "queue": "q",
        "countdown": 3,
    }
    assert add.s(1).app is app


# -- binding


def test_binding_fills_in_settings_what_the_task_leaves_open(app: Celery) -> None:
    app.conf.update(task_acks_late=True, task_time_limit=33, task_default_rate_limit="5/m")
    task = app.task(name="b", shared=False, time_limit=5)(lambda: None)
    assert (task.acks_late, task.time_limit, task.rate_limit) == (True, 5, "5/m")
    assert task.serializer == "json"
    assert task.ignore_result is False
    assert app.Task.acks_late is None


def test_annotations_change_attributes_and_wrap_methods(app: Celery) -> None:
    def twice(method: Any) -> Any:
        return lambda *args: method(*args) * 2

    app.conf.task_annotations = {"*": {"rate_limit": 1}, "one": {"priority": 4, "@run": twice}}
    one = app.task(name="one", shared=False)(lambda x: x)
    two = app.task(name="two", shared=False)(lambda x: x)
    assert (one.rate_limit, one.priority, one(3)) == (1, 4, 6)
    assert (two.rate_limit, two.priority, two(3)) == (1, None, 3)


def test_add_around_wraps_methods_of_classes(app: Celery) -> None:
    class Job(Task):
        name = "job"

        def run(self, x: int) -> tuple[str, int]:
            return self.name, x

    job = app.register_task(Job())
    Job.add_around("run", lambda run: lambda self, x: ("around", run(self, x)))
    Job.add_around("run", lambda run: lambda self, x: ("again", run(self, x)))
    assert job(1) == ("again", ("job", 1))


def test_routing_attributes_warn(app: Celery) -> None:
    task = app.task(name="routed", shared=False, queue="special")(lambda: None)
    with pytest.warns(CDeprecationWarning, match="'queue'.*task_routes"):
        task.delay()
    assert take(app, "special").headers["task"] == "routed"


def test_on_bound_is_told_the_app(app: Celery) -> None:
    class Told(Task):
        bound_to: Any = None

        @classmethod
        def on_bound(cls, app: Any) -> None:
            cls.bound_to = app

    assert app.task(name="told", base=Told, shared=False)(lambda: None).bound_to is app


def test_an_unbound_class_binds_to_the_current_app(app: Celery) -> None:
    class Free(Task):
        name = "free"

    before = _state._current_app.get()
    app.set_current()
    try:
        assert Free().app is app
        assert Free.request_stack is not None
    finally:
        _state._current_app.set(before)


def test_start_strategy_asks_the_named_strategy(app: Celery) -> None:
    def strategy(task: Any, app: Any, consumer: Any, **kwargs: Any) -> Any:
        return task.name, app, consumer, kwargs

    task = app.task(name="st", shared=False, Strategy=staticmethod(strategy))(lambda: None)
    assert task.start_strategy(app, "consumer", x=1) == ("st", app, "consumer", {"x": 1})


def test_a_task_without_run_says_so(app: Celery) -> None:
    class Empty(Task):
        name = "empty"

    with pytest.raises(NotImplementedError, match="must define the run method"):
        app.register_task(Empty())()


def test_public_names() -> None:
    assert TaskType is type
    assert Task.MaxRetriesExceededError is MaxRetriesExceededError
    assert Task.OperationalError.__module__ == "kombu.exceptions"
    assert Task.default_retry_delay == 180
    assert Task.max_retries == 3
    assert extract_exec_options(Task())["priority"] is None
    assert dict(Task.from_config)["rate_limit"] == "task_default_rate_limit"
