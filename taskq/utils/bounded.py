"""Collections that forget: sets with a size and an age, buffers that drop their oldest items."""

from __future__ import annotations

import heapq
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from queue import Empty
from typing import Any

__all__ = ("BufferMap", "Evictable", "LimitedSet", "Messagebuffer")


class LimitedSet:
    """A set whose oldest items go when there are too many, or when they are too old.

    Arguments:
        maxlen: how many items it holds at most; 0 is no limit.
        expires: seconds after which an item may go; 0 is never.
        data: items to begin with: a set, a mapping of item to time, or any iterable.
        minlen: as long as it is no larger than this, nothing goes for its age.

    How it works
        `_data` maps items to (time, item); `_heap` holds the same pairs, the oldest first. An item
        that was added again or removed leaves its old pair in the heap, recognised because
        `_data` does not hold that very pair. The heap is rebuilt when too much of it is stale.
    """

    #: Stale part of the heap, in per cent of the items, at which it is rebuilt.
    max_heap_percent_overload = 15

    def __init__(
        self, maxlen: int = 0, expires: float = 0, data: Any = None, minlen: int = 0
    ) -> None:
        self.maxlen = maxlen or 0
        self.minlen = minlen or 0
        self.expires = expires or 0
        self._data: dict[Any, tuple[float, Any]] = {}
        self._heap: list[tuple[float, Any]] = []
        if self.maxlen < 0 or self.minlen < 0 or (self.maxlen and self.minlen > self.maxlen):
            raise ValueError(
                "minlen must be a positive number, less or equal to maxlen: "
                f"got minlen={minlen!r}, maxlen={maxlen!r}"
            )
        if self.expires < 0:
            raise ValueError(f"expires cannot be negative: {expires!r}")
        if data:
            self.update(data)

    def _refresh_heap(self) -> None:
        self._heap[:] = self._data.values()
        heapq.heapify(self._heap)

    def clear(self) -> None:
        """Remove all items."""
        self._data.clear()
        self._heap.clear()

    def add(self, item: Any, now: float | None = None) -> None:
        """Add an item, or make it as young as `now` (epoch seconds)."""
        now = now or time.time()
        entry = (now, item)
        self._data[item] = entry
        heapq.heappush(self._heap, entry)
        if self.maxlen and len(self._data) >= self.maxlen:
            self.purge()
        elif self._heap_overload >= self.max_heap_percent_overload:
            self._refresh_heap()

    def update(self, other: Any) -> None:
        """Add the items of another set, of a mapping {item: time}, or of any iterable.

        Raises:
            ValueError: a time is not a number.
        """
        if not other:
            return
        if isinstance(other, LimitedSet):
            self._data.update(other._data)
        elif isinstance(other, Mapping):
            for item, inserted in other.items():
                self._data[item] = (_epoch_seconds(inserted), item)
        else:
            for item in other:
                self.add(item)
            return
        self._refresh_heap()
        self.purge()

    def discard(self, item: Any) -> None:
        """Remove an item if it is there."""
        self.pop_value(item)

    def pop_value(self, item: Any) -> None:
        """Remove an item if it is there."""
        # Its pair stays in the heap and is recognised there as stale.
        self._data.pop(item, None)
        if self._heap_overload >= self.max_heap_percent_overload:
            self._refresh_heap()

    def purge(self, now: float | None = None) -> None:
        """Remove the items that are too many or too old at `now` (epoch seconds)."""
        now = now or time.time()
        if self.maxlen:
            while len(self._data) > self.maxlen:
                self.pop()
        if self.expires:
            while len(self._data) > self.minlen and self._oldest() + self.expires <= now:
                self.pop()

    def _oldest(self) -> float:
        while self._heap and self._data.get(self._heap[0][1]) is not self._heap[0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else float("inf")

    def pop(self, default: Any = None) -> Any:
        """Remove and give the oldest item, or `default` if there is none."""
        while self._heap:
            entry = heapq.heappop(self._heap)
            item = entry[1]
            # The pair itself, not an equal one: an item may have been removed and added again.
            if self._data.get(item) is entry:
                del self._data[item]
                return item
        return default

    def as_dict(self) -> dict[Any, float]:
        """{item: time it was added}."""
        return {item: inserted for inserted, item in self._data.values()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LimitedSet) and self._data == other._data

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__}({len(self)}): maxlen={self.maxlen}, "
            f"expires={self.expires}, minlen={self.minlen}>"
        )

    def __iter__(self) -> Iterator[Any]:
        return (item for _, item in sorted(self._data.values(), key=lambda entry: entry[0]))

    def __len__(self) -> int:
        return len(self._data)

    def __contains__(self, key: Any) -> bool:
        return key in self._data

    def __reduce__(self) -> tuple[type[LimitedSet], tuple[Any, ...]]:
        return self.__class__, (self.maxlen, self.expires, self.as_dict(), self.minlen)

    def __bool__(self) -> bool:
        return bool(self._data)

    @property
    def _heap_overload(self) -> float:
        """How much of the heap is stale, in per cent of the items."""
        return len(self._heap) * 100 / max(len(self._data), 1) - 100


