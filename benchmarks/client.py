"""A client: `client.py SCENARIO NUMBER...` prints what `in_client` there gives, as JSON."""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

from libraries import LIBRARIES


def load_library() -> Any:
    """The module of the library this process is for."""
    return importlib.import_module(LIBRARIES[os.environ["BENCH_LIBRARY"]].module)


def main() -> None:
    scenario, *arguments = sys.argv[1:]
    module = importlib.import_module(f"scenarios.{scenario}")
    print(json.dumps(module.in_client(load_library, *map(int, arguments))))


if __name__ == "__main__":
    main()
