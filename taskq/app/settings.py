"""An application's settings: layers of names and values, read as plain attributes.

Before the journey. `configuration.py` fills the layers; whoever needs a setting reads
`app.conf.name`.

How it works
    A value is looked for in `maps`, top down: run-time changes, what `add_defaults` added, the
    configuration source, the table of defaults. In each the setting may be spelt in several ways:
    new, old, or new with the application's prefix. The first read of an attribute looks, checks the
    type, and leaves the value in the instance's `__dict__`, so that every later read is a plain
    attribute read without a Python call; any change empties that cache. A source that may change
    by itself (an object with a mind of its own, such as Django's settings) is never cached.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from types import ModuleType
from typing import Any

from taskq.app.censor import HIDDEN_SETTINGS, MASK, filter_hidden_settings, sanitize_url
from taskq.app.defaults import OLD_NAMES, OPTIONS, find, searchresult
from taskq.app.pending import PendingConfiguration
from taskq.app.spelling import Spelling, within_two_letters
from taskq.exceptions import CDeprecationWarning, ImproperlyConfigured
from taskq.utils.collections import ConfigurationView, DictAttribute, force_mapping
from taskq.utils.text import closest, pretty

__all__ = [
    "Settings",
    "filter_hidden_settings",
    "misspelled_settings",
    "sanitize_url",
]

# What is an attribute of a Settings object itself and no setting.
_OWN = frozenset({
    "maps", "changes", "defaults", "prefix", "deprecated_settings", "key_t",
    "_keys", "_observers", "_revision", "_floor", "_spelling",
})  # fmt: skip


def _setting(read: Callable[[Any], Any]) -> Any:
    """A property which a type checker lets one assign to: Settings.__setattr__ does that."""
    return property(read)


class Settings(ConfigurationView):
    """The settings of one application, by attribute and by item, under new and old names.

    Arguments:
        changes: what was changed at run time; the object itself takes further changes.
        defaults: the layers below, the most important one first; the last is the table.
        prefix: namespace that names in the source begin with, as in CELERY_TASK_SERIALIZER.
        deprecated_settings: old names the source uses.

    Raises ImproperlyConfigured when a setting is read whose value has the wrong type.
    """

    def __init__(
        self, *args: Any, deprecated_settings: set[str] | None = None, **kwargs: Any
    ) -> None:
        self._lay(*args, **kwargs)
        self.deprecated_settings = deprecated_settings

    def _lay(
        self,
        changes: MutableMapping[str, Any] | None = None,
        defaults: Iterable[Any] | None = None,
        keys: Any = None,
        prefix: str | None = None,
    ) -> None:
        changes = {} if changes is None else changes
        layers = [force_mapping(layer) for layer in defaults or ()]
        self.__dict__.update(
            maps=[changes, *layers],
            changes=changes,
            defaults=layers,
            prefix=prefix,
            key_t=None,
            _keys=keys,
            _observers=[],
            _revision=0,
            _floor=layers[-1] if layers else {},
            _spelling=Spelling(prefix),
        )

    # -- reading

    def __getattr__(self, name: str) -> Any:
        if name in _OWN or name.startswith("__"):
            raise AttributeError(name)
        revision = self._revision
        try:
            value = self[name]
        except KeyError:
            option = OPTIONS.get(self._spelling.canonical(name))
            if option is None or option.declared:
                raise AttributeError(self._unknown(name)) from None
            value = option.default
        if self._is_steady():
            # Both orders of this and a change in another thread end without a stale value.
            self.__dict__[name] = value
            if self._revision != revision:
                self.__dict__.pop(name, None)
        return value

    def __getitem__(self, key: str) -> Any:
        name = self._spelling.canonical(key)
        value = self._raw(name)
        option = OPTIONS.get(name)
        if option is None:
            return value
        try:
            return option.read(value)
        except ValueError as exc:
            raise ImproperlyConfigured(_wrong_value(name, value, str(exc))) from None

    def first(self, *keys: str) -> Any:
        """The first value that is set and not None."""
        return next((value for key in keys if (value := self.get(key)) is not None), None)

    def __contains__(self, key: object) -> bool:
        try:
            self._raw(self._spelling.canonical(str(key)))
        except KeyError:
            return False
        return True

    def _raw(self, name: str, layers: Iterable[Any] | None = None) -> Any:
        spellings = self._spelling.of(name)
        for layer in self.maps if layers is None else layers:
            for key in spellings:
                try:
                    return layer[key]
                except KeyError:
                    pass
        if self.prefix:
            name = f"{name} (with prefix: {self._spelling.prefixed(name)})"
        raise KeyError(name)

    def _is_steady(self) -> bool:
        return all(map(_is_steady_layer, self.maps))

    def _unknown(self, name: str) -> str:
        text = f"'Settings' object has no attribute {name!r}"
        if self.prefix:
            text = f"{text} (with prefix: {self._spelling.prefixed(name)!r})"
        near = closest(name, OPTIONS)
        return f"{text}; did you mean {near!r}?" if near else text

    # -- changing

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN:
            self.__dict__[name] = value
        else:
            self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f"the setting {name!r} was not changed at run time") from None

    def __setitem__(self, key: str, value: Any) -> None:
        name = self._spelling.canonical(key)
        if type(self.changes) is dict:
            for other in self._spelling.of(name):
                self.changes.pop(other, None)
        self.changes[name] = value
        self.refresh()

    def __delitem__(self, key: str) -> None:
        self.pop(key)

    def pop(self, key: str, *default: Any) -> Any:
        """Take back a change made at run time; gives its value."""
        self._load()
        name = self._spelling.canonical(key)
        try:
            for spelling in self._spelling.of(name):
                if spelling in self.changes:
                    return self.changes.pop(spelling)
            if default:
                return default[0]
            raise KeyError(f"{key} was not changed at run time")
        finally:
            self.refresh()

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Change several settings; those who asked by `bind_to` are told."""
        for key, value in dict(*args, **kwargs).items():
            self[key] = value
        for callback in self._observers:
            callback(*args, **kwargs)

    def clear(self) -> None:
        """Take back all changes made at run time."""
        self.changes.clear()
        self.refresh()

    def bind_to(self, callback: Callable[..., Any]) -> None:
        """Call `callback` with the arguments of every `update` from now on."""
        self._observers.append(callback)

    def add_defaults(self, d: Any) -> None:
        """Add a layer just below the run-time changes: a mapping, an object, or a function of it.

        It is preferred to the configuration source.
        """
        self._load()
        layer = force_mapping(d() if callable(d) and not isinstance(d, type) else d)
        self.defaults.insert(0, layer)
        self.maps.insert(1, layer)
        self.refresh()

    def swap_with(self, other: ConfigurationView) -> None:
        """Take the other's layers; whoever holds this object sees its settings from now on."""
        observers, revision = self._observers, self._revision
        for name in _OWN:
            self.__dict__[name] = other.__dict__[name]
        self.__dict__.update(_observers=observers, _revision=revision)
        self.refresh()

    def _load(self) -> None:
        """Load the configuration if nobody has read a setting yet."""
        if isinstance(self.changes, PendingConfiguration):
            len(self.changes)

    def refresh(self) -> None:
        """Forget what was read: for those who know that the source has changed by itself."""
        self.__dict__["_revision"] += 1
        for name in list(self.__dict__):
            if name not in _OWN:
                self.__dict__.pop(name, None)

    def copy(self) -> Settings:
        """Settings of the same layers whose changes are their own."""
        return type(self)(
            dict(self.changes),
            self.defaults,
            self._keys,
            self.prefix,
            deprecated_settings=self.deprecated_settings,
        )

    __copy__ = copy

    def __reduce__(self) -> Any:
        # The source may be a module; its settings can be pickled, it cannot.
        layers = [dict(self.without_defaults().items()), dict(self._floor)]
        return _rebuild, (type(self), dict(self.changes), layers, self.prefix)

    # -- listing

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self._names(self.maps))

    def __len__(self) -> int:
        self._load()
        return len(self._names(self.maps))

    def __repr__(self) -> str:
        return f"Settings({filter_hidden_settings(dict(self.without_defaults().items()))!r})"

    def keys(self) -> Any:
        return iter(self)

    def items(self) -> Any:
        return ((name, self._shown(name)) for name in self)

    def values(self) -> Any:
        return (self._shown(name) for name in self)

    iterkeys, iteritems, itervalues = keys, items, values

    def _names(self, layers: Iterable[Any]) -> dict[str, None]:
        names: dict[str, None] = {}
        for layer in reversed(list(layers)):
            is_object = isinstance(layer, DictAttribute)
            for key in layer:
                name = self._spelling.listed(str(key))
                # A module's imports are no settings, and listing them would drag in their text.
                # Objects (Django's settings) may list names that they do not give.
                if name and not (is_object and isinstance(layer.get(key), ModuleType)):
                    names[name] = None
        return names

    def _shown(self, name: str) -> Any:
        try:
            return self[name]
        except ImproperlyConfigured:
            return self._raw(name)

    def without_defaults(self) -> Settings:
        """Only what was set: by the source, by `add_defaults`, or at run time."""
        changes, *layers = self._set_layers()
        return type(self)(changes, [*layers, {}], self._keys, self.prefix)

    def _set_layers(self) -> list[Any]:
        self._load()
        return [layer for layer in self.maps if layer is not self._floor]

    def value_set_for(self, key: str) -> bool:
        """Whether anything but the defaults has a value for `key`."""
        try:
            self._raw(self._spelling.canonical(key), self._set_layers())
        except KeyError:
            return False
        return True

    def table(self, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        """Names and values, with secrets masked unless `censored` is off."""
        shown = self if with_defaults else self.without_defaults()
        table = dict(shown.items())
        return filter_hidden_settings(table) if censored else table

    def humanize(self, with_defaults: bool = False, censored: bool = True) -> str:
        """The settings as text, one a line, with secrets masked unless `censored` is off."""
        return "\n".join(
            f"{name}: {pretty(value, width=50)}"
            for name, value in self.table(with_defaults, censored).items()
        )

    # -- finding and checking

    def find_option(self, name: str, namespace: str = "") -> searchresult:
        """The table's row for a short or whole name; KeyError if there is none."""
        return find(name, namespace)

    def find_value_for_key(self, name: str, namespace: str = "celery") -> Any:
        """The value of the setting with this short name in `namespace`."""
        found = self.find_option(name, namespace=namespace)
        return self.get_by_parts(*([found.namespace] if found.namespace else []), found.key)

    def get_by_parts(self, *parts: str) -> Any:
        """The value of the setting whose name these parts make."""
        return self["_".join(part for part in parts if part)]

    def finalize(self) -> Settings:
        """Check every setting that was set; ImproperlyConfigured names the first wrong one."""
        for name in self.without_defaults():
            self.get(name)
        return self

    def maybe_warn_deprecated_settings(self) -> bool:
        """Warn of each old name that is used; whether there was one."""
        for old in sorted(self.deprecated_settings or ()):
            new = OLD_NAMES.get(old)
            text = f"The setting name {old!r} is old and will go away. Use {new} instead."
            warnings.warn(text, CDeprecationWarning, stacklevel=2)
        return bool(self.deprecated_settings)

    # -- settings with a rule of their own. Properties, since the environment may change.

    @_setting
    def broker_url(self) -> Any:
        """Where the broker is: the environment, then `broker_url`, then `broker_host`."""
        found = _from_environment("BROKER_URL")
        if found:
            return found
        if not self.value_set_for("broker_url") and self.get("broker_host"):
            return self["broker_host"]
        return self.first("broker_url", "broker_host")

    @_setting
    def broker_read_url(self) -> Any:
        """Where to consume from."""
        return (
            _from_environment("BROKER_READ_URL") or self.get("broker_read_url") or self.broker_url
        )

    @_setting
    def broker_write_url(self) -> Any:
        """Where to send to."""
        return (
            _from_environment("BROKER_WRITE_URL") or self.get("broker_write_url") or self.broker_url
        )

    @_setting
    def result_backend(self) -> Any:
        """Where results are stored."""
        return _from_environment("RESULT_BACKEND") or self.get("result_backend")

    @_setting
    def task_default_exchange(self) -> Any:
        """Exchange of queues without one."""
        return self.first("task_default_exchange", "task_default_queue")

    @_setting
    def task_default_routing_key(self) -> Any:
        """Routing key of queues without one."""
        return self.first("task_default_routing_key", "task_default_queue")

    @_setting
    def timezone(self) -> Any:
        """Time zone; `TIME_ZONE` counts too."""
        return self.first("timezone", "TIME_ZONE")


def _from_environment(name: str) -> str | None:
    return os.environ.get(f"TASKQ_{name}") or os.environ.get(f"CELERY_{name}")


#: Types of sources whose settings are read once; who adds one calls `refresh` at its changes.
STEADY_SOURCES: tuple[type, ...] = (ModuleType, type)


def _is_steady_layer(layer: Any) -> bool:
    if isinstance(layer, DictAttribute):
        return isinstance(layer.obj, STEADY_SOURCES)
    return isinstance(layer, dict)


def _wrong_value(name: str, value: Any, expected: str) -> str:
    if HIDDEN_SETTINGS.search(name):
        shown = MASK
    else:
        shown = sanitize_url(repr(value)[:100])
    default = OPTIONS[name].default
    return (
        f"{name}: expected {expected}, got {shown} ({type(value).__name__})."
        f" Change it, or remove it to use the default, {default!r}."
    )


def _rebuild(cls: type[Settings], changes: Any, layers: Any, prefix: str | None) -> Settings:
    return cls(changes, layers, prefix=prefix)


def misspelled_settings(conf: Settings) -> list[tuple[str, str]]:
    """Pairs of an unknown setting that was set and the known one within two letters of it."""
    spelling = conf._spelling
    pairs = []
    for layer in conf.without_defaults().maps:
        for key in map(str, layer):
            unknown = spelling.listed(key) not in {None, *OPTIONS}
            near = within_two_letters(key, spelling) if unknown else None
            if near:
                pairs.append((key, near))
    return pairs
