"""This package is the worker: it takes messages from the broker and has their tasks run."""

from __future__ import annotations

from taskq.worker.worker import WorkController

__all__ = ("WorkController",)
