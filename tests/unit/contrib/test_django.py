"""Applications in a Django project: activation, commits, and connections of workers."""

from __future__ import annotations

import logging
import os
import pickle
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import django
import pytest
from asgiref.sync import SyncToAsync, sync_to_async
from django.conf import settings
from django.core import checks
from django.core.cache import cache
from django.core.cache.backends.locmem import LocMemCache
from django.db import connection, connections, transaction
from django.db.utils import ConnectionDoesNotExist, InterfaceError
from django.test import override_settings
from servers import PostgresDatabase

from taskq import Celery, _state, signals
from taskq.app.task import Task
from taskq.app.trace import build_tracer
from taskq.contrib.django.fixup import DjangoFixup
from taskq.contrib.django.task import DjangoTask
from taskq.exceptions import FixupWarning

HEARD = ("import_modules", "worker_init", "worker_process_init", "task_prerun", "task_postrun",
         "beat_embedded_init", "before_task_publish")  # fmt: skip


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Django itself, which can be set up once in a process; gives the file of the database."""
    folder = tmp_path_factory.mktemp("project")
    engine = "django.db.backends.sqlite3"
    settings.configure(
        DATABASES={
            name: {"ENGINE": engine, "NAME": str(folder / name)} for name in ("default", "other")
        },
        INSTALLED_APPS=["django.contrib.sites"],
        LOGGING_CONFIG=None,
        USE_TZ=True,
        TIME_ZONE="Europe/Oslo",
        CELERY_BROKER_URL="memory://",
        CELERY_DB_REUSE_MAX=None,
        CELERY_TASK_DEFAULT_QUEUE="of-the-project",
    )
    django.setup()
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE article (title text)")
    return str(folder / "default")


@pytest.fixture(autouse=True)
def environment(project: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    kept = {name: getattr(signals, name).receivers for name in HEARD}
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "configured.already")
    monkeypatch.setattr(_state, "default_app", None)
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield
    connections.close_all()
    for name, receivers in kept.items():
        getattr(signals, name).receivers = receivers


@pytest.fixture
def app() -> Celery:
    made = Celery("site")
    made.config_from_object("django.conf:settings", namespace="CELERY")
    return made


@pytest.fixture
def log(app: Celery, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a worker's fixup does and what the task does, in order."""
    done: list[str] = []
    for each in connections.all():
        close = each.close
        monkeypatch.setattr(
            each, "close", lambda close=close, alias=each.alias: (done.append(alias), close())
        )
    monkeypatch.setattr(LocMemCache, "close", lambda self, **_: done.append("cache"))

    @app.task(name="work")
    def work() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        cache.get("x")
        done.append("work")

    return done


def fixup_of(app: Celery) -> DjangoFixup:
    (fixup,) = app._fixups
    assert isinstance(fixup, DjangoFixup)
    return fixup


def run(app: Celery) -> None:
    build_tracer("work", app.tasks["work"], app=app)("id", (), {}, {"is_eager": False})


# -- activation


def test_costs_nothing_outside_of_django() -> None:
    code = (
        "import sys, taskq; app = taskq.Celery('x'); app.tasks\n"
        "assert app._fixups == [] and app.fixups == {'celery.fixups.django:fixup'}\n"
        # Some of Django's tools are kombu's doing, where Django is installed.
        "print([name for name in sys.modules if name.startswith(('taskq.contrib', 'django.db'))])"
    )
    env = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_an_application_of_the_project(app: Celery) -> None:
    assert issubclass(app.Task, DjangoTask)
    assert _state.default_app is app, "threads that serve requests made none current"
    assert app.conf.task_default_queue == "of-the-project"
    assert str(app.timezone) == "Europe/Oslo"
    Celery("second")
    assert _state.default_app is app
    assert issubclass(pickle.loads(pickle.dumps(app)).Task, DjangoTask)
    assert os.getcwd() in sys.path


