"""Mappings in layers and objects that look like mappings; bounded collections are answered too."""

from __future__ import annotations

from collections import OrderedDict as _OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from itertools import chain
from typing import Any

from taskq.utils.bounded import BufferMap, Evictable, LimitedSet, Messagebuffer
from taskq.utils.functional import uniq

__all__ = (
    "AttributeDict",
    "AttributeDictMixin",
    "BufferMap",
    "ChainMap",
    "ConfigurationView",
    "DictAttribute",
    "Evictable",
    "LimitedSet",
    "Messagebuffer",
    "OrderedDict",
    "force_mapping",
    "lpmerge",
)


def force_mapping(m: Any) -> Any:
    """`m` as a mapping: objects are wrapped, mappings come back as they are."""
    return m if isinstance(m, Mapping) else DictAttribute(m)


def lpmerge(L: dict[Any, Any], R: Mapping[Any, Any]) -> dict[Any, Any]:
    """Update `L` in place by all values of `R` that are not None; gives `L`."""
    L.update({key: value for key, value in R.items() if value is not None})
    return L


class OrderedDict(_OrderedDict[Any, Any]):
    """Kept for its name; a dict keeps its order by itself."""


class AttributeDictMixin:
    """Items of the mapping are attributes too."""

    def __getattr__(self, k: str) -> Any:
        try:
            return self[k]  # type: ignore[index]  # mixed into mappings
        except KeyError:
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {k!r}"
            ) from None

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value


class AttributeDict(dict[Any, Any], AttributeDictMixin):
    """A dict whose items are attributes too."""


class DictAttribute:
    """The attributes of an object as items of a mapping."""

    obj: Any = None

    def __init__(self, obj: Any) -> None:
        object.__setattr__(self, "obj", obj)

    def __getattr__(self, key: str) -> Any:
        return getattr(self.obj, key)

    def __setattr__(self, key: str, value: Any) -> None:
        setattr(self.obj, key, value)

    def get(self, key: str, default: Any = None) -> Any:
        """The attribute, or `default`."""
        return getattr(self.obj, key, default)

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The attribute; set to `default` first if there is none."""
        if key not in self:
            self[key] = default
        return self[key]

    def __getitem__(self, key: str) -> Any:
        try:
            return getattr(self.obj, key)
        except AttributeError:
            raise KeyError(key) from None

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self.obj, key, value)

    def __contains__(self, key: str) -> bool:
        return hasattr(self.obj, key)

    def keys(self) -> Iterator[str]:
        """Names of all attributes."""
        return iter(dir(self.obj))

    __iter__ = keys
    iterkeys = keys

    def values(self) -> Iterator[Any]:
        """Values of all attributes."""
        return (getattr(self.obj, key) for key in dir(self.obj))

    itervalues = values

    def items(self) -> Iterator[tuple[str, Any]]:
        """(name, value) of all attributes."""
        return ((key, getattr(self.obj, key)) for key in dir(self.obj))

    iteritems = items


MutableMapping.register(DictAttribute)


class ChainMap(MutableMapping[Any, Any]):
    """Several mappings as one: read from the first that has the key, write to the first.

    Arguments:
        key_t: applied to every key before it is looked up.
    """

    key_t: Callable[[Any], Any] | None = None
    changes: Any = None
    defaults: Any = None
    maps: Any = None
    _observers: list[Callable[..., Any]]

    def __init__(self, *maps: Any, **kwargs: Any) -> None:
        layers = list(maps or [{}])
        self.__dict__.update(
            key_t=kwargs.get("key_t"),
            maps=layers,
            changes=layers[0],
            defaults=layers[1:],
            _observers=[],
        )

    def add_defaults(self, d: Any) -> None:
        """Put a layer right below the changes."""
        layer = force_mapping(d)
        self.defaults.insert(0, layer)
        self.maps.insert(1, layer)

    def _key(self, key: Any) -> Any:
        return self.key_t(key) if self.key_t is not None else key

    def pop(self, key: Any, *default: Any) -> Any:
        """Take a key out of the changes."""
        try:
            return self.maps[0].pop(key, *default)
        except KeyError:
            raise KeyError(f"Key not found in the first mapping: {key!r}") from None

    def __getitem__(self, key: Any) -> Any:
        wanted = self._key(key)
        for mapping in self.maps:
            try:
                return mapping[wanted]
            except KeyError:
                pass
        raise KeyError(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.changes[self._key(key)] = value

    def __delitem__(self, key: Any) -> None:
        try:
            del self.changes[self._key(key)]
        except KeyError:
            raise KeyError(f"Key not found in first mapping: {key!r}") from None

    def clear(self) -> None:
        """Forget the changes."""
        self.changes.clear()

    def __len__(self) -> int:
        return len(set().union(*self.maps))

    def __iter__(self) -> Iterator[Any]:
        return self._iter_keys()

    def __contains__(self, key: Any) -> bool:
        wanted = self._key(key)
        return any(wanted in mapping for mapping in self.maps)

    def __bool__(self) -> bool:
        return any(self.maps)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.maps))})"

    def setdefault(self, key: Any, default: Any = None) -> None:
        """Set a key that no layer has."""
        if self._key(key) not in self:
            self[key] = default

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Change several keys, and tell who observes."""
        self.changes.update(*args, **kwargs)
        for callback in self._observers:
            callback(*args, **kwargs)

    @classmethod
    def fromkeys(cls, iterable: Iterable[Any], *args: Any) -> ChainMap:
        """A chain of one mapping with these keys."""
        return cls(dict.fromkeys(iterable, *args))

    def copy(self) -> ChainMap:
        """The same layers under a copy of the changes."""
        return self.__class__(self.maps[0].copy(), *self.maps[1:])

    __copy__ = copy

    def _iter_keys(self) -> Iterator[Any]:
        # Lowest layer first: later ones add their keys behind it.
        return uniq(chain.from_iterable(iter(mapping) for mapping in reversed(self.maps)))

    def _iter_items(self) -> Iterator[tuple[Any, Any]]:
        return ((key, self[key]) for key in self)

    def _iter_values(self) -> Iterator[Any]:
        return (self[key] for key in self)

    def bind_to(self, callback: Callable[..., Any]) -> None:
        """Call `callback` with the arguments of every update."""
        self._observers.append(callback)

    keys = iterkeys = _iter_keys  # type: ignore[assignment]  # iterators, as in Celery
    items = iteritems = _iter_items  # type: ignore[assignment]  # iterators, as in Celery
    values = itervalues = _iter_values  # type: ignore[assignment]  # iterators, as in Celery


