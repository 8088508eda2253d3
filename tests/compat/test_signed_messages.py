"""taskq and Celery 5.7.0 read each other's signed messages, and refuse the same ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from compat.signers import Signer

pytestmark = pytest.mark.long

AS_CELERY = "import taskq\ntaskq.install_as_celery()\n"

PROGRAM = """
import json, sys
from celery import Celery
from kombu.serialization import dumps, loads

ask = json.load(sys.stdin)
app = Celery("signed", broker="memory://")
app.conf.update(ask["settings"])
app.setup_security(**ask["options"])
answers = []
for body in ask["read"]:
    try:
        answers.append(loads(body, "application/data", "utf-8", accept={"application/data"}))
    except Exception as exc:
        answers.append(f"{type(exc).__name__}: {exc}")
json.dump({"wrote": dumps(ask["write"], "auth"), "read": answers}, sys.stdout)
"""

MESSAGE = [[1, "täxt"], {"k": None}, {"callbacks": None}]


@pytest.mark.parametrize(("writer", "reader"), [("celery", "taskq"), ("taskq", "celery")])
@pytest.mark.parametrize("options", [{}, {"digest": "sha512"}, {"serializer": "pickle"}])
def test_both_ways(
    tmp_path: Path, celery_python: str, writer: str, reader: str, options: dict[str, str]
) -> None:
    pythons = {"taskq": sys.executable, "celery": celery_python}

    def run(side: str, signer: Signer, read: list[str]) -> dict[str, Any]:
        ask = {
            "settings": signer.settings(), "options": options, "write": MESSAGE, "read": read,
        }  # fmt: skip
        done = subprocess.run(
            [pythons[side], "-W", "ignore", "-c", (AS_CELERY if side == "taskq" else "") + PROGRAM],
            input=json.dumps(ask), capture_output=True, text=True, timeout=120, env={**os.environ},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    trusted = Signer(tmp_path, "trusted")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    kind, encoding, body = run(writer, trusted, [])["wrote"]
    stranger = run(writer, Signer(elsewhere, "stranger"), [])["wrote"][2]
    assert (kind, encoding) == ("application/data", "utf-8")
    changed = body[:-8] + ("AAAA" if body[-8:-4] != "AAAA" else "BBBB") + body[-4:]
    good, by_stranger, broken = run(reader, trusted, [body, stranger, changed])["read"]
    assert good == MESSAGE
    assert by_stranger.startswith("DecodeError: Unable to deserialize: ")
    assert "Unknown certificate" in by_stranger
    assert broken.startswith("DecodeError: Unable to deserialize: ")
