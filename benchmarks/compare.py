"""Measure taskq beside Celery, huey, dramatiq and taskiq in one run of interleaved rounds.

    compare.py                              everything, three rounds
    compare.py --only drain,publish --brokers redis --size 4000
    compare.py --profile                    only: microseconds of parent, child, client per task
    compare.py --load build/bench/figures.json --write-docs
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import costs
import documents
import picture
import scenarios
from figures import Figures
from ground import Ground
from libraries import LIBRARIES
from side import ROOT, open_side
from table import build_table


def read_options() -> argparse.Namespace:
    def names(known: Any) -> Any:
        def split(text: str) -> list[str]:
            wrong = set(text.split(",")) - set(known)
            if wrong:
                text = f"{', '.join(wrong)}: not one of {', '.join(known)}"
                raise argparse.ArgumentTypeError(text)
            return text.split(",")

        return split

    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    add = parser.add_argument
    add("--rounds", type=int, default=3, help="of each row; medians are printed (default: 3)")
    add("--size", type=int, default=20_000, help="tasks of taskq in a drain (default: 20000)")
    add("--only", type=names(scenarios.ORDER), default=list(scenarios.ORDER), metavar="SCENARIOS")
    add("--brokers", type=names(scenarios.ALL_BROKERS), default=list(scenarios.ALL_BROKERS))
    add("--libraries", type=names(LIBRARIES), default=list(LIBRARIES))
    add("--python", default=sys.executable, help="the interpreter that has the libraries")
    add("--output", type=Path, default=ROOT / "build" / "bench", help="folder of JSON and picture")
    add("--profile", action="store_true", help="say where the time of one task goes, nothing else")
    add("--load", type=Path, help="measure nothing: take the figures of this JSON file")
    add("--write-docs", action="store_true", help="put the figures into docs/performance.md")
    return parser.parse_args()


#: Run by the Python that is measured, which need not be the one that measures.
_VERSIONS = """
import json, sys
from importlib.metadata import PackageNotFoundError, version

def installed(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"

print(json.dumps({name: installed(name) for name in sys.argv[1:]}))
"""


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """Where and with what this run is made."""
    names = list(dict.fromkeys(p for name in options.libraries for p in LIBRARIES[name].packages))
    told = subprocess.check_output([options.python, "-c", _VERSIONS, *names], text=True, cwd=ROOT)
    return {
        "when": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "load at the start": round(os.getloadavg()[0], 2),
        "versions": json.loads(told),
        "settings": {name: LIBRARIES[name].setting for name in options.libraries},
    }


def measure_all(options: argparse.Namespace, figures: Figures, ground: Ground) -> None:
    """Every row of the table: in each round every library once, another one first each time."""
    for name in options.only:
        scenario = scenarios.load(name)
        for broker in (b for b in scenario.BROKERS if b in options.brokers):
            libraries = [
                library
                for library in scenario.LIBRARIES
                if library in options.libraries and broker in LIBRARIES[library].brokers
            ]
            for turn in range(options.rounds):
                first = turn % len(libraries)
                for library in libraries[first:] + libraries[:first]:
                    with open_side(ground, library, broker, scenario.RESULTS) as side:
                        measured = scenario.measure(side, options.size)
                    figures.add((name, broker), library, measured)
                    shown = ", ".join(f"{value:.4g} {key}" for key, value in measured.items())
                    print(f"{name} {turn + 1} {side}: {shown}", file=sys.stderr, flush=True)
                    # What a run that is ended has measured is kept: `--load` shows it.
                    figures.write(options.output / "figures.json")


def main() -> None:
    options = read_options()
    # Asked to end, it ends its workers and servers, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    options.output.mkdir(parents=True, exist_ok=True)
    kept = options.output / "figures.json"
    if options.load:
        figures = Figures.read(options.load)
    else:
        figures = Figures(describe(options))
        ground = Ground(options.brokers, options.python)
        try:
            if not options.profile:
                measure_all(options, figures, ground)
            if options.profile or options.write_docs:
                figures.costs = costs.measure(ground, options)
        finally:
            ground.close()
    if figures.rounds:
        print(build_table(figures))
        picture.draw(figures, options.output / "figures.png")
        figures.write(kept)
        print(f"\n{kept}, {kept.with_suffix('.png').name}")
    if figures.costs:
        print(costs.build_text(figures.costs))
    if options.write_docs:
        documents.write(figures, ROOT / "docs")


if __name__ == "__main__":
    main()
