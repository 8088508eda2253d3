"""Where the time of one task goes: processor time of parent, children, client and server per task.

The times come from the kernel, of runs that nothing slows down. A second run of taskq alone, under
a profiler, says which modules they are spent in: a profiler makes calls dear, so only its
proportions are used.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import sys
import time
from pathlib import Path
from typing import Any

from ground import Ground
from libraries import LIBRARIES
from processes import cpu_s, tree_of
from profiling import by_module
from side import Side, open_side

#: Modules named in the text; the others are summed up.
NAMED = 12


def in_client(load: Any, count: int, profile: int) -> float:
    """Send the tasks; gives microseconds of this process for each."""
    library = load()
    library.send_each(200)
    profiler = cProfile.Profile(time.thread_time)
    if profile:
        profiler.enable()
    before = sum(os.times()[:2])
    library.send_each(count)
    spent = sum(os.times()[:2]) - before
    if profile:
        profiler.disable()
        profiler.dump_stats(str(Path(os.environ["BENCH_FOLDER"], "client-1.prof")))
    return spent / count * 1e6


def measure(ground: Ground, options: argparse.Namespace) -> dict[str, Any]:
    """By broker and library: microseconds per task; for taskq also by module."""
    found: dict[str, Any] = {}
    for broker in options.brokers:
        for name in (n for n in options.libraries if broker in LIBRARIES[n].brokers):
            count = max(1000, int(options.size * LIBRARIES[name].share))
            with open_side(ground, name, broker) as side:
                parts = measure_one(side, count)
            if name == "taskq":
                with open_side(ground, name, broker, profile=True) as side:
                    parts["modules"] = profile_one(side, count)
            found.setdefault(broker, {})[name] = parts
            print(f"costs {side}", file=sys.stderr, flush=True)
    return found


def measure_one(side: Side, count: int) -> dict[str, Any]:
    """Processor time per task while a filled queue is emptied."""
    client = side.client("costs", count, 0)
    server = side.ground.server_pid(side.broker)
    with side.worker() as worker:
        worker.wait_counted(200 + count // 20)
        groups = {"parent": worker.pids[:1], "children": worker.pids[1:]}
        groups["server"] = tree_of(server) if server else []
        done, before = side.counted, {key: cpu_s(pids) for key, pids in groups.items()}
        worker.wait_counted(200 + count)
        after = {key: cpu_s(pids) for key, pids in groups.items()}
    tasks = 200 + count - done
    spent = {key: (after[key] - before[key]) / tasks * 1e6 for key in groups}
    return {"client": client, **spent}


def profile_one(side: Side, count: int) -> dict[str, dict[str, float]]:
    """Which modules the parent's, the children's and the client's time is spent in."""
    side.client("costs", count, 1)
    with side.worker() as worker:
        worker.wait_counted(200 + count)
    return {part: by_module(list(side.folder.glob(f"{part}-*.prof"))) for part in
            ("parent", "child", "client")}  # fmt: skip


def build_text(costs: dict[str, Any]) -> str:
    """Both tables, as Markdown that is read as text, too."""
    lines = ["| us a task | client | parent | children | server |", "|---|--:|--:|--:|--:|"]
    for broker, libraries in costs.items():
        for name, parts in libraries.items():
            times = [f"{parts[key]:.0f}" for key in ("client", "parent", "children", "server")]
            lines.append(f"| {name}, {broker} | " + " | ".join(times) + " |")
    for broker, libraries in costs.items():
        parts = libraries.get("taskq", {})
        for part, key in (("parent", "parent"), ("child", "children"), ("client", "client")):
            modules = parts.get("modules", {}).get(part, {})
            if modules:
                named = list(modules.items())[:NAMED]
                rest = 1 - sum(share for _, share in named)
                shown = [f"`{m}` {share * parts[key]:.1f}" for m, share in named]
                shown.append(f"others {rest * parts[key]:.1f}")
                lines += ["", f"taskq on {broker}, {part}: {', '.join(shown)}."]
    return "\n".join(lines)
