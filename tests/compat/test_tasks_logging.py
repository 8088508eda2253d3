"""Behaviours 26 to 29: what tasks and the worker write to the log."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import subprocess
import sys

import pytest
import sides
from celery import signals
from celery.app.log import TaskFormatter
from celery.utils.log import ColorFormatter, LoggingProxy, get_task_logger

TASKS = """
import sys
from celery import Task
from celery.utils.log import get_task_logger

logger = get_task_logger(__name__)

@app.task(bind=True)
def speak(self):
    logger.info("by the logger")
    print("by print")
    sys.stderr.write("by stderr\\n")

@app.task(bind=True)
def to_own_logger(self):
    old_outs = sys.stdout, sys.stderr
    rlevel = self.app.conf.worker_redirect_stdouts_level
    try:
        self.app.log.redirect_stdouts_to_logger(logger, rlevel)
        print("by print to mine")
    finally:
        sys.stdout, sys.stderr = old_outs

@app.task(throws=(KeyError,))
def fails(kind):
    raise {"expected": KeyError, "unexpected": ValueError}[kind](kind)
"""


def lines_with(text, log):
    return [line for line in log.splitlines() if text in line]


def test_026_the_task_logger(app, worker):
    logger = get_task_logger("some.module")
    assert (logger.name, logger.parent.name) == ("some.module", "celery.task")
    for reserved in ("celery", "celery.task"):
        with pytest.raises(RuntimeError, match="reserved"):
            get_task_logger(reserved)
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(TaskFormatter("%(task_name)s[%(task_id)s] %(message)s", use_color=False))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)

    @app.task
    def speak():
        logger.info("hello")

    try:
        result = worker.finish(speak.delay())
        logger.info("outside")
    finally:
        logger.removeHandler(handler)
    assert written.getvalue().splitlines() == [
        f"{speak.name}[{result.id}] hello",
        "???[???] outside",
    ]


def test_026_and_027_and_029_in_a_worker(program):
    started = program(TASKS)
    spoken = started.finish(started.call("speak"))
    started.finish(started.call("to_own_logger"))
    for kind in ("expected", "unexpected"):
        started.finish(started.call("fails", kind))
        started.wait_for_log(f"raised {kind}")
    log = started.log
    prefix = r"\[[^]]+: {}/ForkPoolWorker-1\] proj\.{}\[[-0-9a-f]+\]: "

    def is_line(level, task, text):
        return re.search(prefix.format(level, task) + re.escape(text), log)

    assert is_line("INFO", "speak", "by the logger")
    assert spoken.id in lines_with("by the logger", log)[0]
    # Redirected output does not say which task wrote it; a task's own logger does.
    for text in ("by print", "by stderr"):
        assert lines_with(text, log)[0].endswith(f": WARNING/ForkPoolWorker-1] {text}")
    assert is_line("WARNING", "to_own_logger", "by print to mine")
    [expected] = lines_with("raised expected", log)
    [unexpected] = lines_with("raised unexpected", log)
    assert ": INFO/ForkPoolWorker-1] Task proj.fails[" in expected
    assert expected.endswith("raised expected: KeyError('expected')")
    assert ": ERROR/ForkPoolWorker-1] Task proj.fails[" in unexpected
    assert unexpected.endswith("raised unexpected: ValueError('unexpected')")
    assert log.count("Traceback (most recent call last)") == 1
    # Not a terminal: no colours.
    assert "\x1b[" not in log


def test_027_redirection_off_and_at_another_level(program):
    level = program(TASKS + "\napp.conf.worker_redirect_stdouts_level = 'INFO'\n", pool="solo")
    level.finish(level.call("speak"))
    assert ": INFO/MainProcess] by print" in lines_with("by print", level.log)[0]
    off = program(TASKS + "\napp.conf.worker_redirect_stdouts = False\n", pool="solo")
    off.finish(off.call("speak"))
    assert lines_with("by print", off.wait_for_log("by stderr")) in ([], ["by print"])
    assert "by stderr" in off.log.splitlines()


def test_027_a_stream_that_logs(caplog):
    logger = logging.getLogger("proxied")
    proxy = LoggingProxy(logger, "WARNING")
    assert proxy.write("one\n\ntwo\n") and not proxy.isatty()
    proxy.writelines(["three"])
    proxy.close()
    proxy.write("after the end")
    assert caplog.record_tuples == [
        ("proxied", logging.WARNING, text) for text in ("one\n\ntwo", "three")
    ]


def test_028_setup_logging_turns_configuration_off(program):
    started = program(
        TASKS + "\nfrom celery.signals import setup_logging, after_setup_logger\n"
        "@setup_logging.connect\n"
        "def configure(loglevel=None, logfile=None, format=None, colorize=None, **kwargs):\n"
        "    import logging\n"
        "    logging.basicConfig(level=logging.INFO, format='MINE %(message)s')\n"
        "@after_setup_logger.connect\n"
        "def never(**kwargs):\n"
        "    raise SystemExit('after_setup_logger was sent')\n",
        pool="solo",
    )
    started.finish(started.call("speak"))
    log = started.wait_for_log("succeeded in")
    assert "MINE by the logger" in log
    assert re.search(r"MINE Task proj\.speak\[\S+\] succeeded in", log)
    assert "/MainProcess] " not in log


@pytest.mark.parametrize("hijacks", [True, False])
def test_028_signals_after_the_setup(app, hijacks):
    seen = []
    signals.after_setup_logger.connect(
        lambda logger=None, loglevel=None, **kw: seen.append(("all", logger.name, loglevel)),
        weak=False,
    )
    signals.after_setup_task_logger.connect(
        lambda logger=None, loglevel=None, **kw: seen.append(("task", logger.name, loglevel)),
        weak=False,
    )
    root = logging.getLogger()
    kept = root.handlers[:], root.level
    mine = logging.StreamHandler()
    root.handlers[:] = [mine]
    app.conf.worker_hijack_root_logger = hijacks
    try:
        app.log.setup_logging_subsystem(loglevel="ERROR", colorize=False)
        handlers = root.handlers[:]
    finally:
        type(app.log)._setup = False
        root.handlers[:], root.level = kept
    assert seen == [("all", "root", logging.ERROR), ("task", "celery.task", logging.ERROR)]
    # Taken away if it may be; else a root logger with a handler needs no other.
    assert (handlers == [mine]) is not hijacks


def test_028_colours_only_on_a_terminal(tmp_path):
    record = logging.LogRecord("any", logging.ERROR, __file__, 1, "text", (), None)
    assert ColorFormatter("%(message)s").format(record) == "\x1b[1;31mtext\x1b[0m"
    assert ColorFormatter("%(message)s", use_color=False).format(record) == "text"
    code = (
        "from celery import Celery; supports = Celery(broker='memory://').log.supports_color;"
        "print(supports(True), supports(), supports(False), supports(None, 'worker.log'))"
    )
    main, terminal = pty.openpty()
    try:
        for stderr, expected in (
            (terminal, "True True False False"),
            (subprocess.DEVNULL, "False False False False"),
        ):
            done = subprocess.run(
                [sys.executable, "-c", sides.AS_CELERY + code],
                stderr=stderr, stdout=subprocess.PIPE, text=True, timeout=60, check=True,
            )  # fmt: skip
            assert done.stdout.strip() == expected
    finally:
        os.close(terminal)
        os.close(main)


def test_029_levels_and_tracebacks(app, worker, caplog):
    @app.task(throws=(KeyError,))
    def fails(kind):
        raise {"expected": KeyError, "unexpected": ValueError}[kind](kind)

    with caplog.at_level(logging.INFO, "celery.app.trace"):
        states = [worker.finish(fails.delay(each)).state for each in ("expected", "unexpected")]
        worker.stop()
    assert states == ["FAILURE", "FAILURE"]
    told = [each for each in caplog.records if each.name == "celery.app.trace"]
    assert [(each.levelname, bool(each.exc_info)) for each in told] == [
        ("INFO", False),
        ("ERROR", True),
    ]
    assert "raised expected: KeyError" in told[0].getMessage()
    assert "raised unexpected: ValueError" in told[1].getMessage()
    assert told[1].data["traceback"].startswith("Traceback")
