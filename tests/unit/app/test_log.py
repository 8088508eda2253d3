"""Set-up of logging. Each test gets the process's logging back as it was."""

from __future__ import annotations

import io
import logging
import os
import re
import stat
import sys
import warnings

import pytest

from taskq import signals
from taskq._state import pop_current_task, push_current_task
from taskq.app.base import Celery
from taskq.app.log import Logging, TaskFormatter
from taskq.exceptions import ImproperlyConfigured
from taskq.utils.log import ColorFormatter, LoggingProxy, get_task_logger
from taskq.utils.log_handlers import StreamHandler

NAMES = (None, "celery", "celery.task", "celery.redirected", "tq_q")
VARIABLES = (
    "CELERY_LOG_LEVEL", "CELERY_LOG_FILE", "CELERY_LOG_REDIRECT", "CELERY_LOG_REDIRECT_LEVEL",
    "_MP_FORK_LOGLEVEL_", "_MP_FORK_LOGFILE_", "_MP_FORK_LOGFORMAT_",
)  # fmt: skip


@pytest.fixture(autouse=True)
def process_logging(monkeypatch):
    loggers = [logging.getLogger(name) for name in NAMES]
    kept = [(log, log.handlers, log.level, log.propagate) for log in loggers]
    for log in loggers:
        log.handlers = []
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
    for name in ("stdout", "stderr", "__stderr__"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    monkeypatch.setattr(Logging, "_setup", False)
    with warnings.catch_warnings():
        yield
    for log, handlers, level, propagate in kept:
        for handler in log.handlers:
            handler.close()
        log.handlers, log.level, log.propagate = handlers, level, propagate
        log.manager._clear_cache()


@pytest.fixture
def stderr(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", stream)
    return stream


@pytest.fixture
def app():
    app = Celery("logging", set_as_current=False)
    yield app
    app.close()


def handlers(name):
    """The handlers of a logger, but not those of the test runner."""
    found = logging.getLogger(name).handlers
    return [handler for handler in found if not type(handler).__module__.startswith("_pytest")]


def kinds(name):
    return [type(handler) for handler in handlers(name)]


def receive(signal, receiver):
    signal.connect(receiver)
    return lambda: signal.disconnect(receiver)


def test_setup(app, stderr):
    logging.getLogger().addHandler(logging.NullHandler())
    assert app.log.setup(loglevel="info") == []
    assert app.log.already_setup
    assert kinds(None) == [StreamHandler]
    assert logging.getLogger().level == logging.getLogger("celery.task").level == logging.INFO
    assert not logging.getLogger("celery.task").propagate
    assert os.environ["CELERY_LOG_LEVEL"] == "20" and os.environ["_MP_FORK_LOGLEVEL_"] == "20"
    logging.getLogger("celery.worker").info("hello %s", "log")
    get_task_logger("tq_q").warning("from a task")
    lines = stderr.getvalue().splitlines()
    assert re.fullmatch(r"\[[\d :,-]+: INFO/MainProcess\] hello log", lines[0])
    assert lines[1].endswith(" ???[???]: from a task")


def test_only_once_in_a_process(app, stderr):
    app.log.setup(loglevel="INFO")
    other = Celery("other", set_as_current=False)
    assert other.log.setup(loglevel="DEBUG") is None
    assert logging.getLogger().level == logging.INFO
    other.close()


def test_setup_logging_receivers_do_it_all(app):
    got = {}

    def receiver(sender=None, **kwargs):
        got.update(kwargs)

    done = receive(signals.setup_logging, receiver)
    try:
        assert app.log.setup(loglevel="INFO", redirect_stdouts=True)
    finally:
        done()
    assert got["loglevel"] == 20 and {"logfile", "format", "colorize"} < set(got)
    assert kinds(None) == kinds("celery.task") == []
    assert not isinstance(sys.stdout, LoggingProxy)


def test_after_setup_signals(app, stderr):
    got = []

    def after(logger=None, **kwargs):
        got.append((logger.name, kwargs["loglevel"], kwargs["logfile"], kwargs["colorize"]))

    ends = [
        receive(signal, after)
        for signal in (signals.after_setup_logger, signals.after_setup_task_logger)
    ]
    try:
        app.log.setup(loglevel=10)
    finally:
        for end in ends:
            end()
    assert got == [("root", 10, None, False), ("celery.task", 10, None, False)]


def test_hijack(app, stderr):
    own = logging.StreamHandler(io.StringIO())
    logging.getLogger().addHandler(own)
    app.conf.worker_hijack_root_logger = False
    app.log.setup(loglevel="INFO")
    assert handlers(None) == [own]
    app.conf.worker_hijack_root_logger = True
    Logging._setup = False
    app.log.setup(loglevel="INFO")
    assert own not in logging.getLogger().handlers


def test_logfile(app, tmp_path):
    app.log.setup(loglevel="INFO", logfile=tmp_path / "%n.log", hostname="w1@host")
    logging.getLogger("celery").info("to the file: ünï")
    text = (tmp_path / "w1.log").read_text(encoding="utf-8")
    assert text.endswith("to the file: ünï\n") and "\x1b" not in text
    assert os.environ["CELERY_LOG_FILE"] == str(tmp_path / "%n.log")


def test_logfile_that_cannot_be_written(app, tmp_path):
    for path in (tmp_path / "missing" / "x.log", tmp_path):
        with pytest.raises(ImproperlyConfigured, match=f"{path}.* cannot be written: .*--logfile"):
            app.log.setup(loglevel="INFO", logfile=str(path))
        assert not app.log.already_setup
    if os.geteuid():
        tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
        with pytest.raises(ImproperlyConfigured, match="Permission denied"):
            app.log.setup(logfile=str(tmp_path / "x.log"))


def test_redirect(app, stderr):
    app.log.setup(loglevel="INFO", redirect_stdouts=True, redirect_level="ERROR")
    assert isinstance(sys.stdout, LoggingProxy) and sys.stdout is sys.stderr
    assert (sys.stdout.logger.name, sys.stdout.loglevel) == ("celery.redirected", logging.ERROR)
    print("printed")
    assert "ERROR/MainProcess] printed" in stderr.getvalue()
    assert os.environ["CELERY_LOG_REDIRECT"] == "1"
    assert os.environ["CELERY_LOG_REDIRECT_LEVEL"] == "ERROR"


def test_redirect_one_stream(app):
    before = sys.stderr
    proxy = app.log.redirect_stdouts_to_logger(
        logging.getLogger("tq_q"), loglevel="INFO", stderr=False
    )
    assert sys.stdout is proxy and sys.stderr is before


class Terminal(io.StringIO):
    def isatty(self):
        super().isatty()  # raises when closed
        return True


def test_colour_only_on_a_terminal(app, monkeypatch):
    assert not app.log.supports_color() and not app.log.supports_color(True)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert app.log.supports_color() and app.log.supports_color(True)
    assert not app.log.supports_color(False) and not app.log.supports_color(True, "file.log")
    app.log.colorize = False
    assert not app.log.supports_color()
    assert "\x1b" in str(app.log.colored(enabled=True).red("x"))
    assert str(app.log.colored().red("x")) == "x"
    sys.stderr.close()
    assert not app.log.supports_color(True)


def test_coloured_lines(app, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "__stderr__", terminal)
    app.log.setup(loglevel="INFO")
    logging.getLogger("celery").error("bad")
    assert terminal.getvalue().startswith("\x1b[1;31m[")


def test_formats(app, stderr):
    app.conf.update(
        worker_log_format="%(asctime)s %(message)s",
        worker_log_datefmt="D%%Y",
        worker_task_log_format="T %(message)s",
    )
    log = Logging(app)
    log.setup(loglevel="INFO")
    logging.getLogger("celery").info("one")
    logging.getLogger("celery.task").info("two")
    assert stderr.getvalue() == "D%Y one\nT two\n"


def test_setup_handlers(app):
    stream, logger = io.StringIO(), logging.getLogger("tq_q")
    for _ in range(2):
        assert app.log.setup_handlers(logger, stream, "F %(message)s", False) is logger
    assert len(logger.handlers) == 1
    assert type(logger.handlers[0].formatter) is ColorFormatter
    assert app.log.get_default_logger().name == "celery"
    assert app.log.get_default_logger(name="tq_q") is logger


def test_lines_of_a_task_name_it():
    class Running:
        name = "proj.add"

        class request:
            id = "the-id"

    line = TaskFormatter("%(task_name)s[%(task_id)s]: %(message)s", use_color=False)
    record = logging.LogRecord("x", logging.INFO, "f", 1, "hello %s", ("you",), None)
    assert line.format(record) == "???[???]: hello you"
    push_current_task(Running)
    try:
        assert line.format(record) == "proj.add[the-id]: hello you"
    finally:
        pop_current_task()
