"""Loggers carry Celery's names; redirected output becomes records."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator

import pytest

from taskq.utils import log
from taskq.utils.log import ColorFormatter, LoggingProxy, get_logger, get_task_logger


def test_our_modules_log_under_celerys_names() -> None:
    assert get_logger("taskq.app.trace") is logging.getLogger("celery.app.trace")
    assert get_logger("taskq") is log.base_logger
    assert get_logger("taskqueue_of_mine").name == "taskqueue_of_mine"


def test_loggers_are_below_the_base_logger() -> None:
    assert get_logger("test_log_plain").parent is log.base_logger
    assert log.task_logger.name == "celery.task"
    assert log.base_logger.parent is logging.root


def test_task_loggers_are_below_the_task_logger() -> None:
    assert get_task_logger("test_log_proj.tasks").parent is log.task_logger
    assert get_task_logger("test_log_proj.tasks").parent is log.task_logger
    get_task_logger("test_log_parent")
    assert get_task_logger("test_log_parent.child").parent is logging.getLogger("test_log_parent")
    for name in ("celery", "celery.task"):
        with pytest.raises(RuntimeError, match="reserved"):
            get_task_logger(name)


@pytest.mark.parametrize(
    ("level", "number"), [("INFO", 20), ("info", 20), (30, 30), (None, None), (0, 0), ("", "")]
)
def test_levels_by_name_or_number(level: object, number: object) -> None:
    assert log.mlevel(level) == number  # type: ignore[arg-type]  # also what is no level


def test_an_unknown_level() -> None:
    with pytest.raises(KeyError):
        log.mlevel("LOUD")


def record(
    level: int, msg: object = "hello %s", args: tuple[object, ...] = ("w",)
) -> logging.LogRecord:
    return logging.LogRecord("n", level, "p", 1, msg, args, None)


def test_lines_have_the_colour_of_their_level() -> None:
    formatter = ColorFormatter("%(levelname)s %(message)s")
    assert formatter.format(record(logging.ERROR)) == "\x1b[1;31mERROR hello w\x1b[0m"
    assert formatter.format(record(logging.WARNING)) == "\x1b[1;33mWARNING hello w\x1b[0m"
    assert formatter.format(record(logging.INFO)) == "INFO hello w"
    plain = ColorFormatter("%(levelname)s %(message)s", use_color=False)
    assert plain.format(record(logging.ERROR)) == "ERROR hello w"


def test_tracebacks_are_formatted() -> None:
    try:
        raise KeyError("k")
    except KeyError:
        entry = logging.LogRecord("n", logging.ERROR, "p", 1, "m", (), sys.exc_info())
    assert "KeyError: 'k'\x1b[0m" in ColorFormatter("%(message)s").format(entry)


class Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append((record.levelno, record.getMessage()))


@pytest.fixture
def records() -> Iterator[Records]:
    logger = logging.getLogger("test_log_redirected")
    handler = Records()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield handler
    logger.removeHandler(handler)


def test_output_becomes_records(records: Records) -> None:
    proxy = LoggingProxy(logging.getLogger("test_log_redirected"), "WARNING")
    assert proxy.write("one\n") == 4
    assert proxy.write("\n") == 1
    assert proxy.write("") == 0
    proxy.write("two\nthree")
    proxy.write(b"bytes")
    proxy.writelines(["a", "b"])
    proxy.write("100% sure %s")
    texts = ["one", "two\nthree", "bytes", "a", "b", "100% sure %s"]
    assert records.seen == [(logging.WARNING, text) for text in texts]
    assert not proxy.isatty()
    proxy.flush()
    proxy.close()
    assert proxy.closed
    assert proxy.write("late") == 0
    assert len(records.seen) == len(texts)


def test_a_handler_that_prints_does_not_go_round_in_circles(records: Records) -> None:
    proxy = LoggingProxy(logging.getLogger("test_log_redirected"), logging.INFO)

    class Printing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            proxy.write("from the handler")

    printing = Printing()
    logging.getLogger("test_log_redirected").addHandler(printing)
    try:
        proxy.write("from outside")
    finally:
        logging.getLogger("test_log_redirected").removeHandler(printing)
    assert records.seen == [(logging.INFO, "from outside")]


def test_a_handler_that_fails_reports_to_the_real_stderr(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", real)

    class Failing(logging.StreamHandler):  # type: ignore[type-arg]  # any stream
        def emit(self, record: logging.LogRecord) -> None:
            try:
                raise OSError("disk full")
            except OSError:
                self.handleError(record)

    failing = Failing()
    logger = logging.getLogger("test_log_redirected")
    logger.addHandler(failing)
    try:
        LoggingProxy(logger, logging.INFO).write("text")
    finally:
        logger.removeHandler(failing)
    assert "disk full" in real.getvalue()


def test_nothing_is_logged_in_a_signal_handler(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", real)
    proxy = LoggingProxy(logging.getLogger("test_log_redirected"))
    with log.in_sighandler():
        proxy.write("urgent")
    assert records.seen == []
    assert real.getvalue() == "urgent"
    proxy.write("later")
    assert [text for _, text in records.seen] == ["later"]


def test_open_streams_of_handlers_are_known(tmp_path: object) -> None:
    handler = logging.StreamHandler(io.StringIO())
    logging.getLogger("test_log_stream").addHandler(handler)
    try:
        assert handler.stream in list(log.iter_open_logger_fds())
    finally:
        logging.getLogger("test_log_stream").removeHandler(handler)


def test_the_main_process_has_no_index() -> None:
    assert log.current_process_index() is None
    assert log.get_multiprocessing_logger() is not None
    log.reset_multiprocessing_logger()
