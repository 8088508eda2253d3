"""Collections that forget the oldest first."""

from __future__ import annotations

import pickle

import pytest

from taskq.utils.bounded import BufferMap, LimitedSet, Messagebuffer


def filled(**kwargs: float) -> LimitedSet:
    items = LimitedSet(**kwargs)  # type: ignore[arg-type]  # all numbers
    for now, item in enumerate("abcd", 1):
        items.add(item, now=now)
    return items


def test_too_many_items() -> None:
    items = filled(maxlen=3)
    assert list(items) == ["b", "c", "d"]
    assert "a" not in items
    assert items.as_dict() == {"b": 2, "c": 3, "d": 4}
    items.add("b", now=5)
    assert list(items) == ["c", "d", "b"]
    assert items.pop() == "c"
    assert len(items) == 2


def test_too_old_items() -> None:
    items = filled(expires=10, minlen=1)
    items.purge(now=12.5)
    assert list(items) == ["c", "d"]
    items.purge(now=1000)
    assert list(items) == ["d"]


def test_removed_items_do_not_come_back() -> None:
    items = filled()
    items.discard("a")
    items.pop_value("b")
    items.discard("nothing")
    items.add("a", now=9)
    assert [items.pop() for _ in range(4)] == ["c", "d", "a", None]
    assert items.pop(5) == 5
    assert not items


def test_update_from_sets_mappings_and_lists() -> None:
    items = LimitedSet(maxlen=5)
    items.update(filled())
    items.update({"e": 0.5})
    items.update(["f"])
    assert list(items) == ["a", "b", "c", "d", "f"]
    items.update(None)
    with pytest.raises(ValueError, match="Expecting float timestamp"):
        items.update({"g": "yesterday"})
    items.clear()
    assert len(items) == 0


def test_sets_can_be_compared_and_pickled() -> None:
    items = filled(maxlen=3, minlen=2)
    copy = pickle.loads(pickle.dumps(items))
    assert copy == items
    assert (copy.maxlen, copy.expires, copy.minlen) == (3, 0, 2)
    assert items != 3
    assert repr(items) == "<LimitedSet(3): maxlen=3, expires=0, minlen=2>"


@pytest.mark.parametrize("kwargs", [{"maxlen": 1, "minlen": 2}, {"maxlen": -1}, {"expires": -1}])
def test_impossible_limits(kwargs: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        LimitedSet(**kwargs)


def test_stale_entries_do_not_pile_up() -> None:
    items = LimitedSet()
    for now in range(1, 2000):
        items.add("one", now=now)
        items.add("two", now=now)
    assert len(items._heap) < 10


def test_a_buffer_drops_its_oldest() -> None:
    buffer = Messagebuffer(2, ["a"])
    buffer.put("b")
    buffer.put("c")
    assert (len(buffer), buffer[0], "b" in buffer) == (2, "b", True)
    buffer.extend("de")
    assert repr(buffer) == "<Messagebuffer: 2/2>"
    assert buffer.take() == "d"
    assert list(buffer) == ["e"]
    assert buffer.take(None) is None
    with pytest.raises(buffer.Empty):
        buffer.take()
    buffer.evict()


def test_buffers_share_a_limit() -> None:
    buffers = BufferMap(3)
    buffers.put("a", 1)
    buffers.put("a", 2)
    buffers.put("b", 3)
    assert buffers.total == 3
    buffers.put("b", 4)
    assert (buffers.total, list(buffers["a"].data)) == (3, [2])
    assert buffers.take("a") == 2
    assert buffers.take("a", None) is None
    with pytest.raises(buffers.Empty):
        buffers.take("a")
    buffers.extend("c", [1, 2, 3, 4])
    assert buffers.total == 3
    assert repr(buffers) == "<BufferMap: 3/3>"
    single = BufferMap(10, bufmaxsize=2)
    single.extend("a", range(5))
    assert single.total == 2
