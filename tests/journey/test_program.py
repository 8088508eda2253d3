"""The worker as a program: background, files, names, signals, how it ends, what it logs."""

from __future__ import annotations

import dbm
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from journey.harness import Worker, client, run_taskq, write_project
from patience import FOREVER_S, PATIENCE_S, wait_until

import taskq
from taskq.utils.processors import count_processors

LONG = pytest.mark.long

TASKS = """
import sys, time
from pathlib import Path
from taskq.utils.log import get_task_logger

HERE = Path(__file__).parent


def note(text):
    with (HERE / "runs.txt").open("a") as file:
        file.write(text + "\\n")


@app.task(name="hold")
def hold(name):
    note("start:" + name)
    while not (HERE / "go").exists():
        time.sleep(0.01)
    note("end:" + name)
    return name


@app.task(name="interrupt")
def interrupt():
    raise KeyboardInterrupt


late_hold = app.task(name="late_hold", acks_late=True)(hold.run)


@app.task(name="say")
def say(text):
    print(text)
    print(text, file=sys.stderr)
    get_task_logger(__name__).warning("logged %s", text)
    return os.getpid()


def die(bound):
    retries = bound.request.retries
    note(f"die:{retries}")
    if len((HERE / "runs.txt").read_text().split()) < 3:
        os._exit(3)
    return retries


bound = {"bind": True, "default_retry_delay": 0}
app.task(name="die_early", **bound)(die)
app.task(name="die_late", acks_late=True, **bound)(die)
app.task(name="die_rejected", acks_late=True, reject_on_worker_lost=True, **bound)(die)
app.task(name="die_retried", retry_on_worker_lost=True, max_retries=2, **bound)(die)
app.task(name="die_late_retried", acks_late=True, retry_on_worker_lost=True,
         reject_on_worker_lost=True, max_retries=2, **bound)(die)
app.task(name="die_too_often", retry_on_worker_lost=True, max_retries=1, **bound)(die)
"""