def test_settings_are_read_once_until_django_announces_a_change(app: Celery) -> None:
    app.conf.broker_url  # the first look loads them
    assert app.conf.task_default_queue == "of-the-project"
    assert "task_default_queue" in vars(app.conf), "kept as a plain attribute"
    with override_settings(CELERY_TASK_DEFAULT_QUEUE="of-the-test"):
        assert app.conf.task_default_queue == "of-the-test"
    assert app.conf.task_default_queue == "of-the-project"


def test_a_task_class_of_ones_own_stays() -> None:
    class Mine(Task[..., Any]):
        pass

    class Special(Celery):
        task_cls = Mine

    assert issubclass(Celery("a", task_cls=Mine).Task, Mine)
    assert Celery("a", task_cls="celery.app.task:Task").task_cls == "celery.app.task:Task"
    assert issubclass(Special("a").Task, Mine)


def test_fixups_can_be_left_out() -> None:
    plain = Celery("plain", fixups=())
    assert plain._fixups == []
    assert not issubclass(plain.Task, DjangoTask)


def test_without_django_it_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "django", None)
    with pytest.warns(FixupWarning, match="there is no Django here"):
        lonely = Celery("lonely")
    assert not issubclass(lonely.Task, DjangoTask)


def test_now_is_djangos(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    assert app.loader.now().utcoffset() is not None
    monkeypatch.setattr(settings, "USE_TZ", False)
    assert app.loader.now().tzinfo is None
    assert app.loader.now(utc=True).utcoffset() is not None


# -- modules and checks


def test_tasks_are_looked_for_in_the_installed_apps(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(app.loader, "autodiscover_tasks", lambda *given: asked.append(given))
    app.autodiscover_tasks()
    app.loader.import_default_modules()
    assert asked == [(["django.contrib.sites"], "tasks")]


def test_checks_are_logged_unless_skipped(
    app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = [checks.Error("no title", id="blog.E1"), checks.Warning("long ago")]
    monkeypatch.setattr(checks, "run_checks", lambda: found)
    app.loader.import_default_modules()
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        ("ERROR", "Django check: ?: (blog.E1) no title"),
        ("WARNING", "Django check: ?: long ago"),
    ]
    monkeypatch.setenv("CELERY_SKIP_CHECKS", "true")
    app.loader.import_default_modules()
    assert len(caplog.records) == 2


def test_djangos_logging_leaves_ours_on(app: Celery) -> None:
    ours, other = logging.getLogger("celery.app.trace"), logging.getLogger("shop.celery")
    ours.disabled = other.disabled = True  # as dictConfig() does
    try:
        fixup_of(app).worker_fixup.django_setup()
        assert (ours.disabled, other.disabled) == (False, True)
    finally:
        ours.disabled = other.disabled = False


# -- calls that wait for the commit


@pytest.fixture
def sent(app: Celery, project: str) -> list[tuple[Any, int]]:
    """(arguments, how many articles anybody else can see) of each call, as it is sent."""
    calls: list[tuple[Any, int]] = []

    def look(body: Any, **_: Any) -> None:
        elsewhere = sqlite3.connect(project)
        (seen,) = elsewhere.execute("SELECT count(*) FROM article").fetchone()
        elsewhere.close()
        calls.append((body[:2], seen))

    signals.before_task_publish.connect(look, weak=False)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM article")

    @app.task(name="index")
    def index(number: int, how: str = "") -> None: ...

    return calls


def create() -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO article VALUES ('title')")


def test_on_commit(app: Celery, sent: list[Any]) -> None:
    index = app.tasks["index"]
    with transaction.atomic():
        create()
        with transaction.atomic():
            assert index.delay_on_commit(1, how="well") is None
        assert index.apply_async_on_commit((2,), {"how": "so"}, countdown=1) is None
        create()
        index.delay(3)
        assert sent == [(((3,), {}), 0)], "delay() does not wait"
    assert sent[1:] == [(((1,), {"how": "well"}), 2), (((2,), {"how": "so"}), 2)]
    index.delay_on_commit(4)
    assert len(sent) == 4, "without a transaction it is sent at once"


def test_nothing_is_sent_on_rollback(app: Celery, sent: list[Any]) -> None:
    index = app.tasks["index"]
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        create()
        index.delay_on_commit(1)
        index.apply_async_on_commit((1,))
        raise ZeroDivisionError
    with transaction.atomic():
        pass
    assert sent == []


def test_using_names_the_database(app: Celery, sent: list[Any]) -> None:
    index = app.tasks["index"]
    with transaction.atomic(using="other"):
        index.apply_async_on_commit((1,), using="other")
        index.apply_async_on_commit((2,))
        assert [args for (args, _), _ in sent] == [(2,)]
    assert [args for (args, _), _ in sent] == [(2,), (1,)]
    with pytest.raises(ConnectionDoesNotExist):
        index.apply_async_on_commit((3,), using="nowhere")


# -- connections in a worker


def test_connections_are_closed_around_a_task(app: Celery, log: list[str]) -> None:
    connection.ensure_connection()
    signals.worker_init.send(sender=None)
    run(app)
    closed = ["default", "other"]
    assert log == [*closed, "work", *closed, "cache"]
    assert connection.connection is None


def test_a_coroutine_leaves_none_in_djangos_thread(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    @app.task(name="work", autoretry_for=(OSError,))
    async def work() -> None:
        await sync_to_async(lambda: connection.ensure_connection())()
        opened.append(await sync_to_async(lambda: connection.connection)())

    connection.ensure_connection()
    with ThreadPoolExecutor(1) as thread:
        monkeypatch.setattr(SyncToAsync, "single_thread_executor", thread)
        signals.worker_init.send(sender=None)
        run(app)
        assert opened[0] is not None
        assert thread.submit(lambda: connection.connection).result() is None
    assert connection.connection is not None, "that of this thread is no business of the task"


def test_a_spawned_child_closes_too(app: Celery, log: list[str]) -> None:
    # worker_init was sent in another process.
    signals.worker_process_init.send(sender=None)
    assert log[:2] == ["default", "other"]
    log.clear()
    run(app)
    assert log.count("default") == 2


def test_an_eager_task_has_its_callers_connections(app: Celery, log: list[str]) -> None:
    signals.worker_init.send(sender=None)
    connection.ensure_connection()
    assert app.tasks["work"].apply().successful()
    assert log == ["work"]
    assert connection.connection is not None


def test_reuse_for_so_many_tasks(app: Celery, log: list[str]) -> None:
    app.conf.CELERY_DB_REUSE_MAX = 3
    signals.worker_init.send(sender=None)
    for _ in range(7):
        run(app)
    assert [each for each in log if each in ("work", "default")] == [
        *["work"] * 3, "default", *["work"] * 3, "default", "work",
    ]  # fmt: skip


def test_reuse_is_a_setting_of_django(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "CELERY_DB_REUSE_MAX", 7)
    assert fixup_of(app).worker_fixup.db_reuse_max == 7


def test_a_connection_that_cannot_be_closed(
    app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise InterfaceError("gone")

    connection.ensure_connection()
    with monkeypatch.context() as patch:
        patch.setattr(connections["default"], "close", fail)
        fixup_of(app).worker_fixup.close_database()
    assert caplog.messages == ["Database 'default': closing failed: InterfaceError('gone')"]


def test_a_child_leaves_the_parents_connection_alone(
    app: Celery, postgres_database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = {
        **connections.databases["default"],
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "127.0.0.1",
        "USER": "postgres",
        "NAME": postgres_database.name,
    }
    monkeypatch.setitem(connections.databases, "shared", database)
    signals.worker_init.send(sender=None)
    mine = server_process()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            signals.worker_process_init.send(sender=None)
            os.write(writing, str(server_process()).encode())
            connections["shared"].close()
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        others = int(said.read())
    os.waitpid(child, 0)
    assert others != mine, "the child has a connection of its own"
    assert server_process() == mine, "the parent's is still good"
    connections["shared"].close()
    del connections["shared"]


def server_process() -> int:
    with connections["shared"].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])
