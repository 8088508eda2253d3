"""Puts the figures of a run into docs/performance.md: what stands between its markers, no more."""

from __future__ import annotations

import re
from pathlib import Path

import costs
import picture
import scenarios
from figures import Figures
from table import build_markdown


def write(figures: Figures, folder: Path) -> None:
    """Replace each block this run has figures for; the words around them are people's."""
    page = folder / "performance.md"
    text = page.read_text(encoding="utf-8")
    if figures.rounds:
        text = replace(text, "run", build_about(figures))
        picture.draw(figures, folder / "performance.png")
    for name in scenarios.ORDER:
        if any(row[0] == name for row in figures.rounds):
            text = replace(text, name, build_markdown(figures, name))
    if figures.costs:
        text = replace(text, "costs", costs.build_text(figures.costs))
    page.write_text(text, encoding="utf-8")


def replace(text: str, name: str, content: str) -> str:
    """Put content between `<!-- bench: NAME -->` and `<!-- /bench -->`."""
    begin, end = f"<!-- bench: {name} -->", "<!-- /bench -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.S)
    if not pattern.search(text):
        raise SystemExit(f"docs/performance.md has no block {begin} ... {end}")
    return pattern.sub(lambda _: f"{begin}\n{content}\n{end}", text)


def build_about(figures: Figures) -> str:
    """Where and with what the run was made."""
    about = figures.about
    rounds = max(len(each) for libraries in figures.rounds.values() for each in libraries.values())
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    lines = [
        f"{about['when']}: {rounds} rounds, Python {about['python']}, {about['system']}.",
        f"{versions}.",
        "",
        *(f"- {name}: {setting}" for name, setting in about["settings"].items()),
    ]
    return "\n".join(lines)
