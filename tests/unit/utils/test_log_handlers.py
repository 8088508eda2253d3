"""Records of several processes in one pipe: whole, also when one of them dies while it writes."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from contract.processes import Forked

from taskq.utils import log_handlers
from taskq.utils.log_handlers import FileHandler, StreamHandler

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")

#: More than a pipe takes at once, and than it holds.
LONG = 100_000


class Pipe:
    """A pipe with a handler at its writing end, and what has come out of it."""

    def __init__(self) -> None:
        self.reader, writer = os.pipe()
        self.stream = os.fdopen(writer, "w", encoding="utf-8")
        self.handler = StreamHandler(self.stream)

    def log(self, text: str) -> None:
        self.handler.handle(logging.makeLogRecord({"msg": text}))

    def read_lines(self, until: Callable[[bytes], bool]) -> list[str]:
        text = b""
        while not until(text):
            text += os.read(self.reader, 1 << 20)
        return text.decode().splitlines()

    def close(self) -> None:
        os.close(self.reader)
        self.stream.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def test_long_records_of_processes_and_threads_are_whole(pipe: Pipe) -> None:
    def write(letter: str) -> None:
        for _ in range(5):
            pipe.log(letter * LONG)
            pipe.log(letter * 10)

    def write_in_threads(tell: Any) -> None:
        threads = [threading.Thread(target=write, args=(letter,)) for letter in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    with Forked(write_in_threads) as one, Forked(lambda tell: write("c")) as two:
        lines = pipe.read_lines(lambda text: text.count(b"\n") == 30)
        assert one.join() == two.join() == 0
    assert sorted(lines) == sorted([letter * n for letter in "abc" for n in (LONG, 10)] * 5)


def test_one_that_dies_while_it_writes_does_not_hold_up_the_others(pipe: Pipe) -> None:
    with Forked(lambda tell: pipe.log("x" * LONG)) as dying:
        # Once some of it has come it is in the middle: the pipe does not hold it all.
        assert os.read(pipe.reader, 1) == b"x"
        with Forked(lambda tell: (tell("begun"), pipe.log("here"))) as waiting:
            assert waiting.hear() == "begun"
            dying.kill(signal.SIGKILL)
            assert dying.join() == -signal.SIGKILL
            (line,) = pipe.read_lines(lambda text: text.endswith(b"\n"))
            assert waiting.join() == 0
    assert re.fullmatch("x+here", line)


def test_one_that_is_stopped_while_it_writes_does_not_hold_up_the_others(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_handlers, "PATIENCE_S", 0.05)
    with Forked(lambda tell: pipe.log("x" * LONG)) as stopped:
        assert os.read(pipe.reader, 1) == b"x"
        stopped.kill(signal.SIGSTOP)
        os.waitpid(stopped.pid, os.WUNTRACED)
        # What it has written so far; it writes no more.
        assert os.read(pipe.reader, LONG)
        with Forked(lambda tell: [pipe.log("here") for _ in range(3)]) as other:
            lines = pipe.read_lines(lambda text: text.count(b"here\n") == 3)
            assert other.join() == 0
        assert [line[-4:] for line in lines] == ["here"] * 3
        stopped.kill(signal.SIGCONT)
        # Its turn over, the next ones have theirs again.
        assert set(pipe.read_lines(lambda text: text.endswith(b"x\n"))[0]) == {"x"}
        assert stopped.join() == 0


def test_a_file_takes_records_whole_and_nobody_waits(tmp_path: Any) -> None:
    handler = FileHandler(tmp_path / "w.log", encoding="utf-8")

    def write(letter: str) -> None:
        for _ in range(20):
            handler.handle(logging.makeLogRecord({"msg": letter * LONG}))

    def hold_the_turn(tell: Any) -> None:
        log_handlers._lock()
        tell("held")
        signal.pause()

    try:
        with Forked(hold_the_turn) as holder:
            assert holder.hear() == "held"
            with Forked(lambda tell: write("a")) as one, Forked(lambda tell: write("b")) as two:
                assert one.join() == two.join() == 0
        lines = (tmp_path / "w.log").read_text().splitlines()
        assert sorted(lines) == ["a" * LONG] * 20 + ["b" * LONG] * 20
    finally:
        handler.close()


def test_records_inside_a_record(pipe: Pipe) -> None:
    class Chatty(logging.Formatter):
        depth = 0

        def format(self, record: logging.LogRecord) -> str:
            if not self.depth:
                self.depth += 1
                pipe.log("inner")
            return super().format(record)

    pipe.handler.setFormatter(Chatty())
    pipe.log("outer")
    assert pipe.read_lines(lambda text: text.count(b"\n") == 2) == ["inner", "outer"]


def test_files_are_written_in_turn_too(tmp_path: Any) -> None:
    path = tmp_path / "w.log"
    handler = FileHandler(path, encoding="utf-8")
    try:
        for text in ("one", "two"):
            handler.handle(logging.makeLogRecord({"msg": text}))
            path.rename(tmp_path / text)
        assert (tmp_path / "one").read_text() == "one\n"
        assert (tmp_path / "two").read_text() == "two\n"
    finally:
        handler.close()
