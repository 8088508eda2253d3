"""What taskq asks of itself: ratios to the others in the same run, and two absolute figures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bar:
    """One figure to reach; `against`: a library, "peers" (the best of three) or "" (absolute)."""

    scenario: str
    broker: str
    against: str
    bound: float
    at_most: bool = False

    def is_met(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        unit = f" x {self.against}" if self.against else ""
        return f"{sign} {self.bound:g}{unit}"


BARS = (
    Bar("drain", "redis", "celery", 8),
    Bar("drain", "redis", "peers", 1.4),
    Bar("drain", "rabbitmq", "celery", 2),
    Bar("drain", "rabbitmq", "dramatiq", 1.3),
    Bar("drain", "sqlite", "", 5000),
    Bar("drain_results", "redis", "celery", 8),
    Bar("drain_results", "redis", "peers", 1.5),
    Bar("drain_results", "rabbitmq", "celery", 2.5),
    Bar("drain_results", "rabbitmq", "dramatiq", 1.2),
    Bar("publish", "redis", "celery", 4),
    Bar("publish", "rabbitmq", "celery", 3),
    Bar("publish", "sqlite", "", 8000),
    Bar("group", "redis", "celery", 10),
    Bar("group", "rabbitmq", "celery", 5),
    Bar("latency", "redis", "celery", 0.7, at_most=True),
    Bar("latency", "rabbitmq", "celery", 0.8, at_most=True),
    Bar("eta_memory", "redis", "", 5, at_most=True),
    Bar("eta_memory", "rabbitmq", "", 5, at_most=True),
    Bar("eta_memory", "sqlite", "", 5, at_most=True),
    Bar("idle_memory", "redis", "celery", 0.7, at_most=True),
    Bar("first_call", "redis", "celery", 1, at_most=True),
)
