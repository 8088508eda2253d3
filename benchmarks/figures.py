"""The figures of a run: kept by round, summed up as medians and as ratios within a round."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import scenarios
from bar import BARS, Bar

PEERS = ("huey", "dramatiq", "taskiq")

#: (scenario, broker)
Row = tuple[str, str]


@dataclass
class Figures:
    """All rounds of all rows; `about` says where and with what they were measured."""

    about: dict[str, Any]
    rounds: dict[Row, dict[str, list[dict[str, float]]]] = field(default_factory=dict)
    costs: dict[str, Any] = field(default_factory=dict)

    def add(self, row: Row, library: str, figures: dict[str, float]) -> None:
        """Keep what one measurement gave."""
        self.rounds.setdefault(row, {}).setdefault(library, []).append(figures)

    # -- reading

    def series(self, row: Row, library: str) -> list[float]:
        """The compared figure of each round."""
        return [next(iter(each.values())) for each in self.rounds.get(row, {}).get(library, [])]

    def median(self, row: Row, library: str, name: str = "") -> float | None:
        """The median over the rounds, of the compared figure or of the one named."""
        measured = self.rounds.get(row, {}).get(library)
        if not measured:
            return None
        return statistics.median(each[name or next(iter(each))] for each in measured)

    def best_peer(self, row: Row) -> str | None:
        """Which of the three is the best in this row."""
        medians = {peer: self.median(row, peer) for peer in PEERS}
        known = {peer: value for peer, value in medians.items() if value is not None}
        choose = max if scenarios.load(row[0]).BETTER == "more" else min
        return choose(known, key=known.__getitem__) if known else None

    def ratio(self, row: Row, against: str) -> float | None:
        """taskq's figure by the other's: the median of the ratios of each round."""
        other = self.best_peer(row) if against == "peers" else against
        pairs = list(zip(self.series(row, "taskq"), self.series(row, other or ""), strict=False))
        if not pairs:
            return None
        return statistics.median(mine / theirs if theirs else math.inf for mine, theirs in pairs)

    def judge(self, row: Row) -> Iterator[tuple[Bar, float | None, bool | None]]:
        """Each bar of a row, what was measured for it, and whether it is met."""
        for bar in BARS:
            if (bar.scenario, bar.broker) == row:
                value = self.ratio(row, bar.against) if bar.against else self.median(row, "taskq")
                yield bar, value, None if value is None else bar.is_met(value)

    # -- keeping

    def write(self, path: Path) -> None:
        """As one JSON file."""
        rows = [
            {"scenario": row[0], "broker": row[1], "rounds": rounds}
            for row, rounds in self.rounds.items()
        ]
        bars = [
            {"scenario": row[0], "broker": row[1], "bar": str(bar), "measured": value, "met": met}
            for row in self.rounds
            for bar, value, met in self.judge(row)
        ]
        content = {"about": self.about, "rows": rows, "bars": bars, "costs": self.costs}
        path.write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Figures:
        """What `write` has written."""
        content = json.loads(path.read_text())
        rounds = {(row["scenario"], row["broker"]): row["rounds"] for row in content["rows"]}
        return cls(content["about"], rounds, content["costs"])
