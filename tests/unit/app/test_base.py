"""The application: how it is made, what it gives, how it goes away and travels."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from kombu.exceptions import OperationalError
from kombu.transport.memory import Channel
from patience import PATIENCE_S

import taskq.app
from taskq import _state
from taskq.app import bugreport
from taskq.app.base import App, Celery
from taskq.app.pickling import AppPickler
from taskq.app.task import Task
from taskq.exceptions import AlwaysEagerIgnored, ImproperlyConfigured
from taskq.result import AsyncResult, GroupResult, ResultSet
from taskq.utils.time import timezone


@pytest.fixture(autouse=True)
def current_app_stays() -> Iterator[None]:
    current, latest = _state._current_app.get(), _state._latest_app
    yield
    _state._current_app.set(current)
    _state._latest_app = latest


def make_app(main: str | None = "base", **kwargs: Any) -> Celery:
    kwargs = {"broker": "memory://", "backend": "memory://", "set_as_current": False, **kwargs}
    return Celery(main, **kwargs)


def take(app: Celery, queue: str = "celery") -> Any:
    with app.connection_for_read() as connection:
        return connection.default_channel.basic_get(queue)


# -- making one


def test_constructor_arguments_become_settings() -> None:
    app = make_app(include=["proj.tasks"], task_serializer="pickle", changes={"timezone": "UTC"})
    assert app.main == "base"
    assert app.conf.broker_url == "memory://"
    assert app.conf.include == ["proj.tasks"]
    assert app.conf.task_serializer == "pickle"
    assert app.conf.timezone == "UTC"


def test_native_app_needs_no_configuration_and_celery_keeps_its_default() -> None:
    native, drop_in = App("n", set_as_current=False), Celery("c", set_as_current=False)
    assert native.conf.broker_url == "sqlite:///taskq.db"
    assert native.conf.result_backend == "sqlite:///taskq.db"
    assert drop_in.connection().transport_cls == "amqp"
    assert type(drop_in.backend).__name__ == "DisabledBackend"


def test_a_new_app_is_current_unless_told_otherwise() -> None:
    app = make_app(set_as_current=True)
    assert _state.get_current_app() is app
    make_app()
    assert _state.get_current_app() is app


def test_signals_of_the_app() -> None:
    app = make_app()
    seen: list[str] = []
    app.on_configure.connect(lambda sender, **_: seen.append("configure"), weak=False)
    app.on_after_configure.connect(
        lambda sender, source, **_: seen.append(source.task_serializer), weak=False
    )
    assert app.conf.task_always_eager is False
    assert seen == ["configure", "json"]


def test_on_init_is_called_at_the_end() -> None:
    class Mine(Celery):
        def on_init(self) -> None:
            self.inited = self.main

    assert Mine("mine", set_as_current=False).inited == "mine"


def test_fixups_are_called_with_the_app() -> None:
    made: list[Any] = []
    app = make_app(fixups=[made.append])
    assert made == [app]
    assert Celery("x", set_as_current=False).fixups == Celery.builtin_fixups


# -- what it works with


def test_result_classes_are_bound_to_the_app() -> None:
    app = make_app()
    assert issubclass(app.AsyncResult, AsyncResult)
    assert issubclass(app.GroupResult, GroupResult)
    assert issubclass(app.ResultSet, ResultSet)
    assert app.AsyncResult("id").app is app
    assert app.GroupResult("g", []).app is app
    assert issubclass(app.Task, Task)
    assert app.AsyncResult is app.AsyncResult


def test_results_of_the_app_pickle() -> None:
    app = make_app(set_as_current=True)
    again = pickle.loads(pickle.dumps(app.AsyncResult("some-id")))
    assert (again.id, again.app) == ("some-id", app)


def test_backend_is_one_per_thread_unless_it_is_thread_safe() -> None:
    def backends_of(app: Celery) -> tuple[Any, Any]:
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(app.backend))
        thread.start()
        thread.join()
        return app.backend, found[0]

    here, there = backends_of(make_app())
    assert here is not there
    here, there = backends_of(make_app(result_backend_thread_safe=True))
    assert here is there


def test_oid_is_the_process_s_and_thread_oid_the_thread_s() -> None:
    app = make_app()
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.extend([app.oid, app.thread_oid]))
    thread.start()
    thread.join()
    assert app.oid == found[0]
    assert app.thread_oid == app.thread_oid != found[1]


def test_timezone_follows_the_settings() -> None:
    app = make_app()
    assert app.timezone == timezone.utc
    assert app.uses_utc_timezone()
    assert app.now().tzinfo is not None
    app.conf.timezone = "Europe/Berlin"
    assert str(app.timezone) == "Europe/Berlin"
    assert not app.uses_utc_timezone()
    app.conf.update(timezone=None, enable_utc=False)
    assert app.timezone == timezone.local


def test_signature_is_bound_to_the_app() -> None:
    app = make_app()
    assert app.signature("proj.add", (1,)).app is app


def test_select_queues() -> None:
    app = make_app()
    app.select_queues(["fast"])
    assert list(app.amqp.queues.consume_from) == ["fast"]


def test_steps_and_user_options_are_sets_by_name() -> None:
    app = make_app()
    app.steps["worker"].add("step")
    app.user_options["worker"].add("option")
    assert (app.steps["consumer"], app.user_options["beat"]) == (set(), set())


def test_setup_security_says_what_is_missing() -> None:
    with pytest.raises(ImproperlyConfigured, match="task_serializer = 'auth'"):
        make_app().setup_security()


def test_subclass_with_self() -> None:
    class Thing:
        """Docs."""

    app = make_app()
    cls = app.subclass_with_self(Thing, name="Bound", attribute="application", extra=1)
    assert (cls.__name__, cls.application, cls.extra, cls.__doc__) == ("Bound", app, 1, "Docs.")


def test_worker_main_wants_the_worker_command() -> None:
    with pytest.raises(ValueError, match="worker sub-command"):
        make_app().worker_main(["beat"])


# -- sending


def test_send_task_of_an_unknown_name() -> None:
    Channel.queues.clear()
    app = make_app()
    result = app.send_task("far.away", [1], {"a": 2}, queue="q", custom=5)
    message = take(app, "q")
    headers = message.headers
    assert (headers["task"], headers["id"], headers["root_id"]) == (
        "far.away",
        result.id,
        result.id,
    )
    assert headers["ignore_result"] is None
    assert message.decode()[:2] == [[1], {"a": 2}]
    assert message.properties["custom"] == 5


def test_send_task_of_a_registered_name_uses_its_options() -> None:
    Channel.queues.clear()
    app = make_app()
    app.task(name="known", shared=False, priority=6, time_limit=3, expires=99)(lambda: None)
    app.send_task("known")
    assert take(app).headers["timelimit"] == [None, None]  # not made yet
    app.finalize()
    app.send_task("known")
    message = take(app)
    assert message.properties["priority"] == 6
    assert message.headers["timelimit"] == [3, None]
    app.send_task("known", time_limit=None, expires=None, priority=1)
    message = take(app)
    assert message.properties["priority"] == 1
    assert message.headers["timelimit"] == [None, None]
    assert message.headers["expires"] is None


def test_send_task_with_a_producer_a_connection_or_another_result_class() -> None:
    Channel.queues.clear()
    app = make_app()
    with app.producer_pool.acquire() as producer:
        app.send_task("a", producer=producer)
        app.send_task("b", publisher=producer)
    with app.connection() as connection:
        app.send_task("c", connection=connection)
    assert app.send_task("d", result_cls=lambda task_id: ("mine", task_id))[0] == "mine"
    assert [take(app).headers["task"] for _ in range(4)] == ["a", "b", "c", "d"]


def test_send_task_warns_that_it_is_never_eager() -> None:
    app = make_app(task_always_eager=True)
    with pytest.warns(AlwaysEagerIgnored):
        app.send_task("any")


def test_expired_before_it_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    Channel.queues.clear()
    app = make_app()
    app.send_task("late", expires=-5)
    assert "expiration date in the past (5s ago)" in caplog.text
    assert take(app).properties["expiration"] == "0"


def test_an_unreachable_broker_is_an_operational_error() -> None:
    app = make_app(broker="pyamqp://127.0.0.1:1//", broker_connection_timeout=1)
    with pytest.raises(OperationalError):
        app.send_task("any", retry=False)


def test_a_warm_delay_stays_short() -> None:
    app = make_app()
    task = app.task(name="add", shared=False)(lambda x, y: x + y)
    for _ in range(3):
        task.delay(1, 2)
    calls = 0

    def count(frame: Any, event: str, arg: Any) -> None:
        nonlocal calls
        name = frame.f_code.co_filename
        calls += event == "call" and ("taskq" in name or "kombu" in name)

    sys.setprofile(count)
    try:
        task.delay(1, 2)
    finally:
        sys.setprofile(None)
    assert calls <= 150


# -- periodic tasks


def test_periodic_tasks_before_and_after_configuration(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app()
    add = app.task(name="add", shared=False)(lambda x, y: x + y)
    assert app.add_periodic_task(10.0, add.s(2), args=(1,), name="early", expires=3) == "early"
    assert app.add_periodic_task(5, add.s(1, 2).set(queue="q"), priority=1) == "add(1, 2)"
    app.add_periodic_task(6, add.s(1, 2))
    assert "shadowed a previous unnamed periodic task" in caplog.text
    schedule = app.conf.beat_schedule
    assert schedule["early"] == {
        "schedule": 10.0,
        "task": "add",
        "args": (1, 2),
        "kwargs": {},
        "options": {"expires": 3},
    }
    assert schedule["add(1, 2)"]["schedule"] == 6
    app.add_periodic_task(7, add.s(), kwargs={"x": 1, "y": 2}, name="late")
    assert app.conf.beat_schedule["late"]["kwargs"] == {"x": 1, "y": 2}
    with pytest.raises(TypeError, match="signature"):
        app.add_periodic_task(7, "add")


def test_periodic_tasks_do_not_configure_the_app() -> None:
    app = make_app()
    app.add_periodic_task(1, app.signature("named"))
    assert not app.configured


# -- going away and elsewhere


def test_close_ends_the_pools_and_with_closes() -> None:
    with make_app() as app:
        app.send_task("any")
        assert app._pool is not None
    assert app._pool is None
    app.send_task("again")
    app.close()


def test_pickling_sends_class_and_settings() -> None:
    app = make_app("sent", task_time_limit=33)
    app.conf.task_default_priority = 4
    again = pickle.loads(pickle.dumps(app))
    assert type(again) is Celery
    assert again.main == "sent"
    assert (again.conf.broker_url, again.conf.task_time_limit) == ("memory://", 33)
    assert again.conf.task_default_priority == 4
    unconfigured = pickle.loads(pickle.dumps(make_app("early")))
    assert unconfigured.conf.broker_url == "memory://"


def test_pickling_of_a_class_with_its_own_arguments() -> None:
    again = pickle.loads(pickle.dumps(OldStyle("old", set_as_current=False)))
    assert type(again) is OldStyle
    assert (again.main, again.conf.task_time_limit) == ("old", 7)


class OldPickler(AppPickler):
    def build_kwargs(self, *args: Any) -> dict[str, Any]:
        kwargs = super().build_kwargs(*args[:-1])
        kwargs["changes"] = {**kwargs["changes"], "task_time_limit": args[-1]}
        return kwargs


class OldStyle(Celery):
    Pickler = OldPickler

    def __reduce_args__(self) -> tuple[Any, ...]:
        return (*super().__reduce_args__(), 7)


def test_a_forked_child_has_its_own_identity_and_backend() -> None:
    app = make_app()
    before = (app.oid, app.thread_oid, id(app.backend))
    reader, writer = multiprocessing.get_context("fork").Pipe(duplex=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pytest may have threads
        pid = os.fork()
    if pid == 0:
        writer.send((app.oid, app.thread_oid, app._shared_backend))
        os._exit(0)
    child = reader.recv()
    os.waitpid(pid, 0)
    assert child[0] != before[0]
    assert child[1] != before[1]
    assert (app.oid, app.thread_oid, id(app.backend)) == before


# -- the default app


def test_without_an_app_there_is_a_default_one() -> None:
    program = (
        "import taskq.app, taskq._state as s; from taskq import shared_task\n"
        "assert s.default_app is None\n"
        "app = s.get_current_app()\n"
        "assert app.main == 'default' and taskq.app.default_app.main == 'default'\n"
        "assert s.default_app is app and type(app.loader).__name__ == 'Loader'\n"
        "t = shared_task(name='s')(lambda: 5)\n"
        "assert t() == 5 and t.app is app\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program], check=True, env=env, timeout=PATIENCE_S)


def test_set_default_and_app_or_default() -> None:
    app = make_app()
    assert taskq.app.app_or_default(app) is app
    before = _state.default_app
    try:
        app.set_default()
        assert _state.default_app is app
        assert taskq.app.default_app.main == "base"
    finally:
        _state.set_default_app(before)


def test_bugreport_hides_secrets() -> None:
    app = make_app(broker="pyamqp://me:hunter2@host//", backend="memory://")
    report = app.bugreport()
    assert "transport:pyamqp" in report or "transport:amqp" in report
    assert "hunter2" not in report
    assert bugreport(app) == report


def test_repr_names_class_main_and_address() -> None:
    app = make_app()
    assert repr(app) == f"<Celery base at {id(app):#x}>"
    assert repr(App(set_as_current=False)).startswith("<App __main__ at 0x")
