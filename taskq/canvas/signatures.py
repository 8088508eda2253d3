"""This file is the signature: a call to be made, kept as a dictionary that travels in messages.

How it works: a `Signature` is a dict with the keys of the wire (`task`, `args`, `kwargs`,
`options`, `subtask_type`, `immutable`), so it is encoded by every serializer as it is, and
`maybe_signature` makes any such mapping a signature again. Chains and groups are subclasses; each
registers itself in `Signature.TYPES` under its `subtask_type`. `clone`, `|` and `apply_async` work
on copies; `set`, `link`, `link_error` and `freeze` change the signature they are called on.
`freeze` decides the id, and with it the result, before anything is sent.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

from kombu.utils.functional import is_list, reprcall
from kombu.utils.uuid import uuid

from taskq._state import get_current_app
from taskq.utils.abstract import CallableSignature

if TYPE_CHECKING:
    from taskq.app.base import App

__all__ = ["Signature", "maybe_signature", "maybe_unroll_group", "signature", "task_name_from"]

V = TypeVar("V")

#: options that, once frozen into a signature, a later call does not change
_FROZEN_OPTIONS = frozenset({"group_id", "stamped_headers"})


def is_mapping(given: Any) -> bool:
    """Is it a mapping? Tasks, of which most signatures are made, are none at the first look."""
    return hasattr(type(given), "__getitem__") and isinstance(given, Mapping)


def task_name_from(task: Any) -> str:
    """The name of a task, given as the task or as its name."""
    name: str = getattr(task, "name", task)
    return name


class _Item(Generic[V]):
    """A key of the signature read and written as an attribute."""

    def __init__(self, key: str, doc: str) -> None:
        self.key = key
        self.__doc__ = doc

    def __get__(self, sig: Signature, owner: type[Signature]) -> V:
        if sig is None:
            return cast(V, self)  # looked up on the class
        return cast(V, sig[self.key])

    def __set__(self, sig: Signature, value: V) -> None:
        sig[self.key] = value


class _Option:
    """An option of the signature read and written as an attribute; None when it is not set."""

    def __init__(self, key: str, doc: str) -> None:
        self.key = key
        self.__doc__ = doc

    def __get__(self, sig: Signature, owner: type[Signature]) -> Any:
        return self if sig is None else sig["options"].get(self.key)

    def __set__(self, sig: Signature, value: Any) -> None:
        sig["options"][self.key] = value


class Signature(dict[str, Any]):
    """A call to be made: task name, arguments and execution options.

    Arguments:
        task: a task, a task's name, or another signature's dictionary to copy.
        args, kwargs: arguments, perhaps not all of them (a partial).
        options: execution options, as for `Task.apply_async`; also given as keywords.
        immutable: takes no further arguments, and so no result of a task before it.
    """

    #: subtask_type -> class
    TYPES: ClassVar[dict[str, type[Signature]]] = {}
    _app: Any = None
    _type: Any = None

    task = _Item[str]("task", "name of the task")
    args = _Item[Any]("args", "positional arguments")
    kwargs = _Item[dict[str, Any]]("kwargs", "keyword arguments")
    options = _Item[dict[str, Any]]("options", "execution options")
    subtask_type = _Item["str | None"]("subtask_type", "kind of canvas; None for a plain task")
    immutable = _Item[bool]("immutable", "whether results of earlier tasks are not taken")
    id = _Option("task_id", "task id; None until frozen")
    parent_id = _Option("parent_id", "id of the task that sends this one")
    root_id = _Option("root_id", "id of the first task of the workflow")

    @classmethod
    def register_type(cls, name: str | None = None) -> Callable[[type[V]], type[V]]:
        """Class decorator: dictionaries with this `subtask_type` are of that class."""

        def register(subclass: type[V]) -> type[V]:
            cls.TYPES[name or subclass.__name__] = cast("type[Signature]", subclass)
            return subclass

        return register

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: App | None = None) -> Signature:
        """The signature of this encoding, of the class that its `subtask_type` names."""
        kind = d.get("subtask_type")
        target = cls.TYPES.get(kind) if kind else None
        if target is not None and target is not cls:
            return target.from_dict(d, app=app)
        return Signature(d, app=app)

    def __init__(
        self,
        task: Any = None,
        args: Any = None,
        kwargs: Any = None,
        options: Any = None,
        type: Any = None,
        subtask_type: str | None = None,
        immutable: bool = False,
        app: App | None = None,
        **ex: Any,
    ) -> None:
        self._app = app
        if is_mapping(task):
            # Copied as it is; keys that a hand-written mapping left out get their defaults.
            super().__init__(
                task=None, args=(), kwargs={}, options={}, subtask_type=None, immutable=False
            )
            self.update(task)
            return
        if task is None or isinstance(task, str):
            name = task
            self._type = type
        else:
            name = task.name
            self._type = task
        super().__init__(
            task=name,
            args=tuple(args or ()),
            kwargs=kwargs or {},
            options={**options, **ex} if options else ex,
            subtask_type=subtask_type,
            immutable=immutable,
        )

    # -- sending and running

    def delay(self, *partial_args: Any, **partial_kwargs: Any) -> Any:
        """Send the call with these arguments added: `apply_async(args, kwargs)`."""
        return self.apply_async(partial_args, partial_kwargs)

    def apply_async(
        self, args: Any = None, kwargs: Any = None, route_name: str | None = None, **options: Any
    ) -> Any:
        """Send the call to the workers.

        Arguments given here come before those of the signature; options win over its own.
        """
        args, kwargs, options = self._merge(args, kwargs, options)
        if route_name is not None:
            options["route_name"] = route_name
        task = self._find_task()
        if task is None:
            return self.app.send_task(self["task"], args, kwargs, **options)
        return task.apply_async(args, kwargs, **options)

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Run the call here, through the tracer; gives an EagerResult."""
        args, kwargs, options = self._merge(args, kwargs, options)
        return self.type.apply(args, kwargs, **options)

    def __call__(self, *partial_args: Any, **partial_kwargs: Any) -> Any:
        """Run the task's body here; nothing is sent or stored."""
        args, kwargs, _ = self._merge(partial_args, partial_kwargs, None)
        return self.type(*args, **kwargs)

    def __invert__(self) -> Any:
        return self.apply_async().get()

    # -- deriving

    def clone(self, args: Any = None, kwargs: Any = None, **opts: Any) -> Any:
        """A copy with arguments put before this signature's own, and options over its own."""
        args, kwargs, options = self._merge(args, kwargs, opts)
        twin = Signature.from_dict(
            {**self, "args": tuple(args), "kwargs": dict(kwargs), "options": _copied(options)},
            app=self._app,
        )
        twin._type = self._type
        return twin

    partial = clone

    def replace(self, args: Any = None, kwargs: Any = None, options: Any = None) -> Any:
        """A copy in which the parts that are given replace this signature's own."""
        twin = self.clone()
        if args is not None:
            twin.args = args
        if kwargs is not None:
            twin.kwargs = kwargs
        if options is not None:
            twin.options = options
        return twin

    def set(self, immutable: bool | None = None, **options: Any) -> Any:
        """Set execution options; gives the signature itself."""
        if immutable is not None:
            self.set_immutable(immutable)
        self["options"].update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Say whether results of earlier tasks are kept out."""
        self["immutable"] = immutable

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Decide the task's id, and its place in a workflow; gives its result."""
        options = self["options"]
        task_id = options.setdefault("task_id", _id or uuid())
        if root_id:
            options["root_id"] = root_id
        if parent_id:
            options["parent_id"] = parent_id
        if not options.get("reply_to"):
            options["reply_to"] = self.app.thread_oid
        if group_id and not options.get("group_id"):
            options["group_id"] = group_id
        if chord:
            options["chord"] = chord
        if group_index is not None:
            options["group_index"] = group_index
        return self.AsyncResult(task_id)

    # -- callbacks

    def link(self, callback: Any) -> Any:
        """Call `callback` with the result when the task succeeds; gives the callback."""
        return self.append_to_list_option("link", callback)

    def link_error(self, errback: Any) -> Any:
        """Call `errback` when the task fails; gives the errback."""
        return self.append_to_list_option("link_error", errback)

    def on_error(self, errback: Any) -> Any:
        """As `link_error`, but gives the signature itself, for use in expressions."""
        self.link_error(errback)
        return self

    def append_to_list_option(self, key: str, value: Any) -> Any:
        """Add a value to an option that is a list, unless it is there already."""
        items = self._list_option(key)
        if value not in items:
            items.append(value)
        return value

    def extend_list_option(self, key: str, value: Any) -> None:
        """Add one value, or each of a list, to an option that is a list."""
        self._list_option(key).extend(value if is_list(value) else [value])

    def _list_option(self, key: str) -> list[Any]:
        value = self["options"].get(key)
        if not isinstance(value, list):
            value = [] if value is None else list(value) if is_list(value) else [value]
            self["options"][key] = value
        return value

    def flatten_links(self) -> list[Any]:
        """This signature, its callbacks, theirs, and so on."""
        found: list[Any] = [self]
        for callback in self["options"].get("link") or ():
            found.extend(maybe_signature(callback, app=self._app).flatten_links())
        return found

    # -- composing

    def __or__(self, other: Any) -> Any:
        """`self | other`: call `other` with the result of this one."""
        if not isinstance(other, Signature):
            return NotImplemented
        chain_type: Any = self.TYPES["chain"]
        return chain_type._join([self], other, app=self._app)

    # -- what it is

    @property
    def app(self) -> Any:
        """The application of the signature, or the current one."""
        return self._app or get_current_app()

    @property
    def type(self) -> Any:
        """The task object.

        Raises:
            NotRegistered: the application does not know the task.
        """
        return self._type or self.app.tasks[self["task"]]

    @property
    def name(self) -> str:
        """Name of the task."""
        return self["task"]  # type: ignore[no-any-return]  # a text by the wire format

    @property
    def AsyncResult(self) -> Any:
        """Callable that makes the result of an id: the task's, or the application's."""
        task = self._find_task()
        return self.app.AsyncResult if task is None else task.AsyncResult

    def _find_task(self) -> Any:
        return self._type or self.app.tasks.get(self["task"])

    def _merge(
        self, args: Any, kwargs: Any, options: Any, force: bool = False
    ) -> tuple[Any, Any, Any]:
        """Arguments and options of a call: the signature's own with these added."""
        merged = dict(self["options"])
        if not merged and options and "stamped_headers" not in options:
            merged = dict(options)
            options = None
        for key, value in (options or {}).items():
            if key == "stamped_headers":
                known = merged.get(key) or ()
                value = [*known, *(header for header in value or () if header not in known)]
            elif key in _FROZEN_OPTIONS and merged.get(key) is not None:
                continue
            merged[key] = value
        if self["immutable"] and not force:
            return self["args"], self["kwargs"], merged
        return (
            (*args, *self["args"]) if args else self["args"],
            {**self["kwargs"], **kwargs} if kwargs else self["kwargs"],
            merged,
        )

    # -- as data

    def __json__(self) -> dict[str, Any]:
        return dict(self)

    def __reduce__(self) -> tuple[Any, ...]:
        # A function and plain data: a reader makes whatever class the type in the data asks for.
        return (signature, (dict(self),))

    def __copy__(self) -> Any:
        twin = self.__class__.__new__(self.__class__)
        dict.update(twin, self)
        twin.__dict__.update(self.__dict__)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return copy.deepcopy(dict(self), memo)

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """Text of the call, with these arguments added: `proj.add(2, 2)`."""
        args, kwargs, _ = self._merge(args, kwargs, None, force=True)
        return str(reprcall(self["task"], args, kwargs))

    def __repr__(self) -> str:
        return self.reprcall()