class Project:
    """A folder with an application, and what its tasks have noted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_project(folder, TASKS)
        self.app = client(folder)

    def settings(self, **values: Any) -> None:
        write_project(self.folder, f"{TASKS}\napp.conf.update(**{values!r})")

    def send(self, name: str, *args: Any) -> Any:
        return self.app.send_task(name, args)

    def runs(self) -> list[str]:
        path = self.folder / "runs.txt"
        return path.read_text().split() if path.exists() else []

    def wait_for_run(self, what: str) -> None:
        wait_until(lambda: what in self.runs(), what)

    def let_go(self) -> None:
        (self.folder / "go").touch()


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path)
    yield project
    project.app.close()


def read_pid(path: Path) -> int:
    return int(wait_until(lambda: path.exists() and path.read_text().strip(), str(path)) or 0)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] != "Z"
    except OSError:
        return False


def end(pid: int, sig: int = signal.SIGTERM) -> None:
    os.kill(pid, sig)
    wait_until(lambda: not is_alive(pid), f"end of {pid}")


# --- background and files -------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [["-D"], pytest.param(["--detach"], marks=LONG)])
def test_a_worker_goes_into_the_background(project: Project, flags: list[str]) -> None:
    folder = project.folder
    (folder / "run").mkdir()
    done = run_taskq(
        folder, "-A", "proj", "--workdir", "run", "worker", "-P", "solo", "-n", "bg@%h", *flags,
        "-l", "INFO", "--pidfile", "%n.pid", "--logfile", "%n-%h%I.log", "--umask", "027",
        env={"PYTHONPATH": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    pid = read_pid(folder / "run" / "bg.pid")
    try:
        (log,) = wait_until(lambda: list((folder / "run").glob("bg-*.log")), "log file")
        wait_until(lambda: " ready." in log.read_text(), "ready", report=log.read_text)
        assert stat.S_IMODE(log.stat().st_mode) == 0o640
        # A leader of nothing, with no terminal and no parent of ours.
        assert os.getsid(pid) != os.getsid(0)
        assert os.getsid(pid) != pid
        assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)} == {"/dev/null"}
    finally:
        end(pid)
    assert not (folder / "run" / "bg.pid").exists()


def test_detached_without_a_fork(project: Project) -> None:
    with Worker(project.folder, "-D", env={"C_FAKEFORK": "1"}) as worker:
        assert worker.log.count(" ready.") == 1


def test_detaching_by_environment_happens_once(project: Project) -> None:
    with Worker(project.folder, env={"C_FAKEFORK": "1", "CELERY_WORKER_DETACH": "1"}):
        pass


@pytest.mark.parametrize("flags", [[], pytest.param(["-D"], marks=LONG)])
@pytest.mark.parametrize(
    ("option", "value", "code", "said"),
    [
        ("--pidfile", "living.pid", 73, "the pidfile {} already exists: is this already running"),
        ("--pidfile", "nowhere/x.pid", 1, "cannot be written|cannot write the pid file"),
        ("--logfile", "nowhere/x.log", 1, "cannot be written|cannot write the log file"),
        ("--uid", "nobody-at-all", 2, "User does not exist: nobody-at-all"),
        ("--gid", "nobody-at-all", 2, "Group does not exist: nobody-at-all"),
        ("--umask", "9", 2, "--umask must be octal"),
    ],
)
def test_files_and_users_that_cannot_be(
    project: Project, flags: list[str], option: str, value: str, code: int, said: str
) -> None:
    (project.folder / "living.pid").write_text(f"{os.getpid()}\n")
    done = run_taskq(
        project.folder, "-A", "proj", "worker", "-P", "solo", *flags, option, value
    )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stdout) == (code, False), done.stdout
    assert re.search(said.format(".*"), done.stdout), done.stdout
    assert (project.folder / "living.pid").read_text() == f"{os.getpid()}\n"


def test_no_such_executable(project: Project) -> None:
    done = run_taskq(project.folder, "-A", "proj", "worker", "-D", "--executable", "./no-python")
    assert (done.returncode, "Traceback" in done.stdout) == (2, False)
    assert "--executable ./no-python: there is no such program" in done.stdout


@pytest.mark.parametrize("content", ["{dead}\n", pytest.param("not a number\n", marks=LONG), ""])
def test_the_pidfile_of_a_dead_process_is_taken_over(project: Project, content: str) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    pidfile = project.folder / "worker.pid"
    pidfile.write_text(content.format(dead=dead.pid))
    with Worker(project.folder, "--pidfile", "worker.pid") as worker:
        assert read_pid(pidfile) == worker.process.pid
        second = run_taskq(
            project.folder, "-A", "proj", "worker", "-P", "solo", "--pidfile", "worker.pid"
        )
        assert second.returncode == 73
        assert f"as process {worker.process.pid}?" in second.stdout
        assert read_pid(pidfile) == worker.process.pid
    assert not pidfile.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
def test_another_group(project: Project) -> None:
    with Worker(project.folder, "-D", "--gid", "65534", env={"C_FAKEFORK": "1"}) as worker:
        status = Path(f"/proc/{worker.process.pid}/status").read_text()
        assert re.search(r"^Gid:(\s+65534){4}$", status, re.M)


class Nobodys(NamedTuple):
    """A project that the user `nobody` can run, and write to but for `closed`."""

    project: Project
    env: dict[str, str]


@pytest.fixture
def nobodys(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nobodys]:
    if os.getuid() != 0:
        pytest.skip("only root may become somebody else")
    with tempfile.TemporaryDirectory(prefix="taskq-nobody-") as name:
        # Not below pytest's own folders: these are closed to others.
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "closed").mkdir(mode=0o755)
        project = Project(folder)
        paths = [name, str(Path(taskq.__file__).parents[1]), sysconfig.get_path("purelib")]
        env = {"PYTHONPATH": os.pathsep.join(paths)}
        # So may be the Python of this run; another one of that version does as well.
        system = shutil.which("python{}.{}".format(*sys.version_info), path="/usr/bin") or ""
        pythons = (each for each in (sys.executable, system) if each and can_run(each, *paths[1:]))
        python = next(pythons, None)
        if python is None:
            pytest.skip("there is no Python that nobody can run with taskq")
        monkeypatch.setattr(sys, "executable", python)
        yield Nobodys(project, env)
        project.app.close()


@cache
def can_run(python: str, *paths: str) -> bool:
    """Whether the user `nobody` can run this Python and import taskq."""
    code = "import os; os.setuid(65534); import taskq.bin.worker, asyncio, dbm, encodings.ascii"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run([python, "-c", code], env=env, capture_output=True).returncode == 0


@pytest.mark.parametrize("detached", [False, pytest.param(True, marks=LONG)])
def test_another_user(nobodys: Nobodys, detached: bool) -> None:
    project, env = nobodys
    folder, nobody = project.folder, pwd.getpwnam("nobody")
    options = ["-P", "prefork", "-c", "2", "--uid", "nobody", "--pidfile", "w.pid", "-f", "w.log"]
    if detached:
        options.append("-D")
    worker = Worker(folder, *options, env=env, ready=False)
    pid = 0
    try:
        wait_until(lambda: (folder / "w.log").exists() and " ready." in
                   (folder / "w.log").read_text(), "ready", report=lambda: worker.log)  # fmt: skip
        pid = read_pid(folder / "w.pid")
        child = project.send("say", "hello").get(timeout=PATIENCE_S)
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert str(child) in children
        for each in (pid, *map(int, children)):
            status = Path(f"/proc/{each}/status").read_text()
            assert re.search(rf"^Uid:(\s+{nobody.pw_uid}){{4}}$", status, re.M), status
            assert re.search(rf"^Gid:(\s+{nobody.pw_gid}){{4}}$", status, re.M), status
            assert not re.search(r"^Groups:.*\b0\b", status, re.M), status
        for name in ("w.pid", "w.log", "q.db"):
            assert (folder / name).stat().st_uid == nobody.pw_uid, name
    finally:
        if pid:
            end(pid)
        worker.kill()
    assert not (folder / "w.pid").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--pidfile", "closed/w.pid"], "the pid file 'closed/w.pid' cannot be written: .*denied"),
        (["-D", "-f", "closed/w.log"], "cannot write the log file: .*denied"),
        *(pytest.param(*each, marks=LONG) for each in [
            (["-f", "closed/w.log"], "the log file '.*/closed/w.log' cannot be written: .*denied"),
            (["-S", "closed/w.db"], "the state file 'closed/w.db' .* cannot be opened: .*denied"),
            (["-D", "--pidfile", "closed/w.pid"], "cannot write the pid file: .*denied"),
        ]),
    ],
)
def test_another_user_who_may_not_write_there(
    nobodys: Nobodys, options: list[str], said: str
) -> None:
    folder = nobodys.project.folder
    done = run_taskq(folder, "-A", "proj", "worker", "--uid", "nobody", *options, env=nobodys.env)
    assert (done.returncode, "Traceback" in done.stdout) == (1, False), done.stdout
    assert re.search(said, done.stdout), done.stdout
    assert list((folder / "closed").iterdir()) == []


@pytest.mark.long
def test_another_user_who_cannot_read_the_program(nobodys: Nobodys) -> None:
    folder = nobodys.project.folder
    write_project(folder, "\nos.__file__ = 'closed/os.py'\n")
    (folder / "closed" / "os.py").touch(mode=0o600)
    done = run_taskq(folder, "-A", "proj", "worker", "--uid", "nobody", env=nobodys.env)
    assert (done.returncode, "Traceback" in done.stdout) == (1, False), done.stdout
    assert "the user of --uid nobody cannot read closed/os.py" in done.stdout


# --- options --------------------------------------------------------------------------------------


def test_options_by_environment(project: Project) -> None:
    env = {
        "CELERY_WORKER_QUEUES": "one,two,three",
        "TASKQ_WORKER_EXCLUDE_QUEUES": "three",
        "CELERY_WORKER_CONCURRENCY": "3",
        "TASKQ_WORKER_CONCURRENCY": "2",
        "CELERY_WORKER_INCLUDE": "more",
        "CELERY_WORKER_POOL": "prefork",
    }
    (project.folder / "more.py").write_text(
        "from proj import app\n\n\n@app.task(name='more')\ndef more():\n    return 'more'\n"
    )
    with Worker(project.folder, "-P", "prefork", env=env) as worker:
        assert ".> concurrency: 2 (prefork)" in worker.log
        assert re.findall(r"\.> (\w+) +exchange", worker.log) == ["one", "two"]
        result = project.app.send_task("more", queue="two")
        assert result.get(timeout=PATIENCE_S) == "more"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("-c=-1", "must be a non-negative integer or 'auto', got '-1'"),
        ("-c=abc", "must be a non-negative integer or 'auto', got 'abc'"),
        ("--autoscale=a,b", "Expected an integer. Got ['a', 'b'] instead."),
        ("--autoscale=1,2,3", "Expected two comma separated integers or one integer. Got 3"),
        ("--autoscale=0", "with a MAX of at least 1"),
        ("--autoscale=3,-1", "no MIN below 0"),
    ],
)
def test_numbers_of_slots_that_cannot_be(project: Project, given: str, said: str) -> None:
    name, _, value = given.partition("=")
    done = run_taskq(project.folder, "-A", "proj", "worker", name, value)
    assert (done.returncode, "Traceback" in done.stdout) == (2, False), done.stdout
    assert said in done.stdout


@pytest.mark.parametrize(
    "option",
    ["--prefetch-multiplier", pytest.param("--max-tasks-per-child", marks=LONG),
     pytest.param("--max-memory-per-child", marks=LONG)],
)  # fmt: skip
def test_numbers_below_zero(project: Project, option: str) -> None:
    done = run_taskq(project.folder, "-A", "proj", "worker", option, "-1")
    assert (done.returncode, "Traceback" in done.stdout) == (1, False), done.stdout
    assert f"({option}) must not be below 0; it is -1" in done.stdout


def test_spawned_children_have_the_application_its_settings_and_its_log(project: Project) -> None:
    (project.folder / "more.py").write_text(
        "from proj import app, os\n\n\n"
        "@app.task(name='about')\n"
        "def about(setting):\n"
        "    return os.getpid(), app.conf[setting], open('/proc/self/cmdline').read()\n"
    )
    log = project.folder / "w.log"
    options = ["-P", "prefork", "-c", "2", "--pool-start-method", "spawn", "-I", "more",
               "-f", str(log), "--max-tasks-per-child", "3"]  # fmt: skip
    with Worker(project.folder, *options, ready=False) as worker:
        pid, included, command = project.send("about", "include").get(timeout=PATIENCE_S)
        assert pid != worker.process.pid
        assert "spawn_main" in command
        assert "more" in included
        pids = {project.send("say", f"hello {n}").get(timeout=PATIENCE_S) for n in range(7)}
        assert len(pids) > 1
        # Printed, to both streams, and logged.
        wait_until(lambda: log.read_text().count("hello 6\n") >= 3, "what a child logs")
        assert re.search(r"WARNING/SpawnPoolWorker-\d+\] hello 6\n", log.read_text())
        held = project.send("hold", "a")
        project.wait_for_run("start:a")
        project.let_go()
        assert held.get(timeout=PATIENCE_S) == "a"


@pytest.mark.long
def test_a_spawned_child_that_cannot_import_the_application_says_so(project: Project) -> None:
    project.settings(worker_pool_start_method="spawn")
    path = project.folder / "proj.py"
    path.write_text(
        path.read_text()
        + "\nif sys.argv[0] and 'spawn_main' in open('/proc/self/cmdline').read():\n"
        "    sys.exit('no proj here')\n"
    )
    done = run_taskq(project.folder, "-A", "proj", "worker", "-P", "prefork", "-c", "1")
    assert done.returncode == 1, done.stdout
    assert done.stdout.count("SystemExit: no proj here") == 1
    assert "Could not start worker processes" in done.stdout


def test_zero_slots_means_the_settings(project: Project) -> None:
    project.settings(worker_concurrency=3)
    with Worker(project.folder, "-P", "prefork", "-c", "0") as worker:
        assert ".> concurrency: 3 (prefork)" in worker.log
    with Worker(project.folder, "-P", "prefork", "-c", "auto") as worker:
        assert f".> concurrency: {count_processors()} (prefork)" in worker.log


@pytest.mark.parametrize("profile", ["fair", pytest.param("default", marks=LONG)])
def test_no_task_waits_behind_a_long_one(project: Project, profile: str) -> None:
    with Worker(project.folder, "-P", "prefork", "-c", "2", "-O", profile):
        held = project.send("hold", "a")
        project.wait_for_run("start:a")
        for n in [project.send("say", str(n)) for n in range(50)]:
            n.get(timeout=PATIENCE_S)
        assert held.state == "PENDING"
        project.let_go()
        assert held.get(timeout=PATIENCE_S) == "a"


@pytest.mark.parametrize(
    ("option", "error", "said"),
    [
        ("--time-limit", "TimeLimitExceeded", "Hard time limit (0.3s) exceeded for hold["),
        ("--soft-time-limit", "SoftTimeLimitExceeded", "Soft time limit (0.3s) exceeded for hold["),
    ],
)
def test_limits_of_every_task(project: Project, option: str, error: str, said: str) -> None:
    with Worker(project.folder, "-P", "prefork", "-c", "1", option, "0.3") as worker:
        held = project.send("hold", "a")
        wait_until(held.ready, "the limit", report=lambda: worker.log)
        assert held.state == "FAILURE"
        assert type(held.result).__name__ == error
        worker.wait_for_log(said)
        unlimited = {"time_limit": FOREVER_S, "soft_time_limit": FOREVER_S}
        there = project.app.send_task("say", ["still there"], **unlimited)
        assert there.get(timeout=PATIENCE_S)
    assert "end:a" not in project.runs()


def test_prefetched_messages_for_each_slot(project: Project) -> None:
    with Worker(project.folder, "-P", "prefork", "-c", "2", "--prefetch-multiplier", "3") as worker:
        held = [project.send("late_hold", str(n)) for n in range(8)]
        wait_until(lambda: len(project.runs()) == 2, "two run", report=lambda: worker.log)
        worker.wait_for_log("] received", times=6)
        (stats,) = project.app.control.inspect(timeout=PATIENCE_S, limit=1).stats().values()
        assert stats["prefetch_count"] == 6
        assert worker.log.count("] received") == 6
        project.let_go()
        assert [result.get(timeout=PATIENCE_S) for result in held] == list("01234567")


def test_a_fixed_pool_cannot_be_scaled(project: Project) -> None:
    done = run_taskq(project.folder, "-A", "proj", "worker", "-P", "solo", "--autoscale", "3")
    assert (done.returncode, "Traceback" in done.stdout) == (1, False), done.stdout
    assert "the solo pool cannot grow and shrink" in done.stdout


def test_autoscale(project: Project) -> None:
    options = ["-P", "prefork", "--autoscale", "1,3"]
    with Worker(project.folder, *options, env={"AUTOSCALE_KEEPALIVE": "0.3"}) as worker:
        assert ".> concurrency: {min=1, max=3} (prefork)" in worker.log
        held = [project.send("hold", str(n)) for n in range(5)]
        wait_until(lambda: len(project.runs()) == 3, "three at a time", report=lambda: worker.log)
        assert worker.log.count("Scaling up 1 processes.") == 2
        worker.wait_for_log("] received", times=5)
        (stats,) = project.app.control.inspect(timeout=PATIENCE_S, limit=1).stats().values()
        assert stats["autoscaler"] == {"max": 3, "min": 1, "current": 3, "qty": 5}
        # As many as run at a time with MAX, not with MIN.
        assert stats["prefetch_count"] == 12
        project.let_go()
        assert [result.get(timeout=PATIENCE_S) for result in held] == ["0", "1", "2", "3", "4"]
        worker.wait_for_log("Scaling down")

        def count() -> bool:
            (stats,) = project.app.control.inspect(timeout=PATIENCE_S, limit=1).stats().values()
            return len(stats["pool"]["processes"]) == 1

        wait_until(count, "one child")
        assert project.send("say", "still there").get(timeout=PATIENCE_S)


def wait_for_pool(project: Project, window: int, children: int) -> set[int]:
    """Wait until the worker takes so many messages ahead for so many children; gives their ids."""

    def look() -> set[int] | None:
        (stats,) = project.app.control.inspect(timeout=PATIENCE_S, limit=1).stats().values()
        pids = set(stats["pool"]["processes"])
        return pids if (stats["prefetch_count"], len(pids)) == (window, children) else None

    return wait_until(look, f"a window of {window} for {children} children") or set()


def test_the_pool_is_resized_and_restarted_by_commands(project: Project) -> None:
    project.settings(worker_pool_restarts=True)

    def order(*command: str) -> str:
        asks = ["-A", "proj", "control", "-t", str(PATIENCE_S), "-d", worker.name]
        done = run_taskq(project.folder, *asks, *command, seconds=2 * PATIENCE_S)
        assert done.returncode == 0, done.stdout
        return done.stdout

    with Worker(project.folder, "-P", "prefork", "-c", "1") as worker:
        assert "pool will grow" in order("pool_grow", "2")
        wait_for_pool(project, 12, 3)
        running = [project.send("hold", str(n)) for n in range(3)]
        wait_until(lambda: len(project.runs()) == 3, "each child runs one")
        assert "All processes busy" in order("pool_shrink")
        project.let_go()
        assert [result.get(timeout=PATIENCE_S) for result in running] == ["0", "1", "2"]
        assert "pool will shrink" in order("pool_shrink", "2")
        before = wait_for_pool(project, 4, 1)
        assert "reload started" in order("pool_restart")
        wait_until(lambda: not before & wait_for_pool(project, 4, 1), "another child")
        assert project.send("say", "x").get(timeout=PATIENCE_S) not in before
        assert "Autoscale not enabled" in order("autoscale", "3", "1")


def test_autoscale_by_command(project: Project) -> None:
    def order(command: Callable[..., Any], *arguments: Any) -> Any:
        (reply,) = command(*arguments, reply=True, timeout=PATIENCE_S, limit=1)
        return reply[worker.name]

    control = project.app.control
    with Worker(project.folder, "-P", "prefork", "--autoscale", "2,1") as worker:
        assert order(control.autoscale, 4, 3) == {"ok": "autoscale now max=4 min=3"}
        wait_for_pool(project, 16, 3)
        # Asked again, since a child that is not up yet cannot be retired.
        wait_until(
            lambda: order(control.autoscale, 1, 1) == {"ok": "autoscale now max=1 min=1"}
            and len(order(control.broadcast, "stats")["pool"]["processes"]) == 1,
            "one child",
        )
        assert "Expected 0 <= min <= max" in order(control.autoscale, 1, 2)["error"]
        assert "not supported with autoscale" in order(control.pool_grow)["error"]
        wait_for_pool(project, 4, 1)


def has_key(path: str, key: bytes) -> bool:
    try:
        with dbm.open(path, "r") as db:
            return key in db
    except dbm.error:
        # Just being written.
        return False


@pytest.mark.parametrize("how", ["ended", pytest.param("killed", marks=LONG)])
def test_revoked_ids_outlive_the_worker(project: Project, how: str) -> None:
    options = ["-n", "state@here", "-S", "%n-state.db"]
    with Worker(project.folder, *options, ready=False) as worker:
        worker.wait_for_log("state@here ready.")
        asked = {"reply": True, "timeout": PATIENCE_S, "limit": 1}
        project.app.control.broadcast("revoke", {"task_id": ["one", "two"]}, **asked)
        if how == "killed":
            # It writes from time to time.
            path = str(project.folder / "state-state.db")
            wait_until(lambda: has_key(path, b"zrevoked"), "written", turn=lambda: time.sleep(0.1))
            worker.kill()
    unknown = project.app.send_task("say", ["one"], task_id="one")
    with Worker(project.folder, *options, ready=False):
        wait_until(unknown.ready, "discarded")
    assert unknown.state == "REVOKED"
    with Worker(project.folder):
        again = project.app.send_task("say", ["two"], task_id="two")
        assert again.get(timeout=PATIENCE_S), "a worker without the file knows nothing of it"


# --- signals and ends -----------------------------------------------------------------------------

POOLS = ["prefork", pytest.param("solo", marks=LONG), pytest.param("threads", marks=LONG)]


@pytest.fixture(params=POOLS)
def pool(request: pytest.FixtureRequest) -> list[str]:
    return ["-P", request.param, "-c", "1"]


def hold_and_wait(project: Project, name: str) -> tuple[Any, list[Any]]:
    """A task that runs until let go, and two that wait behind it."""
    running = project.send(name, "a")
    project.wait_for_run("start:a")
    return running, [project.send("hold", "b"), project.send("late_hold", "c")]


def the_rest_runs(project: Project, waiting: list[Any], pool: list[str]) -> None:
    """What waited was given back: another worker runs it."""
    project.let_go()
    with Worker(project.folder, *pool):
        for result in waiting:
            assert result.get(timeout=PATIENCE_S) in "abc"


@pytest.mark.parametrize(
    ("name", "sig", "code"),
    [
        ("hold", signal.SIGTERM, 0),
        ("late_hold", signal.SIGINT, 1),
        pytest.param("hold", signal.SIGINT, 1, marks=LONG),
        pytest.param("late_hold", signal.SIGTERM, 0, marks=LONG),
    ],
)
def test_warm(project: Project, pool: list[str], name: str, sig: int, code: int) -> None:
    worker = Worker(project.folder, *pool).wait_ready()
    running, waiting = hold_and_wait(project, name)
    worker.process.send_signal(sig)
    worker.wait_for_log("worker: Warm shutdown (MainProcess)")
    project.let_go()
    assert worker.wait_end() == code
    assert running.get(timeout=PATIENCE_S) == "a"
    assert [result.state for result in waiting] == ["PENDING", "PENDING"]
    assert project.runs() == ["start:a", "end:a"]
    the_rest_runs(project, waiting, pool)


def cold(worker: Worker) -> None:
    worker.process.send_signal(signal.SIGQUIT)


def twice(worker: Worker) -> None:
    worker.process.send_signal(signal.SIGINT)
    worker.wait_for_log("Hitting Ctrl+C again will initiate cold shutdown")
    worker.process.send_signal(signal.SIGINT)


def warm_then_cold(worker: Worker) -> None:
    worker.process.send_signal(signal.SIGTERM)
    worker.wait_for_log("Warm shutdown")
    worker.process.send_signal(signal.SIGQUIT)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("hold", cold),
        ("late_hold", twice),
        pytest.param("hold", twice, marks=LONG),
        pytest.param("late_hold", cold, marks=LONG),
        pytest.param("hold", warm_then_cold, marks=LONG),
        pytest.param("late_hold", warm_then_cold, marks=LONG),
    ],
)
def test_cold(project: Project, pool: list[str], name: str, how: Callable[[Worker], None]) -> None:
    worker = Worker(project.folder, *pool).wait_ready()
    running, waiting = hold_and_wait(project, name)
    how(worker)
    assert worker.wait_end() == 1
    assert "Hitting Ctrl+C again will terminate all running tasks!" in worker.log
    assert "Traceback" not in worker.log
    # Early: acknowledged, so nobody runs it again. Late: its message is back.
    assert running.state == ("RETRY" if name == "hold" else "PENDING")
    assert project.runs() == ["start:a"]
    the_rest_runs(project, waiting if name == "hold" else [running, *waiting], pool)
    assert project.runs().count("start:a") == (1 if name == "hold" else 2)


def test_term_can_mean_cold(project: Project) -> None:
    worker = Worker(project.folder, env={"REMAP_SIGTERM": "SIGQUIT"}).wait_ready()
    project.send("late_hold", "a")
    project.wait_for_run("start:a")
    assert worker.stop(signal.SIGTERM) == 1
    assert "worker: Cold shutdown (MainProcess)" in worker.log


def test_soft_shutdown_lets_a_task_end(project: Project, pool: list[str]) -> None:
    project.settings(worker_soft_shutdown_timeout=FOREVER_S)
    worker = Worker(project.folder, *pool).wait_ready()
    running, waiting = hold_and_wait(project, "hold")
    worker.process.send_signal(signal.SIGQUIT)
    worker.wait_for_log("Initiating Soft Shutdown, terminating in 3600.0 seconds")
    project.let_go()
    assert worker.wait_end() == 1
    assert running.get(timeout=PATIENCE_S) == "a"
    assert project.runs() == ["start:a", "end:a"]
    assert "Cold shutdown" not in worker.log
    the_rest_runs(project, waiting, pool)


def test_soft_shutdown_has_an_end(project: Project, pool: list[str]) -> None:
    project.settings(worker_soft_shutdown_timeout=0.5)
    worker = Worker(project.folder, *pool).wait_ready()
    running, waiting = hold_and_wait(project, "late_hold")
    worker.process.send_signal(signal.SIGQUIT)
    assert worker.wait_end() == 1
    assert "Initiating Soft Shutdown, terminating in 0.5 seconds" in worker.log
    assert "worker: Cold shutdown (MainProcess)" in worker.log
    assert running.state == "PENDING"
    the_rest_runs(project, [running, *waiting], pool)


@pytest.mark.parametrize("sig", [signal.SIGINT, pytest.param(signal.SIGQUIT, marks=LONG)])
def test_another_signal_ends_a_soft_shutdown(project: Project, pool: list[str], sig: int) -> None:
    project.settings(worker_soft_shutdown_timeout=FOREVER_S)
    worker = Worker(project.folder, *pool).wait_ready()
    running, _ = hold_and_wait(project, "hold")
    worker.process.send_signal(signal.SIGQUIT)
    worker.wait_for_log("Initiating Soft Shutdown")
    worker.process.send_signal(sig)
    assert worker.wait_end() == 1
    assert "Waiting gracefully for cold shutdown to complete..." in worker.log
    assert running.state == "RETRY"


@pytest.mark.parametrize("on_idle", [False, True])
def test_soft_shutdown_of_an_idle_worker(project: Project, on_idle: bool) -> None:
    project.settings(
        worker_soft_shutdown_timeout=0.7 if on_idle else FOREVER_S,
        worker_enable_soft_shutdown_on_idle=on_idle,
    )
    worker = Worker(project.folder, "-P", "prefork", "-c", "1").wait_ready()
    started = time.monotonic()
    assert worker.stop(signal.SIGQUIT) == 1
    assert not on_idle or time.monotonic() - started > 0.7
    assert ("Initiating Soft Shutdown" in worker.log) is on_idle


def test_hup_starts_the_command_line_anew(project: Project, pool: list[str]) -> None:
    folder = project.folder
    (folder / "run").mkdir()
    options = (*pool, "--pidfile", "w.pid", "-f", "w.log")
    worker = Worker(
        folder, *options, globals_=("--workdir", "run"), env={"PYTHONPATH": str(folder)},
        ready=False,
    )  # fmt: skip
    log = folder / "run" / "w.log"
    with worker:
        wait_until(lambda: log.exists() and " ready." in log.read_text(), "ready")
        worker.process.send_signal(signal.SIGHUP)
        worker.wait_for_log("Restarting taskq worker")
        wait_until(
            lambda: log.read_text().count(" ready.") == 2, "ready again", report=log.read_text
        )
        assert read_pid(folder / "run" / "w.pid") == worker.process.pid


def test_usr1_writes_the_stacks_to_the_log(project: Project) -> None:
    with Worker(project.folder, "-f", "w.log", ready=False) as worker:
        log = project.folder / "w.log"
        wait_until(lambda: log.exists() and " ready." in log.read_text(), "ready")
        running = project.send("hold", "a")
        project.wait_for_run("start:a")
        worker.process.send_signal(signal.SIGUSR1)
        text = wait_until(
            lambda: "LOCAL VARIABLES" in log.read_text() and log.read_text(), "stacks"
        )
        assert "MainThread" in text
        assert "proj.py" in text
        assert "in hold" in text
        project.let_go()
        assert running.get(timeout=PATIENCE_S) == "a"


# --- lost children --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "state", "runs"),
    [
        ("die_early", "FAILURE", ["die:0"]),
        ("die_late", "FAILURE", ["die:0"]),
        ("die_rejected", "SUCCESS", ["die:0", "die:0", "die:0"]),
        ("die_retried", "SUCCESS", ["die:0", "die:1", "die:2"]),
        ("die_late_retried", "SUCCESS", ["die:0", "die:1", "die:2"]),
        ("die_too_often", "FAILURE", ["die:0", "die:1"]),
    ],
)
def test_what_becomes_of_a_task_whose_child_was_lost(
    project: Project, name: str, state: str, runs: list[str]
) -> None:
    with Worker(project.folder, "-P", "prefork", "-c", "1") as worker:
        result = project.send(name)
        wait_until(result.ready, "a result", report=lambda: worker.log)
        assert result.state == state, worker.log
        assert project.runs() == runs
        if state == "FAILURE":
            assert "WorkerLostError" in repr(result.result)
        if "retried" in name:
            assert f"Task {name}[{result.id}] retry: Retry in 0s: WorkerLostError" in worker.log
    with project.app.connection_for_write() as connection:
        assert connection.default_channel._size("celery") == 0


def test_a_running_task_is_ended_by_a_command(project: Project) -> None:
    asked = {"reply": True, "timeout": PATIENCE_S, "limit": 1}
    with Worker(project.folder, "-P", "prefork", "-c", "1") as worker:
        # The signal of the soft limit is an exception in the task; others end the child.
        for name, sig in [("a", "SIGUSR1"), ("b", "SIGKILL")]:
            held = project.send("hold", name)
            project.wait_for_run(f"start:{name}")
            order = {"task_id": held.id, "terminate": True, "signal": sig}
            (reply,) = project.app.control.broadcast("revoke", order, **asked)[0].values()
            assert reply == {"ok": f"terminate: {held.id}"}
            # Whoever is the last to store: the worker says REVOKED, the task its exception.
            wait_until(held.ready, "ended", report=lambda: worker.log)
            # The one child there is has room again.
            assert project.send("say", "x").get(timeout=PATIENCE_S)
        worker.wait_for_log("raised unexpected: SoftTimeLimitExceeded()")
        assert held.state == "REVOKED"
        order = {"task_id": "c", "terminate": True, "signal": "SIGKIL"}
        (reply,) = project.app.control.broadcast("revoke", order, **asked)[0].values()
        assert reply == {"error": "unknown signal 'SIGKIL'; did you mean 'SIGKILL'?"}
        lost = project.send("interrupt")
        wait_until(lost.ready, "lost", report=lambda: worker.log)
        assert str(lost.result) == "Worker exited prematurely: KeyboardInterrupt."
    assert not any(run.startswith("end:") for run in project.runs())


def test_children_that_cannot_start_end_the_worker(project: Project) -> None:
    write_project(
        project.folder,
        "from taskq.signals import worker_init, worker_process_init\n"
        "import taskq.concurrency.prefork as prefork\n"
        "def process_initializer(app, hostname):\n"
        "    raise ImportError(f'no luck {\"in this child\"}')\n"
        "prefork.process_initializer = process_initializer\n",
    )
    worker = Worker(project.folder, "-P", "prefork", "-c", "2", ready=False)
    assert worker.wait_end() == 1
    assert worker.log.count("no luck in this child") == 1, worker.log
    assert worker.log.count("A child process could not be started") == 1
    assert "Could not start worker processes" in worker.log


# --- logging --------------------------------------------------------------------------------------


def test_formats_and_what_tasks_print(project: Project, pool: list[str]) -> None:
    project.settings(
        worker_log_format="<%(levelname)s|%(name)s> %(message)s",
        worker_task_log_format="<%(levelname)s|%(task_name)s> %(message)s",
        worker_redirect_stdouts_level="ERROR",
    )
    log = project.folder / "w.log"
    with Worker(project.folder, *pool, "-f", "w.log", ready=False) as worker:
        wait_until(lambda: log.exists() and " ready." in log.read_text(), "ready")
        project.send("say", "hello").get(timeout=PATIENCE_S)
    lines = log.read_text().splitlines()
    assert lines.count("<ERROR|celery.redirected> hello") == 2
    assert "<WARNING|say> logged hello" in lines
    assert any(line.startswith("<INFO|celery.app.trace> Task say[") for line in lines)
    assert "hello" not in worker.log


def test_a_log_file_for_each_child(project: Project) -> None:
    with Worker(project.folder, "-P", "prefork", "-c", "2", "-f", "w%I.log", ready=False):
        log = project.folder / "w.log"
        wait_until(lambda: log.exists() and " ready." in log.read_text(), "ready")
        project.send("say", "hello").get(timeout=PATIENCE_S)
    texts = [path.read_text() for path in project.folder.glob("w-?.log")]
    assert sum(text.count("logged hello") for text in texts) == 1
    assert "logged hello" not in log.read_text()


@pytest.mark.parametrize("where", ["file", "stderr"])
def test_lines_never_interleave(project: Project, where: str) -> None:
    write_project(
        project.folder,
        TASKS + "\n@app.task(name='chatter')\n"
        "def chatter(letter):\n"
        "    for n in range(150):\n"
        "        text = letter * (40000 if n % 10 == 0 else 700)\n"
        "        get_task_logger(__name__).warning('<%s>', text)\n",
    )
    options = ["-f", "w.log"] if where == "file" else []
    with Worker(project.folder, "-P", "prefork", "-c", "4", *options, ready=False) as worker:
        results = [project.send("chatter", letter) for letter in "abcd"]
        for result in results:
            result.get(timeout=PATIENCE_S)
    text = (project.folder / "w.log").read_text() if where == "file" else worker.log
    said = [line for line in text.splitlines() if "<" in line]
    assert len(said) == 600
    whole = re.compile(r"\[[^\]]*\] chatter\[[-0-9a-f]{36}\]: <(a+|b+|c+|d+)>")
    assert [line[:200] for line in said if not whole.fullmatch(line)] == []


# --- steps ----------------------------------------------------------------------------------------

STEPS = """
import sys
from taskq import bootsteps
from taskq.worker.components import Pool


