"""What a process is doing: stacks of its threads, its memory, blocks that take too long."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

from taskq.utils.proxy import try_import

psutil = try_import("psutil")

__all__ = (
    "blockdetection",
    "cry",
    "humanbytes",
    "mem_rss",
    "memdump",
    "ps",
    "sample",
    "sample_mem",
)

_UNITS = ((2**40, "TB"), (2**30, "GB"), (2**20, "MB"), (2**10, "KB"), (0, "b"))

_samples: list[str] = []


@contextmanager
def blockdetection(timeout: float | None) -> Iterator[None]:
    """Raise in the block when it takes longer than `timeout` seconds; None or 0 is no limit.

    Works in the main thread only, and uses the alarm signal.
    """
    if not timeout:
        yield
        return

    def on_alarm(signum: int, frame: Any) -> None:
        raise RuntimeError(f"blocking detection (timeout: {timeout} s)")

    previous = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def sample_mem() -> str | None:
    """Note how much memory the process uses, for `memdump`; gives it as text."""
    rss = mem_rss()
    if rss is not None:
        _samples.append(rss)
    return rss


def memdump(samples: int = 10, file: Any = None) -> None:
    """Print `samples` of the notes made by `sample_mem`, and the present use."""
    if ps() is None:
        print("- rss: (psutil not installed).", file=file)
        return
    if _samples:
        print("- rss (sample):", file=file)
        for mem in sample(_samples, min(samples, len(_samples))):
            print(f"-    > {mem},", file=file)
        _samples.clear()
    print(f"- rss (end): {mem_rss()}.", file=file)


def sample(x: list[Any], n: int, k: int = 0) -> Iterator[Any]:
    """`n` items of the list, evenly spread, from index `k` on."""
    step = len(x) // n
    for _ in range(n):
        yield x[min(k, len(x) - 1)]
        k += step


def humanbytes(s: float) -> str:
    """A number of bytes in its largest unit: `4.8828KB`."""
    divider, unit = next((size, unit) for size, unit in _UNITS if s >= size)
    return f"{s / divider if divider else s:.5g}{unit}"


def mem_rss() -> str | None:
    """Memory the process holds, as text; None without psutil."""
    process = ps()
    return None if process is None else humanbytes(process.memory_info().rss)


def ps() -> Any:
    """The psutil.Process of this process; None without psutil."""
    return None if psutil is None else psutil.Process(os.getpid())


def cry(out: Any = None, sepchr: str = "=", seplen: int = 49) -> Any:
    """The stacks of all threads, as text or written to the file `out`."""
    stream = StringIO() if out is None else out
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    separator = sepchr * seplen
    for ident, frame in sys._current_frames().items():
        if ident in names:
            lines: Iterable[str] = traceback.format_stack(frame)
            stream.write(f"{names[ident]}\n{separator}\n{''.join(lines)}{separator}\n")
            stream.write(f"LOCAL VARIABLES\n{separator}\n{frame.f_locals!r}\n\n")
    return stream.getvalue() if out is None else None