class ConfigurationView(ChainMap, AttributeDictMixin):
    """Changes over defaults, with more than one spelling for a key.

    Arguments:
        changes: what was set.
        defaults: layers below, first one first.
        keys: functions from a key to the keys it may also be spelled as.
        prefix: what keys in the layers may begin with.
    """

    def __init__(
        self, changes: Any, defaults: Any = None, keys: Any = None, prefix: str | None = None
    ) -> None:
        layers = [] if defaults is None else defaults
        super().__init__(changes, *layers)
        self.__dict__.update(
            prefix=prefix.rstrip("_") + "_" if prefix else prefix,
            _keys=keys,
        )

    def _to_keys(self, key: Any) -> tuple[Any, ...]:
        prefix = self.prefix
        if prefix:
            bare = prefix + key if not key.startswith(prefix) else key
            return match_case(bare, prefix), key
        return (key,)

    def _spellings(self, key: Any) -> Iterator[Any]:
        keys = self._to_keys(key)
        yield from keys
        for respell in self._keys or ():
            yield from (respell(known) for known in keys)

    def __getitem__(self, key: Any) -> Any:
        for spelling in self._spellings(key):
            try:
                return super().__getitem__(spelling)
            except KeyError:
                pass
        raise KeyError(key)

    def first(self, *keys: Any) -> Any:
        """The first value that is not None among these keys."""
        return next((self[key] for key in keys if self.get(key) is not None), None)

    def __contains__(self, key: Any) -> bool:
        return any(
            spelling in mapping for spelling in self._spellings(key) for mapping in self.maps
        )

    def swap_with(self, other: ConfigurationView) -> None:
        """Become what `other` is."""
        changes, defaults = other.__dict__["changes"], other.__dict__["defaults"]
        self.__dict__.update(
            changes=changes,
            defaults=defaults,
            key_t=other.__dict__["key_t"],
            prefix=other.__dict__["prefix"],
            maps=[changes, *defaults],
        )


def match_case(s: str, other: str) -> str:
    """`s` in upper case if `other` is, else in lower case."""
    return s.upper() if other.isupper() else s.lower()
