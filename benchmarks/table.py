"""The figures as text: one table of all rows, or of one scenario for the document."""

from __future__ import annotations

from collections.abc import Sequence

import scenarios
from figures import Figures, Row


def number(value: float | None) -> str:
    """Three digits that mean something."""
    if value is None:
        return "-"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def cells(figures: Figures, row: Row) -> list[str]:
    """One line of the table."""
    columns = [number(figures.median(row, library)) for library in scenarios.ALL_LIBRARIES]
    ratio, peer = figures.ratio(row, "celery"), figures.best_peer(row)
    beside = f"{number(figures.ratio(row, 'peers'))} ({peer})" if peer else "-"
    verdicts = [
        "not measured" if met is None else f"{bar}: {'met' if met else 'NOT MET'}"
        for bar, _, met in figures.judge(row)
    ]
    return [*columns, number(ratio), beside, "; ".join(verdicts) or "-"]


def head() -> list[str]:
    return [*scenarios.ALL_LIBRARIES, "/ celery", "/ best peer", "bar"]


def build_table(figures: Figures) -> str:
    """All rows, aligned."""
    lines = [["scenario", "broker", "unit", *head()]]
    for row in figures.rounds:
        scenario = scenarios.load(row[0])
        lines.append([scenario.TITLE, row[1], scenario.UNIT, *cells(figures, row)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(_align(line, widths) for line in lines)


def _align(line: Sequence[str], widths: Sequence[int]) -> str:
    pairs = enumerate(zip(line, widths, strict=True))
    words = (f"{word:{width if at < 3 else f'>{width}'}}" for at, (word, width) in pairs)
    return "  ".join(words).rstrip()


def build_markdown(figures: Figures, name: str) -> str:
    """The rows of one scenario; a second figure, such as p99, gets a line of its own."""
    rows = [row for row in figures.rounds if row[0] == name]
    columns = [f"{scenarios.load(name).UNIT}", *head()]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        lines.append("| " + " | ".join([row[1], *cells(figures, row)]) + " |")
        for more in list(figures.rounds[row]["taskq"][0])[1:]:
            if more == "tasks":
                continue
            others = [number(figures.median(row, each, more)) for each in scenarios.ALL_LIBRARIES]
            lines.append("| " + " | ".join([f"{row[1]}, {more}", *others, "", "", ""]) + " |")
    return "\n".join(lines)
