"""Growing and shrinking a pool: when, by how much, and between which bounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from taskq.worker import autoscale, state
from taskq.worker.autoscale import Autoscaler, read_autoscale


class Pool:
    """A pool that only counts."""

    num_processes = 1
    busy = 0

    def grow(self, n: int) -> None:
        self.num_processes += n

    def shrink(self, n: int) -> None:
        for _ in range(n):
            if self.num_processes <= self.busy:
                raise ValueError("all busy")
            self.num_processes -= 1

    def maintain_pool(self) -> None:
        pass


@pytest.fixture
def reserved() -> Iterator[set[Any]]:
    yield state.reserved_requests  # type: ignore[misc]
    state.reserved_requests.clear()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(autoscale.time, "monotonic", lambda: now[0])
    return now


def test_it_grows_at_once_and_shrinks_later(reserved: set[Any], clock: list[float]) -> None:
    pool = Pool()
    scaler = Autoscaler(pool, 4, 1, keepalive=10)
    reserved.update(range(9))
    assert scaler.maybe_scale()
    assert (pool.num_processes, scaler.info()["current"], scaler.qty) == (4, 4, 9)
    assert scaler.maybe_scale() is None
    reserved.clear()
    clock[0] += 9
    scaler.maybe_scale()
    assert pool.num_processes == 4
    clock[0] += 2
    pool.busy = 2
    scaler.maybe_scale()
    assert pool.num_processes == 2
    pool.busy = 0
    scaler.maybe_scale()
    assert pool.num_processes == 1


def test_bounds_can_be_changed(reserved: set[Any]) -> None:
    pool = Pool()
    scaler = Autoscaler(pool, 4, 1)
    assert scaler.update(min=3) == (4, 3)
    assert pool.num_processes == 3
    assert scaler.update(max=2, min=0) == (2, 0)
    assert pool.num_processes == 2
    for bounds in ({"max": 1, "min": 2}, {"min": 3}, {"min": -1}, {"max": "x"}):
        with pytest.raises(ValueError, match="Expected 0 <= min <= max"):
            scaler.update(**bounds)
    assert scaler.update() == (2, 0)
    # What could not be shrunk at once is later, though nothing has grown since.
    scaler.maybe_scale()
    assert pool.num_processes == 0


@pytest.mark.parametrize(
    ("given", "read"),
    [("10,3", (10, 3)), ("3,10", (10, 3)), ("5", (5, 0)), ((2, 1), (2, 1)), ("", None)],
)
def test_what_can_be_given(given: Any, read: Any) -> None:
    assert read_autoscale(given) == read


@pytest.mark.parametrize("given", ["a", "1,b", "1,2,3", "0", "3,-1", [None]])
def test_what_cannot(given: Any) -> None:
    with pytest.raises(ValueError, match="Expected"):
        read_autoscale(given)
