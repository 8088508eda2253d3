"""Celery's addresses answered by taskq: each check runs in a fresh interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


def run(code: str, cwd: Path, **env: str) -> str:
    """Output of `code` in a new interpreter; its error output fails the test."""
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", textwrap.dedent(code)],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_unmodified_module_runs(tmp_path: Path) -> None:
    (tmp_path / "legacy.py").write_text(
        textwrap.dedent("""
        from celery import Celery, shared_task
        from celery.utils.log import get_task_logger
        from celery.exceptions import Ignore, Retry
        from celery.result import AsyncResult
        import celery.signals

        logger = get_task_logger(__name__)
        app = Celery("legacy", broker="memory://", backend="cache+memory://")
        seen = []

        @celery.signals.task_postrun.connect
        def remember(sender=None, **kwargs):
            seen.append(sender.name)

        @app.task
        def add(x, y):
            return x + y

        @shared_task
        def double(x):
            return 2 * x
        """)
    )
    out = run(
        """
        import taskq
        taskq.install_as_celery()
        taskq.install_as_celery()
        import legacy, celery, sys
        assert legacy.add.apply((2, 3)).get() == 5
        assert legacy.double.apply((4,)).get() == 8
        assert legacy.seen == ["legacy.add", "legacy.double"]
        assert celery.Celery is taskq.Celery
        assert celery.app.base.Celery is taskq.Celery
        assert not [m for m in sys.modules if m.startswith("celery") and
                    type(sys.modules[m]).__name__ != "AliasModule"]
        print(type(legacy.app).__module__)
        """,
        tmp_path,
    )
    assert out == "taskq.app.base"


def test_alias_reads_writes_and_deletes_in_the_home(tmp_path: Path) -> None:
    run(
        """
        import taskq
        taskq.install_as_celery()
        import celery.app.trace as alias
        import taskq.app.trace as home
        from unittest import mock
        assert alias.__name__ == "celery.app.trace" and alias is not home
        original = home.build_tracer
        alias.build_tracer = "patched"
        assert home.build_tracer == "patched"
        alias.build_tracer = original
        with mock.patch("celery.app.trace.build_tracer", "mocked"):
            assert home.build_tracer == "mocked"
        assert home.build_tracer is original
        alias.extra = 1
        assert home.extra == 1
        del alias.extra
        assert not hasattr(home, "extra")
        assert "build_tracer" in dir(alias)
        """,
        tmp_path,
    )


def test_submodules_are_not_loaded_twice_and_keep_both_names(tmp_path: Path) -> None:
    run(
        """
        import taskq
        taskq.install_as_celery()
        import celery
        import celery.app.task
        import taskq.app.task
        assert celery.app.task.Task is taskq.app.task.Task
        assert celery.app.task.__name__ == "celery.app.task"
        assert taskq.app.task.__name__ == "taskq.app.task"
        assert celery.utils.log.get_task_logger is taskq.utils.log.get_task_logger
        from celery import states, signals
        assert states.__name__ == "celery.states"
        from celery.states import *
        assert SUCCESS == "SUCCESS"
        """,
        tmp_path,
    )


def test_moved_addresses_answer_below_taskq_without_install(tmp_path: Path) -> None:
    run(
        """
        import sys
        import taskq
        import taskq.app.utils, taskq.utils.dispatch.signal, taskq.loaders.base, taskq.local
        from taskq.utils.dispatch import Signal
        import taskq.app.settings, taskq.utils.signalling
        assert taskq.app.utils.Settings is taskq.app.settings.Settings
        assert Signal is taskq.utils.signalling.Signal
        assert "celery" not in sys.modules
        try:
            import taskq.no_such_module
        except ModuleNotFoundError:
            pass
        else:
            raise AssertionError("must not be found")
        """,
        tmp_path,
    )


def test_unknown_celery_module_is_not_found(tmp_path: Path) -> None:
    run(
        """
        import taskq
        taskq.install_as_celery()
        for name in ("celery.no_such_module", "celery.app.no_such_module"):
            try:
                __import__(name)
            except ModuleNotFoundError as exc:
                assert name in str(exc)
            else:
                raise AssertionError(name)
        """,
        tmp_path,
    )


def test_wins_over_an_installed_celery(tmp_path: Path) -> None:
    (tmp_path / "celery").mkdir()
    (tmp_path / "celery" / "__init__.py").write_text("raise AssertionError('the other one')\n")
    run("import taskq; taskq.install_as_celery(); import celery; celery.Celery", tmp_path)


def test_too_late_says_who_imported_it(tmp_path: Path) -> None:
    (tmp_path / "celery").mkdir()
    (tmp_path / "celery" / "__init__.py").write_text("class Celery: pass\n")
    (tmp_path / "early_bird.py").write_text("from celery import Celery\n")
    out = run(
        """
        import early_bird, taskq
        try:
            taskq.install_as_celery()
        except RuntimeError as exc:
            print(exc)
        """,
        tmp_path,
    )
    assert "early_bird" in out
    assert "--as-celery" in out


@pytest.mark.parametrize(
    ("path", "home"),
    [
        ("celery.app.task:Task", "taskq.app.task"),
        ("celery.worker.consumer:Consumer", "taskq.worker.consumer.consumer"),
        ("celery.loaders.app:AppLoader", "taskq.app.loader"),
        ("celery.utils.dispatch.signal:Signal", "taskq.utils.signalling"),
    ],
)
def test_names_in_strings_are_read_as_taskq(tmp_path: Path, path: str, home: str) -> None:
    out = run(
        f"""
        import sys, taskq
        from taskq.utils.imports import symbol_by_name
        print(symbol_by_name({path!r}).__module__)
        assert "celery" not in sys.modules
        """,
        tmp_path,
    )
    assert out == home


def test_pickle_names_celery_and_reads_it_back(tmp_path: Path) -> None:
    run(
        """
        import pickle, pickletools, taskq
        from kombu.serialization import dumps, loads
        from taskq import App
        from taskq.exceptions import MaxRetriesExceededError, TaskRevokedError
        app = App("p", broker="memory://", backend="cache+memory://")
        sig = app.signature("add", (1, 2))
        for value in (sig, sig | app.signature("add", (3,)), TaskRevokedError("r"),
                      MaxRetriesExceededError("m", task_args=[1], task_kwargs={})):
            ctype, enc, body = dumps(value, "pickle")
            assert b"taskq" not in body, body
            back = loads(body, ctype, enc, accept=["application/x-python-serialize"])
            assert back == value or (type(back) is type(value) and back.args == value.args)
        """,
        tmp_path,
    )