def _epoch_seconds(value: Any) -> float:
    if isinstance(value, (int, float)):
        return float(value)
    raise ValueError(
        f"Expecting float timestamp, got type {type(value)!r} with value: {value!r}"
    )


class Evictable:
    """Something that can drop its oldest item."""

    Empty = Empty

    def evict(self) -> None:
        """Drop the oldest item, unless there is none."""
        try:
            self._evict()
        except IndexError:
            pass

    def _evict(self) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define _evict()")


class Messagebuffer(Evictable):
    """A queue of at most `maxsize` items: a further one drops the oldest.

    Arguments:
        iterable: items to begin with.
        deque: the class that holds them.
    """

    def __init__(self, maxsize: int | None, iterable: Any = None, deque: Any = deque) -> None:
        self.maxsize = maxsize
        self.data = deque(iterable or [])

    def put(self, item: Any) -> None:
        """Add an item at the end."""
        self.data.append(item)
        self._drop_surplus()

    def extend(self, it: Iterable[Any]) -> None:
        """Add several items."""
        self.data.extend(it)
        self._drop_surplus()

    def _drop_surplus(self) -> None:
        while self.maxsize and len(self.data) > self.maxsize:
            self.evict()

    def take(self, *default: Any) -> Any:
        """Remove and give the oldest item; without one `default`, or Empty is raised."""
        try:
            return self.data.popleft()
        except IndexError:
            if default:
                return default[0]
            raise self.Empty() from None

    def _evict(self) -> None:
        self.data.popleft()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)}/{self.maxsize}>"

    def __iter__(self) -> Iterator[Any]:
        """Takes the items, oldest first."""
        while True:
            try:
                yield self.data.popleft()
            except IndexError:
                return

    def __len__(self) -> int:
        return len(self.data)

    def __contains__(self, item: Any) -> bool:
        return item in self.data

    def __reversed__(self) -> Iterator[Any]:
        while True:
            try:
                yield self.data.pop()
            except IndexError:
                return

    def __getitem__(self, index: int) -> Any:
        return self.data[index]


class BufferMap(OrderedDict[Any, Messagebuffer], Evictable):
    """A buffer per key, with at most `maxsize` items in all of them together.

    Arguments:
        bufmaxsize: size of each buffer.
    """

    Buffer = Messagebuffer
    maxsize: int | None = None
    #: Items in all buffers.
    total = 0
    bufmaxsize: int | None = None

    def __init__(
        self, maxsize: int | None, iterable: Any = None, bufmaxsize: int | None = 1000
    ) -> None:
        super().__init__()
        self.maxsize = maxsize
        self.bufmaxsize = bufmaxsize
        if iterable:
            self.update(iterable)
        self.total = sum(len(buf) for buf in self.values())

    def put(self, key: Any, item: Any) -> None:
        """Add an item to the buffer of a key; the least used buffer pays for it."""
        self._buffer(key)
        self.move_to_end(key)
        self.extend(key, (item,))

    def extend(self, key: Any, it: Iterable[Any]) -> None:
        """Add several items to the buffer of a key."""
        buf = self._buffer(key)
        before = len(buf)
        buf.extend(it)
        # Not the number of items: a full buffer has dropped some of its own.
        self.total += len(buf) - before
        self._drop_surplus()

    def take(self, key: Any, *default: Any) -> Any:
        """Remove and give the oldest item of a key; without one `default`, or Empty is raised."""
        buf = self.get(key)
        if not buf:
            self.pop(key, None)
            if default:
                return default[0]
            raise self.Empty()
        item = buf.take()
        self.total -= 1
        self.move_to_end(key)
        if not buf:
            del self[key]
        return item

    def _buffer(self, key: Any) -> Messagebuffer:
        try:
            return self[key]
        except KeyError:
            buf = self[key] = self.Buffer(maxsize=self.bufmaxsize)
            return buf

    def _drop_surplus(self) -> None:
        while self.maxsize is not None and self.total > self.maxsize:
            self.evict()

    def _evict(self) -> None:
        while self:
            key, buf = next(iter(self.items()))
            dropped = len(buf)
            buf.evict()
            if not buf:
                del self[key]
            if dropped:
                self.total -= 1
                return

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.total}/{self.maxsize}>"
