"""Loaders: the source of settings, modules with tasks, settings of the command line."""

from __future__ import annotations

import os
import sys
import types

import pytest

from taskq import signals
from taskq.app.base import Celery
from taskq.app.discovery import autodiscover_tasks, find_app, find_related_module
from taskq.app.loader import AppLoader, BaseLoader, Loader, get_loader_cls
from taskq.exceptions import ImproperlyConfigured
from taskq.utils.imports import NotAPackage

PACKAGES = {
    "tq_good": {"tasks.py": "X = 1", "jobs.py": ""},
    "tq_bare": {},
    "tq_broken": {"tasks.py": "import tq_no_such_thing"},
    "tq_django": {"apps.py": "class Config: ...", "tasks.py": ""},
    "tq_app": {
        "celery.py": "from taskq.app.base import Celery\napp = Celery('a', set_as_current=0)"
    },
    "tq_bad_app": {"celery.py": "import tq_no_such_thing"},
}


@pytest.fixture
def packages(tmp_path, monkeypatch):
    for package, files in PACKAGES.items():
        (tmp_path / package).mkdir()
        for name, text in {"__init__.py": "", **files}.items():
            (tmp_path / package / name).write_text(text)
    (tmp_path / "tq_flat.py").write_text("worker_pool = 'flat'")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("tq_")]:
        del sys.modules[name]


@pytest.fixture
def app(monkeypatch):
    monkeypatch.delenv("CELERY_CONFIG_MODULE", raising=False)
    app = Celery("loaded", set_as_current=False)
    yield app
    app.close()


class TestDiscovery:
    @pytest.mark.parametrize(
        ("package", "related", "found"),
        [
            ("tq_good", "tasks", "tq_good.tasks"),
            ("tq_good", "jobs", "tq_good.jobs"),
            ("tq_good", None, "tq_good"),
            ("tq_bare", "tasks", None),
            ("tq_flat", "tasks", None),
            ("tq_django.apps.Config", "tasks", None),
            ("tq_django.apps", "tasks", None),
        ],
    )
    def test_find_related_module(self, packages, package, related, found):
        module = find_related_module(package, related)
        assert (module and module.__name__) == found

    @pytest.mark.parametrize(
        ("package", "missing"),
        [("tq_broken", "tq_no_such_thing"), ("tq_nope", "tq_nope"), ("tq_nope.x.y", "tq_nope")],
    )
    def test_errors_are_not_hidden(self, packages, package, missing):
        with pytest.raises(ModuleNotFoundError) as caught:
            find_related_module(package, "tasks")
        assert caught.value.name == missing

    def test_autodiscover(self, packages, app):
        modules = autodiscover_tasks(["tq_good", "tq_bare"])
        assert [module and module.__name__ for module in modules] == ["tq_good.tasks", None]
        app.loader.autodiscover_tasks(["tq_good", "tq_bare"])
        app.loader.autodiscover_tasks(None)
        assert app.loader.task_modules == {"tq_good.tasks"}

    def test_find_app(self, packages, app):
        module = types.ModuleType("tq_found")
        sys.modules["tq_found"] = module
        module.anything = app
        assert find_app("tq_found") is app
        assert find_app("tq_found:anything") is app
        assert find_app(app) is app
        module.celery = 5
        assert find_app("tq_found") == 5
        module.app = 6
        assert find_app("tq_found") == 6
        assert find_app("tq_app").main == find_app("tq_app.celery").main == "a"

    def test_no_app(self, packages):
        with pytest.raises(AttributeError, match="holds no application"):
            find_app("tq_good")
        with pytest.raises(ModuleNotFoundError, match="tq_no_such_thing"):
            find_app("tq_bad_app")
        with pytest.raises(ModuleNotFoundError):
            find_app("tq_nope")


