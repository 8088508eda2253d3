"""Profiles of a worker's processes and of a client, by module, for `compare.py --profile`."""

from __future__ import annotations

import cProfile
import os
import pstats
import re
import time
from pathlib import Path
from typing import Any

#: Processor time, not the clock: what waits takes none.
_profile = cProfile.Profile(time.thread_time)


def watch_worker(signals: Any) -> None:
    """Profile the parent and each child from when it is ready to its end."""
    signals.worker_ready.connect(_begin)
    signals.worker_shutdown.connect(_end_parent)
    signals.worker_process_init.connect(_begin)
    signals.worker_process_shutdown.connect(_end_child)


def _begin(**_: Any) -> None:
    _profile.enable()


def _end_parent(**_: Any) -> None:
    _dump("parent")


def _end_child(**_: Any) -> None:
    _dump("child")


def _dump(part: str) -> None:
    _profile.disable()
    _profile.dump_stats(str(Path(os.environ["BENCH_FOLDER"], f"{part}-{os.getpid()}.prof")))


def by_module(files: list[Path]) -> dict[str, float]:
    """Parts of the time that each module took by itself; they add up to 1."""
    if not files:
        return {}
    stats: Any = pstats.Stats(*map(str, files))
    times: dict[str, float] = {}
    for (file, _, function), (_, _, own, _, _) in stats.stats.items():
        name = _name(file, function)
        times[name] = times.get(name, 0.0) + own
    total = sum(times.values()) or 1.0
    return {name: own / total for name, own in sorted(times.items(), key=lambda item: -item[1])}


def _name(file: str, function: str) -> str:
    if file == "~":
        method = re.search(r"of '([\w.]+)'", function)
        builtin = re.search(r"built-in method ([\w.]+)", function)
        return method.group(1) if method else builtin.group(1) if builtin else "built-in"
    parts = Path(file).with_suffix("").parts
    for root in ("taskq", "celery", "kombu", "redis", "amqp", "billiard", "libraries"):
        if root in parts:
            last = len(parts) - 1 - parts[::-1].index(root)
            return ".".join(parts[last:])
    return parts[-1] if "site-packages" not in parts else parts[parts.index("site-packages") + 1]