def note(text):
    sys.__stderr__.write(f"step {text}\\n")
    sys.__stderr__.flush()


class AfterPool(bootsteps.StartStopStep):
    requires = (Pool,)

    def __init__(self, parent, **kwargs):
        note("made")

    def start(self, parent):
        note(f"start, pool has {parent.pool.num_processes}")

    def stop(self, parent):
        note("stop")


class AfterTimer(bootsteps.StartStopStep):
    requires = ("celery.worker.components:Timer",)

    def start(self, parent):
        note("timer " + str(parent.timer is not None))


class AfterTasks(bootsteps.ConsumerStep):
    requires = ("celery.worker.consumer.tasks:Tasks", "celery.worker.consumer:Connection")

    def get_consumers(self, channel):
        from kombu import Consumer, Queue
        return [Consumer(channel, queues=[Queue("own", durable=False)], callbacks=[self.hear],
                         accept=["json"])]

    def hear(self, body, message):
        note("heard " + str(body))
        message.ack()


app.steps["worker"].add(AfterPool)
app.steps["worker"].add(AfterTimer)
app.steps["consumer"].add(AfterTasks)
"""


def test_users_steps_by_celerys_names_and_by_class(project: Project, pool: list[str]) -> None:
    write_project(project.folder, TASKS + STEPS)
    with Worker(project.folder, *pool) as worker:
        with project.app.connection_for_write() as connection:
            connection.Producer().publish("news", routing_key="own", serializer="json")
        worker.wait_for_log("step heard news")
        assert "step made" in worker.log
        assert "step start, pool has 1" in worker.log
        assert "step timer True" in worker.log
    assert "step stop" in worker.log