class TestModules:
    def test_order(self, packages):
        app = Celery("m", set_as_current=False, include="tq_good.jobs")
        app.conf.imports = ("tq_good.tasks",)
        assert app.loader.default_modules == ("tq_good.tasks", "tq_good.jobs")
        names = [module.__name__ for module in app.loader.import_default_modules()]
        assert names == ["tq_good.tasks", "tq_good.jobs"]
        assert app.loader.task_modules == set(names)
        app.close()

    def test_an_error_of_the_signal_is_raised(self, app):
        def receiver(**kwargs):
            raise ZeroDivisionError

        signals.import_modules.connect(receiver)
        try:
            with pytest.raises(ZeroDivisionError):
                app.loader.import_default_modules()
        finally:
            signals.import_modules.disconnect(receiver)

    def test_worker_s_life(self, app):
        calls = []

        class Noting(AppLoader):
            def import_default_modules(self):
                calls.append("import")
                return []

            def on_worker_init(self):
                calls.append("init")

            def on_worker_process_init(self):
                calls.append("process")

            def on_worker_shutdown(self):
                calls.append("shutdown")

        loader = Noting(app)
        for step in ("init_worker", "init_worker", "init_worker_process", "shutdown_worker"):
            getattr(loader, step)()
        assert calls == ["import", "init", "process", "shutdown"]
        assert loader.on_task_init("id", None) is loader.on_process_cleanup() is None
        assert loader.now().tzinfo is not None and loader.now(utc=False).tzinfo is None


class TestSource:
    def test_default_loader(self, app, packages, monkeypatch):
        monkeypatch.setenv("CELERY_CONFIG_MODULE", "tq_flat")
        loader = Loader(app)
        assert loader.conf["worker_pool"] == "flat" and loader.configured
        monkeypatch.setenv("TASKQ_CONFIG_MODULE", "tq_nope")
        loader = Loader(app)
        assert not [name for name in loader.conf if not name.startswith("_")]
        assert not loader.configured
        with pytest.raises(ImportError):
            loader.read_configuration(fail_silently=False)

    def test_base_loader(self, app, packages, monkeypatch):
        assert BaseLoader(app).conf is None
        monkeypatch.setenv("CELERY_CONFIG_MODULE", "tq_flat.py")
        with pytest.raises(NotAPackage, match="Did you mean 'tq_flat'"):
            BaseLoader(app).read_configuration()

    def test_silent(self, app):
        assert app.loader.config_from_object("tq_nope", silent=True) is False
        assert app.loader.config_from_object({}) is True

    def test_get_loader_cls(self):
        assert get_loader_cls("app") is AppLoader and get_loader_cls("default") is Loader
        assert get_loader_cls("celery.loaders.base:BaseLoader") is BaseLoader
        assert get_loader_cls(Loader) is Loader

    def test_import_from_cwd(self, app, tmp_path, monkeypatch):
        (tmp_path / "tq_here.py").write_text("")
        monkeypatch.chdir(tmp_path)
        assert app.loader.import_from_cwd("tq_here").__name__ == "tq_here"
        assert os.getcwd() not in sys.path
        del sys.modules["tq_here"]


class TestCommandLine:
    @pytest.mark.parametrize(
        ("arg", "name", "value"),
        [
            ("worker.pool=solo", "worker_pool", "solo"),
            (".prefetch_multiplier=3", "worker_prefetch_multiplier", 3),
            ("broker.url=m://x?a=b", "broker_url", "m://x?a=b"),
            (".concurrency=auto", "worker_concurrency", "auto"),
            (".send_task_events=yes", "worker_send_task_events", True),
            (".lost_wait=2", "worker_lost_wait", 2.0),
            ("task_serializer=yaml", "task_serializer", "yaml"),
            ('task.queues=(json){"a":{}}', "task_queues", {"a": {}}),
            ("worker.max_tasks_per_child=(float)3", "worker_max_tasks_per_child", 3.0),
            ('.anything=(list)["x"]', "worker_anything", ["x"]),
            ("include=a,b", "include", ("a", "b")),
        ],
    )
    def test_settings(self, app, arg, name, value):
        assert app.loader.cmdline_config_parser([arg], namespace="worker") == {name: value}

    @pytest.mark.parametrize(
        ("arg", "message"),
        [
            (".prefetch_multiplier=four", "worker_prefetch_multiplier: cannot use 'four'"),
            (".prefetch_multiplyer=4", "did you mean 'worker_prefetch_multiplier'"),
            (".send_task_events=maybe", "write yes or no"),
            (".pool", "write .pool=value"),
            (".pool=(wool)x", "'wool' is no type"),
            (".concurrency=(int)x", "worker_concurrency: cannot use 'x'"),
        ],
    )
    def test_errors(self, app, arg, message):
        with pytest.raises(ImproperlyConfigured, match=message.replace("(", r"\(")):
            app.loader.cmdline_config_parser([arg], namespace="worker")
