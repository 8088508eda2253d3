"""This file is the group: tasks sent together, whose results are read as one list.

How it works: there is no message for the group itself. Each member is sent with the group's id and
its index; groups inside groups are flattened, with one count of indexes over all members.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kombu.utils.functional import fxrange
from kombu.utils.uuid import uuid

from taskq._state import get_current_worker_task
from taskq.canvas.signatures import Signature, maybe_signature
from taskq.utils.text import remove_repeating_from_task

if TYPE_CHECKING:
    from taskq.app.base import App

__all__ = ["group"]


@Signature.register_type("group")
class group(Signature):
    """Run tasks in parallel: `group(add.s(2, 2), add.s(4, 4))`, or of one iterable of signatures.

    Calling or applying it gives a GroupResult, with results in the order of the members.
    """

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: App | None = None) -> group:
        tasks = [maybe_signature(task, app=app, clone=True) for task in d["kwargs"]["tasks"]]
        sig = group(tasks, app=app, **(d.get("options") or {}))
        sig.immutable = bool(d.get("immutable"))
        args = d.get("args") or ()
        kwargs = {name: value for name, value in d["kwargs"].items() if name != "tasks"}
        if args or kwargs:
            sig.tasks = [task.clone(args, kwargs) for task in sig.tasks]
        return sig

    def __init__(self, *tasks: Any, **options: Any) -> None:
        members: Any = tasks
        if len(tasks) == 1:
            members = tasks[0]
            if isinstance(members, group):
                members = members.tasks
            elif isinstance(members, Mapping):
                members = [members]
            if not isinstance(members, tuple | list):
                members = list(members)
        app = options.pop("app", None)
        super().__init__(
            "celery.group",
            (),
            {
                "tasks": type(members)([
                    task if app is None and type(task) is Signature
                    else maybe_signature(task, app=app)
                    for task in members
                ])
            },
            options,
            subtask_type="group",
            app=app,
        )  # fmt: skip

    @property
    def tasks(self) -> Any:
        """The members."""
        return self["kwargs"]["tasks"]

    @tasks.setter
    def tasks(self, tasks: Any) -> None:
        self["kwargs"]["tasks"] = tasks

    def __len__(self) -> int:
        return len(self.tasks)

    # -- sending and running

    def __call__(self, *partial_args: Any, **options: Any) -> Any:
        """Send all members with these arguments added; gives the GroupResult."""
        return self.apply_async(partial_args, **options)

    def apply_async(  # type: ignore[override]  # Celery's order of parameters
        self,
        args: Any = None,
        kwargs: Any = None,
        add_to_parent: bool = True,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        **options: Any,
    ) -> Any:
        """Send all members, in order; gives the GroupResult.

        Arguments are added to those of each member; options are for each of them.

        Raises:
            TypeError: link or link_error are given: a group has no message that could carry them.
        """
        if link is not None:
            raise TypeError("Cannot add link to group: use a chord")
        if link_error is not None:
            raise TypeError("Cannot add link to group: do that on individual tasks")
        app = self.app
        if app.conf.task_always_eager:
            return self.apply(args, kwargs, **options)
        _, _, merged = self._merge(None, None, options)
        group_id = merged.pop("task_id", None) or uuid()
        for own in ("group_index", "reply_to"):
            merged.pop(own, None)
        chord = merged.pop("chord", None)
        merged.setdefault("group_id", group_id)
        members = self._flatten(copies=False)
        if args or kwargs:
            members = [task.clone(args, kwargs) for task in members]
        results = []
        with app.pipeline(producer):
            for index, member in enumerate(members):
                own_options = member["options"]
                if chord is not None:
                    merged["chord"] = own_options.get("chord", chord)
                merged["group_index"] = own_options.get("group_index", index)
                results.append(member.apply_async(add_to_parent=False, **merged))
        result = app.GroupResult(group_id, results)
        parent = get_current_worker_task() if add_to_parent else None
        if parent is not None:
            parent.add_trail(result)
        return result

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Run all members here, one after another; gives a GroupResult of EagerResults."""
        _, _, merged = self._merge(None, None, options)
        group_id = merged.pop("task_id", None) or uuid()
        members = self._flatten()
        return self.app.GroupResult(
            group_id, [task.apply(args=args, kwargs=kwargs, **merged) for task in members]
        )

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Decide the group's id and those of its members; gives the GroupResult.

        `group_id`, `chord` and `group_index` say which other group or chord this one is part of.
        """
        options = self["options"]
        own_id = options.setdefault("task_id", _id or uuid())
        if group_id:
            options.setdefault("group_id", group_id)
        if chord:
            options["chord"] = chord
        if group_index is not None:
            options["group_index"] = group_index
        options["root_id"] = options.get("root_id", root_id)
        options["parent_id"] = options.get("parent_id", parent_id)
        members = self._flatten()
        results = [
            member.freeze(
                group_id=group_id,
                chord=chord,
                root_id=root_id,
                parent_id=parent_id,
                group_index=index,
            )
            for index, member in enumerate(members)
        ]
        self.tasks = members
        return self.app.GroupResult(own_id, results)

    # -- deriving and composing

    def clone(self, args: Any = None, kwargs: Any = None, **opts: Any) -> Any:
        """A copy; arguments go to each member."""
        _, _, options = self._merge(None, None, opts)
        members = [maybe_signature(task, app=self._app) for task in self.tasks]
        twin = group([task.clone(args, kwargs) for task in members], app=self._app, **options)
        twin.immutable = self.immutable
        return twin

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> Any:
        """Set countdowns (seconds) that grow from member to member; gives the group itself."""
        countdowns = fxrange(start, stop, step, repeatlast=True)
        for task, countdown in zip(self.tasks, countdowns, strict=False):
            task.set(countdown=countdown)
        return self

    def link(self, sig: Any) -> Any:
        """Call `sig`, without the result, when the first member succeeds."""
        return self.tasks[0].link(sig.clone().set(immutable=True))

    def link_error(self, sig: Any) -> Any:
        """Call `sig` for each member that fails."""
        return tuple(task.link_error(sig) for task in self.tasks)

    def set_immutable(self, immutable: bool) -> None:
        for task in self.tasks:
            task.set_immutable(immutable)

    def __or__(self, other: Any) -> Any:
        """`group | other`: call `other` with the list of results, which is a chord.

        Raises:
            NotImplementedError: no chord type is registered.
        """
        if not isinstance(other, Signature):
            return NotImplemented
        chord_type: Any = self.TYPES.get("chord")
        if chord_type is None:
            raise NotImplementedError(
                "a group followed by another task is a chord, and this version of taskq has none;"
                " get() the group's results and call the task with them"
            )
        return chord_type(self, body=other, app=self._app)

    def _flatten(self, copies: bool = True) -> list[Any]:
        """Copies of all members, those of inner groups in their place.

        Without `copies`, plain calls are themselves: to be sent, and not changed.
        """
        members: list[Any] = []
        for task in self.tasks:
            if not copies and type(task) is Signature and task._app is (self._app or task._app):
                members.append(task)
                continue
            sig = maybe_signature(task, app=self._app, clone=True)
            if isinstance(sig, group):
                members.extend(_hand_down(sig))
            else:
                members.append(sig)
        return members

    @property
    def app(self) -> Any:
        """The application of the group, of its first member, or the current one."""
        if self._app is None and self.tasks:
            return self.tasks[0].app
        return super().app

    def __repr__(self) -> str:
        if not self.tasks:
            return f"{type(self).__name__}(<empty>)"
        text = remove_repeating_from_task(self.tasks[0]["task"], repr(self.tasks))
        return f"{type(self).__name__}({text})"


def _hand_down(inner: group) -> list[Any]:
    """The members of a group inside a group, with its options (countdown, queue, ...) as theirs."""
    own = {"task_id", "group_id", "group_index", "root_id", "parent_id", "chord"}
    options = {name: value for name, value in inner.options.items() if name not in own}
    members = inner._flatten()
    for member in members:
        member.options = {**options, **member.options}
    return members
