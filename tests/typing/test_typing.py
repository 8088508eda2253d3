"""What a type checker makes of code that uses tasks: arguments are checked, results are typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
from typing import Any

from taskq import App, Task, shared_task

app = App("typed")


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task(name="named", max_retries=5)
def join(a: str, *, sep: str = ",") -> str:
    return a + sep


@app.task(bind=True)
def bound(self: Any, x: int) -> list[int]:
    return [x] * self.request.retries


@shared_task
def shared(x: float) -> float:
    return x


@shared_task(bind=True, name="other")
def shared_bound(self: Any, x: bytes) -> bytes:
    return x


@app.task
async def fetch(url: str) -> bytes:
    return b""


@app.task(name="other fetch", bind=True)
async def bound_fetch(self: Any, url: str) -> bytes:
    return b""


@shared_task
async def shared_fetch(url: str) -> bytes:
    return b""


class Greet(Task[[str], str]):
    def run(self, name: str) -> str:
        return f"hello {name}"


add.delay("x")  # E
add.delay(1)  # E
add.delay(1, 2)
join.delay("a", sep=";")
join.delay("a", ";")  # E
bound.delay(1)
bound.delay("1")  # E
shared.delay(None)  # E
shared_bound.delay(b"")
shared_bound.delay("")  # E
Greet().delay(1)  # E
add(1, "2")  # E

number: int = add.delay(1, 2).get()
wrong: str = add.delay(1, 2).get()  # E
text: str = join.apply_async(("a",)).get(timeout=1)
numbers: list[int] = bound.delay(1).get()
direct: int = add(1, 2)
real: float = shared.delay(1.0).get()
fetched: bytes = fetch.delay("u").get()
fetched = bound_fetch.delay("u").get()
fetched = shared_fetch.delay("u").get()
fetch.delay(1)  # E
bound_fetch.delay(1)  # E


async def main() -> bytes:
    await fetch.adelay(1)  # E
    number: int = await add.delay(1, 2)
    wrong: str = await add.delay(1, 2).aget(timeout=1)  # E
    await fetch("u")
    return await (await fetch.adelay("u"))


signed = (add.s(1) | join.s()).apply_async(countdown=3)
add.name.upper()
add.request.retries + 1
app.conf.broker_url = "memory://"
app.conf.result_backend = "cache+memory://"
app.conf.timezone = "Europe/Oslo"
app.conf.task_always_eager = True
"""


def _check(tmp_path: Path, *options: str) -> tuple[set[int], set[int], str]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    expected = {n for n, line in enumerate(PROGRAM.splitlines(), 1) if line.endswith("# E")}
    command = [
        *(sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context"),
        *("--config-file", str(ROOT / "pyproject.toml"), "--follow-imports=silent"),
        *("--cache-dir", str(ROOT / ".mypy_cache"), *options, str(program)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    found = {int(line.split("program.py:")[1].split(":")[0]) for line in errors}
    return expected, found, done.stdout + done.stderr


def test_arguments_are_checked_and_results_typed(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    expected, found, output = _check(tmp_path)
    assert found == expected, output
