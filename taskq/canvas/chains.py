"""This file is the chain: tasks run one after another, each with the result of the one before.

How it works: only the first step is sent. It carries the others in `embed.chain`, in reverse order,
so that a worker pops the next one from the end; their ids are decided before, which is how the
result of the last step, with its line of parents, can be given back at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from itertools import pairwise
from operator import or_
from typing import TYPE_CHECKING, Any

from taskq.canvas.signatures import Signature, maybe_signature, maybe_unroll_group
from taskq.utils.text import remove_repeating_from_task

if TYPE_CHECKING:
    from taskq.app.base import App

__all__ = ["_chain", "chain"]


@Signature.register_type("chain")
class _chain(Signature):
    """Two or more steps. Made by `chain(...)` and by `|`."""

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: App | None = None) -> _chain:
        tasks = [maybe_signature(task, app=app, clone=True) for task in d["kwargs"]["tasks"]]
        sig = _chain(*tasks, app=app, **(d.get("options") or {}))
        sig.immutable = bool(d.get("immutable"))
        args = d.get("args") or ()
        kwargs = {name: value for name, value in d["kwargs"].items() if name != "tasks"}
        sig._give_to_first(args, kwargs)
        return sig

    def __init__(self, *tasks: Any, **options: Any) -> None:
        if len(tasks) == 1 and not isinstance(tasks[0], Mapping) and _is_iterable(tasks[0]):
            tasks = tuple(tasks[0])
        app = options.pop("app", None)
        super().__init__(
            "celery.chain",
            (),
            {"tasks": list(tasks)},
            options,
            subtask_type="chain",
            app=app,
        )

    @property
    def tasks(self) -> Any:
        """The steps."""
        return self["kwargs"]["tasks"]

    @tasks.setter
    def tasks(self, tasks: Any) -> None:
        self["kwargs"]["tasks"] = tasks

    # -- sending and running

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Send the chain, its first step with these arguments added."""
        return self.apply_async(args, kwargs) if self.tasks else None

    def apply_async(
        self, args: Any = None, kwargs: Any = None, route_name: str | None = None, **options: Any
    ) -> Any:
        """Send the first step with the others on board; gives the last step's result.

        `task_id`, `link` and group membership are those of the last step, `link_error` is added to
        all; what else is given (countdown, queue, ...) is for the first step.
        """
        _, _, merged = self._merge(None, None, options)
        if route_name is not None:
            merged["route_name"] = route_name
        if self.app.conf.task_always_eager:
            return self.apply(args, kwargs, **options)
        return self.run(args, kwargs, **merged)

    def run(
        self,
        args: Any = None,
        kwargs: Any = None,
        group_id: str | None = None,
        chord: Any = None,
        task_id: str | None = None,
        link: Any = None,
        link_error: Any = None,
        publisher: Any = None,
        producer: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        app: App | None = None,
        group_index: int | None = None,
        **options: Any,
    ) -> Any:
        """As `apply_async`, with the chain's own options left out."""
        application: Any = app or self.app
        steps = self._flatten()
        if not steps:
            return None
        if args or kwargs:
            steps[0] = steps[0].clone(args, kwargs)
        results = _freeze(steps, task_id, group_id, chord, root_id, group_index)
        _spread_links(steps, link, link_error)
        first, *rest = steps
        if rest and application.conf.task_protocol == 1:
            _nest_as_links(steps)
        elif rest:
            # What a caller passes on as `chain` runs after all of ours: it stands in front.
            options["chain"] = [*(options.get("chain") or ()), *reversed(rest)]
        given = {"producer": producer or publisher, "root_id": root_id, "parent_id": parent_id}
        options.update((name, value) for name, value in given.items() if value is not None)
        first.apply_async(**options)
        return results[-1]

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Run all steps here; gives the last step's EagerResult. The error of a step is raised."""
        _, _, merged = self._merge(None, None, options)
        task_id = merged.pop("task_id", None)
        steps = self._flatten()
        _spread_links(steps, merged.pop("link", None), merged.pop("link_error", None))
        last = None
        for number, step in enumerate(steps, 1):
            if number == len(steps) and task_id:
                merged["task_id"] = task_id
            if last is None:
                result = step.apply(args, kwargs, **merged)
            else:
                result = step.apply((last.get(),), **merged)
            result.parent = last
            last = result
        return last

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Decide the ids of all steps; gives the last step's result."""
        steps = self._flatten()
        if not steps:
            return None
        task_id = self["options"].get("task_id") or _id
        results = _freeze(steps, task_id, group_id, chord, root_id, group_index)
        self.tasks = steps
        self["options"]["task_id"] = results[-1].id
        return results[-1]

    # -- deriving and composing

    def clone(self, args: Any = None, kwargs: Any = None, **opts: Any) -> Any:
        """A copy; arguments go to its first step."""
        _, _, options = self._merge(None, None, opts)
        twin = _chain(*self._cloned_tasks(), app=self._app, **options)
        twin.immutable = self.immutable
        twin._give_to_first(args, kwargs)
        return twin

    def unchain_tasks(self) -> list[Any]:
        """Copies of the steps, with the chain's own callbacks and errbacks handed down to them."""
        tasks = self._cloned_tasks()
        options = self["options"]
        _spread_links(tasks, options.get("link"), options.get("link_error"))
        return tasks

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, Signature):
            return NotImplemented
        if not self.tasks:
            return other
        return _chain._join(self.unchain_tasks(), other, app=self._app)

    @classmethod
    def _join(cls, steps: list[Any], other: Signature, app: Any) -> Any:
        """The chain of these steps and another signature, flat."""
        steps = [step.clone() for step in steps]
        members = other.unchain_tasks() if isinstance(other, _chain) else [other]
        for member in members:
            step = member
            if step.subtask_type == "group":
                step = maybe_unroll_group(step)
            last = steps[-1] if steps else None
            if last is not None and last.subtask_type == "group":
                steps[-1] = last | step if last.tasks else step
            else:
                steps.append(step)
        return _chain(*steps, app=app) if len(steps) > 1 else steps[0]

    def _cloned_tasks(self) -> list[Any]:
        return [maybe_signature(task, app=self._app, clone=True) for task in self.tasks]

    def _flatten(self) -> list[Any]:
        """Copies of the steps to run: inner chains flat, groups of one unrolled, empty ones out."""
        steps: list[Any] = []
        for task in self._cloned_tasks():
            steps.extend(_unroll(task))
        return steps

    def _give_to_first(self, args: Any, kwargs: Any) -> None:
        if (args or kwargs) and self.tasks:
            self.tasks[0] = self.tasks[0].clone(args, kwargs)

    @property
    def app(self) -> Any:
        """The application of the chain, of its first step, or the current one."""
        if self._app is None and self.tasks:
            first = self.tasks[0]
            return maybe_signature(first).app
        return super().app

    def __repr__(self) -> str:
        if not self.tasks:
            return f"<chain@{id(self):#x}: empty>"
        text = " | ".join(map(repr, self.tasks))
        return remove_repeating_from_task(self.tasks[0]["task"], text)