CallableSignature.register(Signature)


def _copied(options: dict[str, Any]) -> dict[str, Any]:
    """Options of which the copy can be changed: its lists (link, ...) and headers are its own."""
    return {
        key: type(value)(value) if type(value) in (list, dict) else value
        for key, value in options.items()
    }


def signature(varies: Any, *args: Any, **kwargs: Any) -> Any:
    """A signature of a task, or from the encoding of one.

    Arguments:
        varies: task, task name, signature (copied) or the dictionary of one.
        args, kwargs: as for `Signature`.
    """
    if isinstance(varies, Signature):
        return varies.clone()
    if is_mapping(varies):
        return Signature.from_dict(varies, app=kwargs.get("app"))
    return Signature(varies, *args, **kwargs)


def maybe_signature(d: Any, app: App | None = None, clone: bool = False) -> Any:
    """A signature of this mapping; a signature is given back as it is, or copied."""
    if d is None:
        return None
    if isinstance(d, Signature):
        if clone:
            d = d.clone()
    elif isinstance(d, Mapping):
        d = Signature.from_dict(d)
    else:
        return d
    if app is not None:
        d._app = app
    return d


def maybe_unroll_group(group: Any) -> Any:
    """The only member of a group of one; any other group as it is."""
    tasks = group.tasks
    return tasks[0] if len(tasks) == 1 else group


#: older names
subtask = signature
maybe_subtask = maybe_signature
