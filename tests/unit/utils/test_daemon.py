"""Pid files keep a second process away; a daemon really leaves its terminal and parent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from taskq.utils.daemon import (
    DaemonContext,
    LockFailed,
    Pidfile,
    create_pidlock,
    detached,
    fd_by_path,
)


@pytest.fixture
def ended_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_pidfile_is_held_once(tmp_path: Path) -> None:
    lock = Pidfile(str(tmp_path / "pid"))
    with lock:
        assert lock.is_locked()
        assert lock.read_pid() == os.getpid()
        with pytest.raises(LockFailed):
            Pidfile(lock.path or "").acquire()
    assert not lock.is_locked()
    assert lock.read_pid() is None
    lock.remove()


def test_a_pidfile_in_no_directory_fails_clearly(tmp_path: Path) -> None:
    with pytest.raises(LockFailed, match="No such file"):
        Pidfile(str(tmp_path / "none" / "pid")).acquire()


@pytest.mark.parametrize("content", ["", "12", "words\n"])
def test_a_broken_pidfile_is_removed(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pid"
    path.write_text(content)
    lock = Pidfile(str(path))
    with pytest.raises(ValueError, match="pidfile"):
        lock.read_pid()
    assert lock.remove_if_stale()
    assert not path.exists()
    assert "Broken pidfile" in capsys.readouterr().err


def test_a_stale_pidfile_is_removed_and_a_living_one_kept(
    tmp_path: Path, ended_pid: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pid"
    path.write_text(f"{ended_pid}\n")
    assert Pidfile(str(path)).remove_if_stale()
    assert not path.exists()
    assert "Stale pidfile" in capsys.readouterr().err
    path.write_text(f"{os.getppid()}\n")
    assert not Pidfile(str(path)).remove_if_stale()
    assert path.exists()


def test_a_second_program_ends_with_73(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text(f"{os.getppid()}\n")
    with pytest.raises(SystemExit) as ended:
        create_pidlock(str(path))
    assert ended.value.code == 73


def test_the_pidlock_goes_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    code = (
        "import os, sys; from taskq.utils.daemon import create_pidlock\n"
        f"create_pidlock({str(path)!r})\n"
        "pid = os.fork()\n"
        "if not pid: sys.exit()\n"
        "os.waitpid(pid, 0)\n"
        f"print(open({str(path)!r}).read().strip() == str(os.getpid()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
    assert not path.exists()


def test_a_daemon_has_no_terminal_and_no_parent(tmp_path: Path) -> None:
    told = tmp_path / "told"
    os.mkfifo(told)
    code = (
        "import os; from taskq.utils.daemon import detached\n"
        f"with detached(umask='077', workdir={str(tmp_path)!r}, logfile='daemon.log'):\n"
        f"    with open({str(told)!r}, 'w') as fh:\n"
        "        fh.write(f'{os.getpid()} {os.getsid(0)} {os.getcwd()} {os.umask(0)}')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    # Opening the pipe for reading waits until the daemon opens it for writing.
    with open(told) as fh:
        pid, session, cwd, umask = fh.read().split()
    assert process.wait() == 0
    assert int(pid) not in (process.pid, int(session))
    assert int(session) != os.getsid(0)
    assert (cwd, umask) == (str(tmp_path), str(0o77))
    assert (tmp_path / "daemon.log").exists()


def test_a_fake_daemon_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("C_FAKEFORK", "1")
    monkeypatch.chdir(tmp_path)
    umask = os.umask(0o22)
    pid = os.getpid()
    try:
        with detached(pidfile="pid"):
            assert os.getpid() == pid
        assert not (tmp_path / "pid").exists()
    finally:
        os.umask(umask)


@pytest.mark.parametrize(
    ("umask", "number"), [("022", 0o22), ("0o77", 0o77), (18, 18), (None, None)]
)
def test_umask_is_octal_text_or_a_number(umask: str | int | None, number: int | None) -> None:
    assert DaemonContext(umask=umask).umask == number


def test_fd_by_path_finds_open_files(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with open(path, "w") as fh:
        assert fd_by_path([str(path), "/no/such/file"]) == [fh.fileno()]
