"""Where a benchmarked process is: what `side.py` has put into its environment."""

from __future__ import annotations

import os

LIBRARY = os.environ["BENCH_LIBRARY"]
BROKER = os.environ["BENCH_BROKER"]
#: Where results go; empty: nowhere.
RESULTS = os.environ.get("BENCH_RESULTS", "")
#: The folder of this measurement: counters, logs, the embedded database.
FOLDER = os.environ["BENCH_FOLDER"]
PROFILE = bool(os.environ.get("BENCH_PROFILE"))
