"""Look, pause, look again."""

from __future__ import annotations

from typing import Any

from taskq import Celery
from taskq.backends.base import KeyValueStoreBackend
from taskq.backends.waiting import Patience


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_patience_ends_at_the_timeout() -> None:
    clock = Clock()
    patience = Patience(2, 0.5, None, clock)
    assert not patience.spent()
    clock.now = 102
    assert patience.spent()
    assert not Patience(None, 0.5, None, clock).spent()
    assert Patience(0, 0.5, None, clock).spent()


def test_pauses_last_an_interval_but_not_beyond_the_end() -> None:
    clock = Clock()
    patience = Patience(1.2, 0.5, None, clock)
    assert patience.next_pause() == 0.5
    clock.now += 0.2  # woken early by a change that was not for us
    assert abs(patience.next_pause() - 0.3) < 1e-9
    clock.now += 0.9
    assert abs(patience.next_pause() - 0.1) < 1e-9
    clock.now += 1
    assert patience.next_pause() == 0
    assert Patience(None, None, None, clock).next_pause() == 0.5


def test_on_interval_is_called_once_per_interval() -> None:
    clock, calls = Clock(), []
    patience = Patience(None, 0.5, lambda: calls.append(clock.now), clock)
    for moment in (0.0, 0.1, 0.4, 0.5, 0.9, 1.3):
        clock.now = 100 + moment
        patience.next_pause()
    assert calls == [100.0, 100.5, 101.3]


def test_a_store_that_notices_nothing_is_asked_every_interval() -> None:
    class Slow(KeyValueStoreBackend):
        looks = 0
        pauses: list[float] = []

        def get(self, key: Any) -> Any:
            self.looks += 1
            return self.encode({"status": "SUCCESS", "result": 7}) if self.looks == 4 else None

        def wait_for_change(self, mark: Any, seconds: float) -> None:
            assert mark is None
            self.pauses.append(seconds)

    backend = Slow(Celery("slow", set_as_current=False))
    assert backend.wait_for("a", interval=0.25)["result"] == 7
    assert len(backend.pauses) == 3
    assert all(0 < pause <= 0.25 for pause in backend.pauses)
    assert backend.is_async is False
