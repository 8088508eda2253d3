"""When and from where an application's configuration is loaded, and what wins."""

from __future__ import annotations

import sys
import threading
import types

import pytest

from taskq.app.base import App, Celery
from taskq.app.pending import PendingConfiguration
from taskq.exceptions import ImproperlyConfigured


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("CONFIG_MODULE", "LOADER", "BROKER_URL", "RESULT_BACKEND"):
        monkeypatch.delenv(f"CELERY_{name}", raising=False)
        monkeypatch.delenv(f"TASKQ_{name}", raising=False)


@pytest.fixture
def make_app():
    made = []

    def make(cls=Celery, /, *args, **kwargs):
        app = cls("configured", *args, set_as_current=False, **kwargs)
        made.append(app)
        return app

    yield make
    for app in made:
        app.close()


@pytest.fixture
def module(monkeypatch):
    module = types.ModuleType("proj_config")
    module.worker_pool = "solo"
    module.other = 9
    module.part = types.SimpleNamespace(worker_pool="gevent")
    monkeypatch.setitem(sys.modules, "proj_config", module)
    return module


class TestBeforeLoading:
    def test_writing_loads_nothing(self, make_app):
        app = make_app()
        conf = app.conf
        conf.worker_pool = "solo"
        conf["foo"] = 1
        conf.update(bar=2)
        assert not app.configured and isinstance(conf.changes, PendingConfiguration)
        assert (conf.worker_pool, conf.foo, conf.bar) == ("solo", 1, 2)
        assert app.configured and app.conf is conf and type(conf.changes) is dict

    def test_reading_loads(self, make_app):
        for read in (
            lambda conf: conf.worker_pool,
            lambda conf: conf["worker_pool"],
            lambda conf: "worker_pool" in conf,
            len,
            list,
            lambda conf: conf.value_set_for("worker_pool"),
            lambda conf: conf.humanize(),
            lambda conf: conf.pop("foo", None),
        ):
            app = make_app()
            app.config_from_object({"worker_pool": "solo"})
            read(app.conf)
            assert app.configured and app.conf.worker_pool == "solo"

    def test_what_was_written_wins_over_the_source(self, make_app):
        app = make_app()
        app.conf.worker_concurrency = 3
        app.config_from_object({"CELERYD_CONCURRENCY": 4, "CELERYD_POOL": "solo"})
        assert (app.conf.worker_concurrency, app.conf.worker_pool) == (3, "solo")

    def test_add_defaults(self, make_app):
        app = make_app()
        app.add_defaults({"worker_pool": "first", "zap": 1})
        app.add_defaults(lambda: {"worker_pool": "second"})
        app.config_from_object({"worker_pool": "source", "task_serializer": "yaml"})
        assert not app.configured
        assert (app.conf.worker_pool, app.conf.zap) == ("second", 1)
        app.add_defaults({"later": 2})
        assert app.conf.later == 2


