"""The command line without a worker: which application, which command, which environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from contract.workers import memory_app, serving

from taskq import Celery
from taskq.bin.main import celery
from taskq.bin.worker import _without_detach, worker
from taskq.platforms import EX_UNAVAILABLE
from taskq.signals import user_preload_options

MODULE = "from taskq import Celery\n{0} = Celery('made', broker='memory://')\n"


@pytest.fixture
def app() -> Iterator[Celery]:
    app = memory_app("cli")

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    yield app
    app.close()


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    known = set(sys.modules)

    def run(*arguments: str, app: Celery | None = None, **environment: str) -> Result:
        monkeypatch.setattr(celery.params[0], "default", app)
        return CliRunner().invoke(celery, arguments, env=environment, prog_name="taskq")

    yield run
    for name in set(sys.modules) - known:
        if name.startswith("cli_"):
            del sys.modules[name]


def test_without_a_command_it_helps(cli: Any) -> None:
    ended = cli()
    assert ended.exit_code == 0
    for command in ("worker", "inspect", "purge"):
        assert command in ended.output


def test_version(cli: Any) -> None:
    ended = cli("--version")
    assert ended.exit_code == 0
    assert ended.output.startswith("5.7.0")


def test_an_unknown_command_is_answered_with_the_closest(cli: Any) -> None:
    ended = cli("wrker")
    assert ended.exit_code == 2
    assert "Did you mean one of these?\n    worker" in ended.output


@pytest.mark.parametrize("name", ["app", "celery", "anything"])
def test_an_application_is_found_in_a_module(cli: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / f"cli_{name}.py").write_text(MODULE.format(name))
    ended = cli("-A", f"cli_{name}", "report")
    assert ended.exit_code == 0, ended.output
    assert "transport:memory" in ended.output


def test_an_application_is_found_in_a_package(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "cli_pack").mkdir()
    (tmp_path / "cli_pack" / "__init__.py").write_text("")
    (tmp_path / "cli_pack" / "celery.py").write_text(MODULE.format("app"))
    assert cli("-A", "cli_pack", "report").exit_code == 0
    assert cli("-A", "cli_pack.celery:app", "report").exit_code == 0


@pytest.mark.parametrize("variable", ["TASKQ_APP", "CELERY_APP", "APP"])
def test_the_environment_names_the_application(cli: Any, tmp_path: Path, variable: str) -> None:
    (tmp_path / "cli_env.py").write_text(MODULE.format("app"))
    ended = cli("report", **{variable: "cli_env"})
    assert "transport:memory" in ended.output


def test_our_variables_win_over_celerys(cli: Any, app: Celery) -> None:
    ended = cli("call", "add", app=app, TASKQ_CALL_ARGS="[1, 2", CELERY_CALL_ARGS="[]")
    assert "got '[1, 2'" in ended.output


@pytest.mark.parametrize(
    ("source", "name", "says"),
    [
        (None, "cli_missing", "The module cli_missing was not found."),
        ("x = 1", "cli_none", "Module 'cli_none' has no attribute 'celery'"),
        ("x = 1", "cli_none:y", "Module 'cli_none' has no attribute 'y'"),
        ("import cli_gone", "cli_breaks", "No module named 'cli_gone'"),
        ("1 / 0", "cli_breaks", "ZeroDivisionError"),
    ],
)
def test_three_ways_not_to_load_an_application(
    cli: Any, tmp_path: Path, source: str | None, name: str, says: str
) -> None:
    if source is not None:
        (tmp_path / f"{name.partition(':')[0]}.py").write_text(source)
    ended = cli("-A", name, "report")
    assert ended.exit_code == 2
    assert "Unable to load celery application." in ended.output
    assert says in ended.output


def test_global_options_after_the_command_are_explained(cli: Any, app: Celery) -> None:
    ended = cli("worker", "-A", "proj", app=app)
    assert ended.exit_code == 2
    assert "goes before the command" in ended.output


def test_global_options_reach_the_settings(cli: Any, app: Celery) -> None:
    cli("-b", "memory://here", "--result-backend", "cache+memory://", "report", app=app)
    assert app.conf.broker_url == "memory://here"
    assert os.environ["CELERY_BROKER_URL"] == "memory://here"


def test_the_working_directory_comes_first(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "cli_below.py").write_text(MODULE.format("app"))
    ended = cli("-A", "cli_below", "--workdir", str(tmp_path / "below"), "report")
    assert ended.exit_code == 0, ended.output


def test_preload_options_go_to_every_command(cli: Any, app: Celery) -> None:
    seen: list[dict[str, Any]] = []

    def on_preload(options: dict[str, Any], **kwargs: Any) -> None:
        seen.append(options)

    app.user_options["preload"].add(click.Option(["--flavour"], default="plain"))
    user_preload_options.connect(on_preload)
    try:
        assert cli("report", "--flavour", "salty", app=app).exit_code == 0
    finally:
        user_preload_options.disconnect(on_preload)
        from taskq.bin.main import report

        report.params[:] = [param for param in report.params if param.name != "flavour"]
    assert seen == [{"flavour": "salty"}]


def test_call_sends_and_purge_throws_away(cli: Any, app: Celery) -> None:
    called = cli("call", "add", "-a", "[1, 2]", "-k", "{}", "--countdown", "5", app=app)
    assert len(called.output.strip()) == 36
    assert cli("call", "add", "-a", "1", app=app).exit_code == 2
    refused = cli("purge", app=app)
    assert refused.exit_code == 1
    purged = cli("purge", "-f", app=app)
    assert purged.output == "Purged 1 message from 1 known task queue.\n"
    assert cli("purge", "-f", app=app).output == "No messages purged from 1 queue.\n"


def test_result_waits_for_the_value(cli: Any, app: Celery) -> None:
    app.backend.store_result("done", {"a": 1}, "SUCCESS")
    assert cli("result", "done", app=app).output == "{'a': 1}\n"
    assert cli("result", "done", "-t", "add", app=app).output == "{'a': 1}\n"


def test_nobody_is_there(cli: Any, app: Celery) -> None:
    for arguments in (("status",), ("inspect", "ping"), ("control", "rate_limit", "add", "1/s")):
        ended = cli(*arguments, "-t", "0.01", app=app)
        assert ended.exit_code == 69
        assert "No nodes replied within time constraint" in ended.output


def test_asking_workers(cli: Any, app: Celery) -> None:
    with serving(app):
        fast = ("-t", "0.5", "-d", "w@test")
        status = cli("-C", "status", *fast, app=app)
        assert status.output == "->  w@test: OK\n\n1 node online.\n"
        assert "pong" in cli("-C", "inspect", "ping", *fast, app=app).output
        replies = json.loads(cli("inspect", "ping", "-j", *fast, app=app).output)
        assert replies == {"w@test": {"ok": "pong"}}
        wrong = cli("-C", "control", "rate_limit", "nothing", "1/s", *fast, app=app)
        assert wrong.exit_code == 0
        assert "->  w@test: ERROR\n" in wrong.output


def test_commands_are_listed_and_checked(cli: Any, app: Celery) -> None:
    listed = cli("inspect", "--list", app=app)
    assert "active_queues" in listed.output
    assert "hello" not in listed.output
    unknown = cli("inspect", "actve", app=app)
    assert unknown.exit_code == 2
    assert "Available inspect commands: active," in unknown.output
    too_many = cli("control", "rate_limit", "a", "b", "c", app=app)
    assert too_many.exit_code == 2
    assert "takes arguments: <task_name> <rate_limit" in too_many.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("-P", "nothing"), "'nothing'"),
        (("-P", "gevent"), "gevent pool is not in this version"),
        (("-l", "loud"), "is not one of 'DEBUG'"),
        (("-c", "-1"), "must be a non-negative integer or 'auto', got '-1'"),
        (("-D",), "by the command line only"),
        (("-B",), "no scheduler"),
        (("-E",), "task events"),
        (("--autoscale", "3,x"), "Expected an integer. Got ['3', 'x'] instead."),
        (("worker.nothing=1",), "Unable to parse extra configuration from command line."),
    ],
)
def test_worker_options_that_do_not_fit(
    cli: Any, app: Celery, arguments: tuple[str, ...], says: str
) -> None:
    ended = cli("worker", *arguments, app=app)
    assert ended.exit_code == 2, ended.output
    assert says in ended.output


def test_all_options_of_celerys_worker_are_known() -> None:
    surface = {
        "hostname", "detach", "statedb", "loglevel", "optimization", "prefetch_multiplier",
        "disable_prefetch", "concurrency", "pool", "task_events", "time_limit",
        "soft_time_limit", "max_tasks_per_child", "pool_start_method", "max_memory_per_child",
        "purge", "queues", "exclude_queues", "include", "without_gossip", "without_mingle",
        "without_heartbeat", "heartbeat_interval", "autoscale", "beat", "schedule_filename",
        "scheduler", "logfile", "pidfile", "uid", "gid", "umask", "executable",
    }  # fmt: skip
    assert surface == {param.name for param in worker.params}


def test_the_process_in_the_background_gets_the_same_command_line() -> None:
    given = ["-A", "proj", "worker", "-ED", "--detach", "-D", "-BDE", "-c2", "-Dc3", "-n", "a-D"]
    kept = ["-A", "proj", "worker", "-E", "-BE", "-c2", "-c3", "-n", "a-D"]
    assert _without_detach(given) == kept


class TestExec:
    """`taskq exec`: Celery's names in a program that is not ours."""

    @staticmethod
    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "taskq", "exec", *arguments],
            capture_output=True, text=True, env={**os.environ, **environ},
        )  # fmt: skip

    def test_names_reach_the_program_and_what_it_starts(self) -> None:
        show = "import celery; print(celery.Celery.__module__)"
        child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {show!r}])"
        done = self.run(sys.executable, "-c", child)
        assert done.stdout.strip() == "taskq.app.base", done.stderr

    def test_options_are_the_program_s_own(self) -> None:
        done = self.run(sys.executable, "-c", "import sys; print(sys.argv)", "--help", "-A", "x")
        assert done.stdout.strip() == "['-c', '--help', '-A', 'x']"

    def test_a_sitecustomize_of_the_user_s_is_run_too(self, tmp_path: Path) -> None:
        (tmp_path / "sitecustomize.py").write_text("import celery; print('mine', celery.Task)")
        done = self.run(sys.executable, "-c", "", PYTHONPATH=str(tmp_path))
        assert done.stdout == "mine <class 'taskq.app.task.Task'>\n"

    def test_a_program_that_is_not_there(self) -> None:
        done = self.run("no-such-program")
        assert "cannot run 'no-such-program'" in done.stderr
        assert done.returncode == EX_UNAVAILABLE
