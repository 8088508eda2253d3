"""This package takes messages from the broker: `Consumer`, and the steps it is made of."""

from __future__ import annotations

from taskq.worker.consumer.consumer import Consumer, Evloop
from taskq.worker.consumer.steps import Agent, Connection, Control, Tasks

__all__ = ("Agent", "Connection", "Consumer", "Control", "Evloop", "Tasks")
