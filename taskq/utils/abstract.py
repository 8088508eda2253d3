"""What can be called as a task, and what as a signature, for isinstance checks without imports."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from typing import Any

__all__ = ("CallableSignature", "CallableTask")


def _has_all(cls: Any, names: frozenset[str]) -> bool:
    defined = {name for base in cls.__mro__ for name in base.__dict__}
    return names <= defined


class CallableTask(Callable, metaclass=ABCMeta):  # type: ignore[type-arg, misc]  # any signature
    """Something that can be called, sent and run at once: a task."""

    __required_attributes__ = frozenset({"delay", "apply_async", "apply"})

    @abstractmethod
    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Send a call with these arguments."""

    @abstractmethod
    def apply_async(self, *args: Any, **kwargs: Any) -> Any:
        """Send a call with options."""

    @abstractmethod
    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """Run it here and now."""

    @classmethod
    def __subclasshook__(cls, other: Any) -> Any:
        return _has_all(other, cls.__required_attributes__) or NotImplemented


class CallableSignature(CallableTask):
    """A call that is still to be made: a task with arguments and options."""

    __required_attributes__ = frozenset(
        {"clone", "freeze", "set", "link", "link_error", "__or__", "__invert__"}
    )

    @property
    @abstractmethod
    def name(self) -> Any:
        """Name of the task."""

    @property
    @abstractmethod
    def type(self) -> Any:
        """The task."""

    @property
    @abstractmethod
    def app(self) -> Any:
        """The app it is sent by."""

    @property
    @abstractmethod
    def id(self) -> Any:
        """Task id, once frozen."""

    @property
    @abstractmethod
    def task(self) -> Any:
        """Name of the task."""

    @property
    @abstractmethod
    def args(self) -> Any:
        """Positional arguments."""

    @property
    @abstractmethod
    def kwargs(self) -> Any:
        """Keyword arguments."""

    @property
    @abstractmethod
    def options(self) -> Any:
        """Options of apply_async."""

    @property
    @abstractmethod
    def subtask_type(self) -> Any:
        """`chain`, `group`, ... or None for a plain task."""

    @property
    @abstractmethod
    def chord_size(self) -> Any:
        """How many tasks the chord's body waits for."""

    @property
    @abstractmethod
    def immutable(self) -> Any:
        """True: takes no result of the task before it."""

    @abstractmethod
    def clone(self, args: Any = None, kwargs: Any = None) -> Any:
        """A copy with more arguments."""

    @abstractmethod
    def freeze(
        self,
        id: Any = None,
        group_id: Any = None,
        chord: Any = None,
        root_id: Any = None,
        group_index: Any = None,
    ) -> Any:
        """Fix the ids; gives the result."""

    @abstractmethod
    def set(self, immutable: Any = None, **options: Any) -> Any:
        """Set options."""

    @abstractmethod
    def link(self, callback: Any) -> Any:
        """Call `callback` with the result."""

    @abstractmethod
    def link_error(self, errback: Any) -> Any:
        """Call `errback` on failure."""

    @abstractmethod
    def __or__(self, other: Any) -> Any:
        """Chain."""

    @abstractmethod
    def __invert__(self) -> Any:
        """Run and wait."""
