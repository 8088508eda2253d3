"""Every code block of the guide and the README runs.

A python block whose first line is `# file: NAME` is written to a folder. Other python blocks and
pycon blocks (doctests) of a page then run in order, in one namespace, in a process of its own in
that folder. If the page has a `proj.py`, a real worker serves it meanwhile.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from patience import PATIENCE_S, wait_until

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]
BLOCK = re.compile(r"^```(python|pycon)\n(.*?)^```", re.M | re.S)
FILE = re.compile(r"# file: (\S+)\n")

RUNNER = """
import doctest, json, sys
flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
names = {"__name__": "__guide__"}
for kind, line, text in json.load(open("blocks.json")):
    if kind == "python":
        exec(compile("\\n" * line + text, sys.argv[1], "exec"), names)
        continue
    test = doctest.DocTestParser().get_doctest(text, names, sys.argv[1], sys.argv[1], line)
    runner = doctest.DocTestRunner(optionflags=flags)
    runner.run(test, clear_globs=False)
    names = test.globs
    if runner.failures:
        sys.exit(1)
"""


def blocks_of(page: Path) -> Iterator[tuple[str, int, str]]:
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        yield match[1], text[: match.start(2)].count("\n"), match[2]


@contextmanager
def worker(folder: Path, env: dict[str, str]) -> Iterator[None]:
    if not (folder / "proj.py").exists():
        yield
        return
    log = folder / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "taskq", "-A", "proj", "worker", "-c", "2", "-l", "INFO"],
            cwd=folder, env=env, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield
        # It may have had nothing to do: before it is ready a signal ends it at once.
        wait_until(lambda: " ready." in log.read_text(), "ready", report=log.read_text)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE_S) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs(page: Path, tmp_path: Path) -> None:
    blocks = list(blocks_of(page))
    for kind, _, text in blocks:
        name = FILE.match(text)
        if kind == "python" and name:
            file = tmp_path / name[1]
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
    rest = [block for block in blocks if not FILE.match(block[2])]
    (tmp_path / "blocks.json").write_text(json.dumps(rest))
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with worker(tmp_path, env):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(RUNNER), page.name],
            cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        log = tmp_path / "worker.log"
        assert done.returncode == 0, (
            done.stdout + done.stderr + (log.read_text() if log.exists() else "")
        )
