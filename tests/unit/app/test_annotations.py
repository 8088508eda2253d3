"""Annotations: what the setting task_annotations changes on tasks."""

from __future__ import annotations

import types

import pytest

from taskq.app.annotations import MapAnnotation, prepare, resolve_all

TASK = types.SimpleNamespace(name="a.b")


class ForOne:
    def annotate(self, task):
        return {"one": task.name}


class ForAny(ForOne):
    def annotate(self, task):
        return None

    def annotate_any(self):
        return {"any": 1}


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        (None, []),
        ({"a.b": {"q": 1}, "*": {"z": 2}}, [{"q": 1}, {"z": 2}]),
        ({"other": {"q": 1}}, []),
        ({"a.b": {}, "*": {"z": 2}}, [{"z": 2}]),
        ([{"a.b": {"q": 1}}, {"a.b": {"r": 1}, "*": {"z": 2}}], [{"q": 1}, {"z": 2}]),
        (ForOne(), [{"one": "a.b"}]),
        ((ForAny(), ForOne()), [{"one": "a.b"}, {"any": 1}]),
        ("celery.app.annotations:MapAnnotation", []),
    ],
)
def test_resolve_all(setting, found):
    assert list(resolve_all(prepare(setting), TASK)) == found


def test_map_annotation_hands_out_copies():
    annotation = MapAnnotation({"a.b": {"q": 1}})
    annotation.annotate(TASK)["q"] = 2
    assert annotation.annotate(TASK) == {"q": 1} and annotation.annotate_any() is None
