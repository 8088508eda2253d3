"""One scenario of `make bench`, run by one interpreter: `scenarios.py PACKAGE SCENARIO`.

Prints one number: seconds per operation.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def make_app(package: Any) -> tuple[Any, Any]:
    app = package.Celery("bench", broker="memory://", set_as_current=True)

    @app.task(name="bench.noop", ignore_result=True)
    def noop(n: int) -> int:
        return n

    app.finalize()
    return app, noop


def per_call(function: Any, rounds: int) -> float:
    for n in range(200):
        function(n)
    started = time.perf_counter()
    for n in range(rounds):
        function(n)
    return (time.perf_counter() - started) / rounds


def delay(package: Any) -> float:
    _, noop = make_app(package)
    return per_call(noop.delay, 5000)


def run(package: Any) -> float:
    app, noop = make_app(package)
    trace = importlib.import_module(f"{package.__name__}.app.trace")
    tracer = trace.build_tracer(noop.name, noop, app=app)
    request = {"id": "x", "task": noop.name, "ignore_result": True, "retries": 0, "hostname": "b"}
    return per_call(lambda n: tracer("x", (n,), {}, dict(request)), 5000)


def imported(package_name: str) -> float:
    started = time.perf_counter()
    package = importlib.import_module(package_name)
    package.Celery("bench", broker="memory://")
    return time.perf_counter() - started


def embedded() -> float:
    """Seconds per task from the first send to the last result, one solo worker."""
    tasks = 3000
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("benchapp.py").write_text(
            "from taskq import App\napp = App('bench')\n"
            "@app.task(name='bench.noop')\ndef noop(n):\n    return n\n"
        )
        sys.path.insert(0, folder)
        noop = importlib.import_module("benchapp").noop
        command = [sys.executable, "-m", "taskq", "-A", "benchapp", "worker", "-P", "solo"]
        worker = subprocess.Popen([*command, "-l", "ERROR"], stdout=subprocess.DEVNULL)
        try:
            noop.delay(0).get(timeout=60)
            started = time.perf_counter()
            results = [noop.delay(n) for n in range(tasks)]
            for result in results:
                result.get(timeout=60)
            return (time.perf_counter() - started) / tasks
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(timeout=30)


def main() -> None:
    package_name, scenario = sys.argv[1:]
    if scenario == "import":
        seconds = imported(package_name)
    elif scenario == "embedded":
        seconds = embedded()
    else:
        seconds = {"delay": delay, "run": run}[scenario](importlib.import_module(package_name))
    print(seconds)


if __name__ == "__main__":
    main()
