"""Run every scenario for taskq and for Celery in turn, and print medians and ratios."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCENARIOS = {"import": True, "delay": True, "run": True, "embedded": False}


def measure(package: str, scenario: str) -> float:
    command = [sys.executable, str(HERE / "scenarios.py"), package, scenario]
    # Compiled code is kept, as it is wherever a package was installed.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"{'scenario':10} {'taskq us':>10} {'celery us':>10} {'celery/taskq':>13}")
    for scenario, has_peer in SCENARIOS.items():
        measure("taskq", scenario)  # not counted: compiles what is new
        ours, theirs = [], []
        for _ in range(options.rounds):
            ours.append(measure("taskq", scenario))
            if has_peer:
                theirs.append(measure("celery", scenario))
        mine = statistics.median(ours) * 1e6
        if not theirs:
            print(f"{scenario:10} {mine:10.1f} {'-':>10} {'-':>13}")
            continue
        peer = statistics.median(theirs) * 1e6
        ratio = statistics.median(t / o for t, o in zip(theirs, ours, strict=True))
        print(f"{scenario:10} {mine:10.1f} {peer:10.1f} {ratio:13.2f}")


if __name__ == "__main__":
    main()
