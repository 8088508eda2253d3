"""Count the words of Python's own standard library with a taskq worker.

Starts `taskq worker` in a process of its own, sends one task per file, collects the results, and
checks the totals against a plain count in this process. Needs no server. Run it with `make demo`,
or give it another folder of Python files to count.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wordcount import Count, count_words

from taskq.exceptions import TimeoutError
from taskq.result import AsyncResult

HERE = Path(__file__).resolve().parent


def main(root: Path) -> int:
    """Run the demo on the files below `root`; 0 when worker and plain count agree."""
    with tempfile.TemporaryDirectory(prefix="taskq-demo-") as folder:
        os.chdir(folder)  # the application keeps its taskq.db in the working directory
        files = find_files(root)
        size = sum(path.stat().st_size for path in files)
        print(f"{len(files)} files, {size / 1e6:.1f} MB below {root}")
        with worker() as process:
            started = time.perf_counter()
            results = [count_words.delay(str(path)) for path in files]
            sent = time.perf_counter() - started
            print(f"sent {len(results)} tasks in {sent:.1f} s to worker {process.pid}")
            totals, processes = collect(results, process)
            seconds = time.perf_counter() - started
        os.chdir(HERE)
    print(f"{len(files) / seconds:.0f} files/s, {size / 1e6 / seconds:.1f} MB/s, {seconds:.1f} s")
    print("files counted by process: " + ", ".join(f"{p}: {n}" for p, n in processes.items()))
    print("top words: " + ", ".join(f"{word} {n}" for word, n in totals.most_common(10)))
    return check(totals, files)


def find_files(root: Path) -> list[Path]:
    """Every .py file below `root` that nobody has installed there."""
    return sorted(p for p in root.rglob("*.py") if "site-packages" not in p.parts)


@contextmanager
def worker() -> Iterator[subprocess.Popen[bytes]]:
    """`taskq worker` in a process of its own, ended by TERM."""
    options = ["-A", "wordcount", "worker", "--concurrency", "2", "--loglevel", "WARNING"]
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-m", "taskq", *options], env={**os.environ, "PYTHONPATH": path}
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def collect(
    results: list[AsyncResult[Count]], worker: subprocess.Popen[bytes]
) -> tuple[Counter[str], Counter[int]]:
    """Add up all results in the order they were sent: words, and files per process."""
    totals: Counter[str] = Counter()
    processes: Counter[int] = Counter()
    for done, result in enumerate(results, start=1):
        count = wait_for(result, worker)
        totals.update(count["words"])
        processes[count["process"]] += 1
        result.forget()
        show_progress(done, len(results))
    return totals, processes


def wait_for(result: AsyncResult[Count], worker: subprocess.Popen[bytes]) -> Count:
    """The value of one result; ends the demo when the worker dies or is silent for a minute."""
    for _ in range(60):
        try:
            return result.get(timeout=1)
        except TimeoutError:
            if worker.poll() is not None:
                raise SystemExit(f"the worker ended with exit code {worker.returncode}") from None
    raise SystemExit(f"no result for task {result.id} within a minute")


def show_progress(done: int, total: int) -> None:
    """One line that fills up; on a terminal only, or at every tenth elsewhere."""
    if sys.stdout.isatty():
        filled = 40 * done // total
        bar = "#" * filled + "." * (40 - filled)
        print(f"\r[{bar}] {done}/{total}", end="\n" if done == total else "", flush=True)
    elif done * 10 // total != (done - 1) * 10 // total:
        print(f"{100 * done // total:3d} % {done}/{total}", flush=True)


def check(totals: Counter[str], files: list[Path]) -> int:
    """Count the same files here and compare; a difference is said loudly."""
    expected: Counter[str] = Counter()
    for path in files:
        expected.update(count_words(str(path))["words"])
    if totals != expected:
        wrong = {w: (totals[w], n) for w, n in (expected - totals).most_common(5)}
        print(f"FAILED: worker and plain count differ, e.g. {wrong}", file=sys.stderr)
        return 1
    print(f"checked: {sum(totals.values())} words, {len(totals)} different, the same both ways")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(*sys.argv[1:] or [sysconfig.get_path("stdlib")]).absolute()))
