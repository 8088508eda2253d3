"""This file is what `taskq` and `python -m taskq` run."""

from __future__ import annotations

from taskq.bin.main import main as run

__all__ = ("main",)


def main() -> None:
    """Run the command line; never returns."""
    run()


if __name__ == "__main__":
    main()
