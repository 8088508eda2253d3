"""Signals by name, exit codes, titles."""

from __future__ import annotations

import errno
import io
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from taskq import platforms
from taskq.platforms import signals


@pytest.fixture
def usr1() -> Iterator[None]:
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_exit_codes() -> None:
    codes = (
        platforms.EX_OK,
        platforms.EX_FAILURE,
        platforms.EX_USAGE,
        platforms.EX_UNAVAILABLE,
        platforms.EX_CANTCREAT,
    )
    assert codes == (0, 1, 64, 69, 73)


def test_signals_have_short_and_long_names() -> None:
    assert signals.signum("TERM") == signals.signum("SIGTERM") == signals.signum(15) == 15
    assert signals.supported("INT")
    assert not signals.supported("NOPE")
    with pytest.raises(TypeError):
        signals.signum("term")
    with pytest.raises(AttributeError):
        signals.signum("NOPE")
    assert platforms.signal_name(signal.SIGKILL) == "KILL"


def test_handlers_are_set_by_name(usr1: None) -> None:
    heard: list[int] = []
    signals["USR1"] = lambda signum, frame: heard.append(signum)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert heard == [signal.SIGUSR1]
    signals.ignore("USR1")
    assert signals["USR1"] is signal.SIG_IGN
    signals.update(USR1=signals.default)
    assert signals["USR1"] is signal.SIG_DFL
    signals.update({"USR1": signals.ignored})
    signals.reset("SIGUSR1")
    assert signals["USR1"] is signal.SIG_DFL


def test_what_cannot_be_set_is_passed_over(usr1: None) -> None:
    signals["NOPE"] = signals.ignored
    before = signals["USR1"]
    thread = threading.Thread(target=lambda: signals.ignore("USR1"))
    thread.start()
    thread.join()
    assert signals["USR1"] is before


def test_ignore_errno_lets_other_errors_through() -> None:
    with platforms.ignore_errno("ENOENT", errno.EACCES):
        os.stat("/no/such/file")
    with pytest.raises(FileNotFoundError), platforms.ignore_errno("EPERM"):
        os.stat("/no/such/file")
    with pytest.raises(FileNotFoundError), platforms.ignore_errno("ENOENT", types=(ValueError,)):
        os.stat("/no/such/file")


def test_process_titles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platforms, "_setproctitle", None)
    assert platforms.set_process_title("worker", "busy") == "[worker] busy"
    assert (
        platforms.set_mp_process_title("worker", "busy", "w@h") == "[worker: w@h:MainProcess] busy"
    )
    monkeypatch.setenv("NOSETPS", "1")
    assert platforms.set_mp_process_title("worker") is None


def test_isatty_of_files_and_of_other_things() -> None:
    assert platforms.isatty(io.StringIO()) is False
    assert platforms.isatty(None) is None


def test_strargv_leaves_the_program_out() -> None:
    assert platforms.strargv(["taskq", "worker", "-A", "proj"]) == "worker -A proj"