class chain(_chain):
    """Run tasks one after another: `chain(add.s(2, 2), add.s(4))`, or `add.s(2, 2) | add.s(4)`.

    Takes signatures, or one iterable of them. One signature is given back as it is; applying an
    empty chain does nothing and gives None.
    """

    def __new__(cls, *tasks: Any, **options: Any) -> Any:
        # Never an instance of this class: `__init__` would then run once more on the result.
        steps = tasks[0] if len(tasks) == 1 and _is_iterable(tasks[0]) else tasks
        app = options.pop("app", None)
        built = reduce(or_, steps, _chain(app=app))
        return built.clone().set(**options) if options else built


def _is_iterable(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | Mapping)


def _unroll(step: Any) -> list[Any]:
    if isinstance(step, _chain):
        inner = step.unchain_tasks()
        return [found for task in inner for found in _unroll(task)]
    if step.subtask_type == "group":
        if not step.tasks:
            return []
        only = maybe_unroll_group(step)
        if only is not step:
            return _unroll(maybe_signature(only, app=step._app))
    return [step]


def _freeze(
    steps: list[Any],
    task_id: str | None,
    group_id: str | None,
    chord: Any,
    root_id: str | None,
    group_index: int | None,
) -> list[Any]:
    """Freeze the steps; gives their results, each with the one before as its parent."""
    results = [step.freeze(root_id=root_id) for step in steps[:-1]]
    results.append(steps[-1].freeze(task_id, group_id, chord, root_id, group_index=group_index))
    for earlier, later in pairwise(results):
        later.parent = earlier
    return results


def _spread_links(steps: list[Any], link: Any, link_error: Any) -> None:
    """Give a chain's callbacks to its last step, and its errbacks to every step."""
    if link and steps:
        steps[-1].extend_list_option("link", link)
    for step in steps if link_error else ():
        members = step.tasks if step.subtask_type == "group" else [step]
        for member in members:
            member.extend_list_option("link_error", link_error)


def _nest_as_links(steps: list[Any]) -> None:
    """Protocol 1 has no chain: each step becomes a callback of the one before."""
    for later, earlier in pairwise(reversed(steps)):
        earlier.link(later)
