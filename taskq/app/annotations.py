"""Attributes of tasks that the setting task_annotations changes.

Before the journey: `task.py` applies them when a task is bound to its application.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from taskq.utils.imports import instantiate

__all__ = ["MapAnnotation", "prepare", "resolve_all"]


class MapAnnotation(dict[str, Any]):
    """Annotations given as a mapping of task names to attributes; `*` is any task."""

    def annotate_any(self) -> dict[str, Any] | None:
        """The attributes of all tasks, or None."""
        return _copy(self.get("*"))

    def annotate(self, task: Any) -> dict[str, Any] | None:
        """The attributes of this task, or None."""
        return _copy(self.get(task.name))


def _copy(attributes: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if attributes is None else dict(attributes)


def prepare(annotations: Any) -> tuple[Any, ...] | list[Any]:
    """The setting's value as a list of objects with `annotate`.

    It may be one or several of: a mapping, an object, the path of a class.
    """
    if annotations is None:
        return ()
    if not isinstance(annotations, (list, tuple)):
        annotations = [annotations]
    return [_as_annotation(annotation) for annotation in annotations]


def _as_annotation(annotation: Any) -> Any:
    if isinstance(annotation, str):
        return instantiate(annotation)
    if isinstance(annotation, Mapping) and not hasattr(annotation, "annotate"):
        return MapAnnotation(annotation)
    return annotation


def resolve_all(anno: Iterable[Any], task: Any) -> Iterator[Mapping[str, Any]]:
    """What is to be set on `task`: the first attributes meant for it, then the first for any.

    What comes later wins, so `*` overrides a task's own.
    """
    annotations = list(anno)
    own = (annotation.annotate(task) for annotation in annotations)
    common = (
        annotation.annotate_any()
        for annotation in annotations
        if hasattr(annotation, "annotate_any")
    )
    for found in (_first(own), _first(common)):
        if found:
            yield found


def _first(found: Iterable[Any]) -> Any:
    return next((attributes for attributes in found if attributes is not None), None)