class TestSources:
    @pytest.mark.parametrize("source", ["proj_config", {"worker_pool": "solo"}])
    def test_lazily(self, make_app, module, source):
        app = make_app()
        assert app.config_from_object(source) is None and not app.configured
        assert app.conf.worker_pool == "solo"

    @pytest.mark.parametrize("path", ["proj_config:part", "proj_config.part"])
    def test_part_of_a_module(self, make_app, module, path):
        app = make_app()
        app.config_from_object(path)
        assert app.conf.worker_pool == "gevent"

    def test_class_and_constructor(self, make_app):
        class Config:
            worker_pool = "threads"

        assert make_app(config_source=Config).conf.worker_pool == "threads"
        assert make_app(config_source=Config()).conf.worker_pool == "threads"

    def test_missing_module(self, make_app):
        app = make_app()
        app.config_from_object("no_such_config")
        for _ in range(2):
            with pytest.raises(ModuleNotFoundError):
                app.conf.worker_pool
        with pytest.raises(ModuleNotFoundError):
            make_app().config_from_object("no_such_config", force=True)
        app = make_app()
        app.config_from_object("no_such_config", silent=True)
        assert app.conf.worker_pool == "prefork"

    def test_file_name_instead_of_module(self, make_app, module):
        app = make_app()
        app.config_from_object("proj_config.py")
        with pytest.raises(ImportError, match="Did you mean 'proj_config'"):
            app.conf.worker_pool

    def test_resets_what_was_changed_since_loading(self, make_app):
        app = make_app(broker="memory://")
        conf = app.conf
        conf.before = 1
        assert conf.worker_pool == "prefork"
        conf.worker_pool = "solo"
        app.config_from_object({"task_serializer": "yaml", "broker_url": "other://"})
        assert conf is app.conf and conf.worker_pool == "prefork"
        assert (conf.task_serializer, conf.before) == ("yaml", 1)
        assert conf.broker_url == "memory://"

    def test_constructor_wins(self, make_app):
        app = make_app(broker="b1://", backend="r1://", include=["i1"], task_serializer="yaml")
        app.config_from_object(
            {"BROKER_URL": "b2://", "CELERY_RESULT_BACKEND": "r2", "CELERY_INCLUDE": ["i2"]}
        )
        conf = app.conf
        assert (conf.broker_url, conf.result_backend, conf.include) == ("b1://", "r1://", ["i1"])
        assert conf.task_serializer == "yaml"

    def test_namespace(self, make_app):
        app = make_app(namespace="MY")
        app.config_from_object({"MY_WORKER_POOL": "solo", "WORKER_POOL": "x"})
        assert app.conf.worker_pool == "solo"
        app = make_app()
        app.config_from_object({"CELERY_WORKER_POOL": "solo"}, namespace="CELERY")
        assert app.namespace == "CELERY" and app.conf.worker_pool == "solo"

    def test_envvar(self, make_app, module, monkeypatch):
        monkeypatch.setenv("PROJ_CONFIG", "proj_config")
        app = make_app()
        app.config_from_envvar("PROJ_CONFIG")
        assert app.conf.worker_pool == "solo"

    def test_envvar_not_set(self, make_app, monkeypatch):
        monkeypatch.delenv("PROJ_CONFIG", raising=False)
        with pytest.raises(ImproperlyConfigured, match="'PROJ_CONFIG' is not set"):
            make_app().config_from_envvar("PROJ_CONFIG")
        assert make_app().config_from_envvar("PROJ_CONFIG", silent=True) is False

    @pytest.mark.parametrize("root", ["TASKQ", "CELERY"])
    def test_environment_names_the_module(self, make_app, module, monkeypatch, root):
        monkeypatch.setenv(f"{root}_CONFIG_MODULE", "proj_config")
        assert make_app().conf.worker_pool == "solo"
        monkeypatch.setenv(f"{root}_LOADER", "default")
        app = make_app()
        assert type(app.loader).__name__ == "Loader" and app.conf.worker_pool == "solo"

    def test_command_line(self, make_app):
        app = make_app()
        app.config_from_object({"worker_pool": "solo"})
        app.config_from_cmdline(
            [".prefetch_multiplier=3", "broker.url=memory://", "(ignored)"][:2], "worker"
        )
        assert app.conf.worker_prefetch_multiplier == 3 and app.conf.broker_url == "memory://"
        assert app.conf.worker_pool == "solo"

    def test_override_backends(self, make_app):
        app = make_app()
        app.config_from_object({"override_backends": {"x": "proj:Backend"}}, force=True)
        assert app.loader.override_backends == {"x": "proj:Backend"}


class TestLoading:
    def test_who_is_told_in_which_order(self, make_app):
        told = []

        class Project(Celery):
            def prepare_config(self, c):
                told.append("prepare")
                return super().prepare_config(c)

        app = make_app(Project)
        app.on_configure.connect(lambda **kw: told.append("configure"), weak=False)
        app.on_after_configure.connect(
            lambda source, **kw: told.append(("after", source is app.conf)), weak=False
        )
        app.add_defaults(lambda: told.append("defaults") or {})
        assert app.conf.worker_pool and app.conf.task_serializer
        assert told == ["configure", "prepare", "defaults", ("after", True)]

    def test_on_configure_may_write_and_read(self, make_app):
        app = make_app()
        app.config_from_object({"task_serializer": "yaml"})
        seen = []

        @app.on_configure.connect(weak=False)
        def configure(**kwargs):
            app.conf.worker_pool = "solo"
            seen.append((app.conf.worker_pool, app.conf.task_serializer))

        assert (app.conf.task_serializer, app.conf.worker_pool) == ("yaml", "solo")
        assert seen == [("solo", "json")]

    def test_once_for_all_threads(self, make_app):
        app = make_app()
        loads = []
        app.on_configure.connect(lambda **kw: loads.append(1), weak=False)
        threads = [threading.Thread(target=lambda: app.conf.worker_pool) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert loads == [1]

    def test_native_application_needs_no_configuration(self, make_app):
        conf = make_app(App).conf
        assert conf.broker_url == conf.result_backend == "sqlite:///taskq.db"
        assert not conf.value_set_for("broker_url")
        assert make_app(App, broker="memory://").conf.broker_url == "memory://"
        conf = make_app(Celery).conf
        assert conf.broker_url is None and conf.result_backend is None
