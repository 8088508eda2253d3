"""The figures as one picture: each library beside Celery (or beside taskq, where Celery is not)."""

from __future__ import annotations

from pathlib import Path

import scenarios
from figures import Figures, Row

COLOURS = {
    "taskq": "#1f6feb",
    "celery": "#9aa4b2",
    "huey": "#c7a252",
    "dramatiq": "#b0708a",
    "taskiq": "#6d9f71",
}


def advantage(figures: Figures, row: Row, library: str) -> float | None:
    """How many times better than Celery; more is better, whatever the unit."""
    reference = "celery" if figures.series(row, "celery") else "taskq"
    mine, theirs = figures.median(row, library), figures.median(row, reference)
    if mine is None or theirs is None:
        return None
    # A worker that does not grow at all is infinitely better: the picture ends somewhere.
    more = scenarios.load(row[0]).BETTER == "more"
    return mine / max(theirs, 1e-3) if more else min(theirs / max(mine, 1e-3), 1000.0)


def draw(figures: Figures, path: Path) -> None:
    """Write the picture; without matplotlib, say so."""
    try:
        import matplotlib
    except ImportError:
        print("no picture: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = list(figures.rounds)[::-1]
    canvas, axes = pyplot.subplots(figsize=(9, 1 + 0.62 * len(rows)))
    for index, library in enumerate(scenarios.ALL_LIBRARIES[::-1]):
        points = [(at, advantage(figures, row, library)) for at, row in enumerate(rows)]
        shown = [(at + (index - 2) * 0.16, value) for at, value in points if value]
        if not shown:
            continue
        places, values = zip(*shown, strict=True)
        bars = axes.barh(places, values, height=0.15, color=COLOURS[library], label=library)
        axes.bar_label(bars, fmt="%.2g", fontsize=6, padding=2)
    names = [f"{scenarios.load(name).TITLE}\n{broker}" for name, broker in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.6)
    axes.set_xlabel("times better than Celery in the same run (than taskq where Celery is not)")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], fontsize=7, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    canvas.tight_layout()
    canvas.savefig(path, dpi=130)
    pyplot.close(canvas)
