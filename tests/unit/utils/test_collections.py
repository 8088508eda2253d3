"""Mappings in layers, objects as mappings."""

from __future__ import annotations

import types

import pytest

from taskq.utils.collections import (
    AttributeDict,
    ChainMap,
    ConfigurationView,
    DictAttribute,
    OrderedDict,
    force_mapping,
    lpmerge,
)


def test_a_dict_with_attributes() -> None:
    data = AttributeDict(a=1)
    data.b = 2
    assert (data.a, data["b"]) == (1, 2)
    with pytest.raises(AttributeError, match="'AttributeDict' object has no attribute 'c'"):
        data.c


def test_an_object_as_a_mapping() -> None:
    obj = types.SimpleNamespace(x=1)
    mapping = DictAttribute(obj)
    assert (mapping["x"], mapping.x, mapping.get("y"), "x" in mapping) == (1, 1, None, True)
    assert mapping.setdefault("y", 2) == 2
    mapping["z"] = 3
    assert (obj.y, obj.z) == (2, 3)
    assert ("x", 1) in list(mapping.items())
    assert "x" in list(mapping)
    with pytest.raises(KeyError):
        mapping["nothing"]
    assert force_mapping(obj).obj is obj
    assert force_mapping(mapping) is not None
    data = {"a": 1}
    assert force_mapping(data) is data


def test_layers() -> None:
    layers = ChainMap({"a": 1}, {"b": 2, "a": 0})
    assert (layers["a"], layers["b"], layers.get("z"), len(layers)) == (1, 2, None, 2)
    assert dict(layers.items()) == {"a": 1, "b": 2}
    assert list(layers) == ["b", "a"]
    layers["n"] = 4
    layers.add_defaults({"d": 5})
    assert layers.maps == [{"a": 1, "n": 4}, {"d": 5}, {"b": 2, "a": 0}]
    assert layers.pop("n") == 4
    layers.setdefault("b", 9)
    assert layers["b"] == 2
    with pytest.raises(KeyError, match="first mapping"):
        layers.pop("b")
    with pytest.raises(KeyError):
        del layers["b"]
    copied = layers.copy()
    copied["a"] = 7
    assert layers["a"] == 1
    layers.clear()
    assert layers["a"] == 0
    assert repr(ChainMap.fromkeys(["a"])) == "ChainMap({'a': None})"


def test_updates_are_told_to_observers() -> None:
    heard: list[object] = []
    layers = ChainMap()
    layers.bind_to(lambda *args, **kwargs: heard.append((args, kwargs)))
    layers.update({"a": 1}, b=2)
    assert heard == [(({"a": 1},), {"b": 2})]
    assert dict(layers) == {"a": 1, "b": 2}


def test_keys_can_be_translated() -> None:
    layers = ChainMap({"A": 1}, key_t=str.upper)
    assert layers["a"] == 1 and "a" in layers
    del layers["a"]
    assert not layers


def test_a_view_with_several_spellings() -> None:
    old_to_new = {"OLD": "new"}
    view = ConfigurationView({"new": 1}, [{"other": 2}], keys=(lambda k: old_to_new.get(k, k),))
    assert (view.new, view["OLD"], view.other) == (1, 1, 2)
    assert "OLD" in view and "nothing" not in view
    assert view.first("nothing", "other") == 2
    view.new = 5
    assert view.changes == {"new": 5}
    view.clear()
    assert view.get("new") is None
    with pytest.raises(AttributeError):
        view.nothing


def test_a_view_with_a_prefix_can_be_swapped() -> None:
    view = ConfigurationView({"app_timeout": 3}, prefix="app")
    assert view["timeout"] == 3
    other = ConfigurationView({"x": 1}, [{"y": 2}])
    view.swap_with(other)
    assert (view["x"], view["y"], view.get("timeout")) == (1, 2, None)


def test_small_ones() -> None:
    assert lpmerge({"a": 1, "b": 2}, {"a": 3, "b": None}) == {"a": 3, "b": 2}
    assert list(OrderedDict(a=1)) == ["a"]
