"""This package builds workflows: signatures of calls, and chains and groups made of them."""

from __future__ import annotations

from taskq.canvas.chains import _chain, chain
from taskq.canvas.groups import group
from taskq.canvas.signatures import (
    Signature,
    maybe_signature,
    maybe_subtask,
    maybe_unroll_group,
    signature,
    subtask,
    task_name_from,
)

__all__ = [
    "Signature",
    "_chain",
    "chain",
    "group",
    "maybe_signature",
    "maybe_subtask",
    "maybe_unroll_group",
    "signature",
    "subtask",
    "task_name_from",
]
