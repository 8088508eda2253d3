"""Context: what a running task knows about its call (`task.request`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taskq.protocol import strip_death_headers

__all__ = ("Context",)

#: Fields of a message that are neither attributes here nor of the caller's making.
_MESSAGE_FIELDS = frozenset({"lang", "task", "argsrepr", "kwargsrepr", "compression"})


class Context:
    """The call a task is running: ids, arguments, limits, what follows, where it came from.

    Everything that came with the message is an attribute, custom headers too; what did not come
    has the value it has on this class.
    """

    _children: list[Any] | None = None
    #: `max_retries` of a `retry()` made in this run; an autoretry keeps to it.
    _retry_limit: int | None = None
    args: Any = None
    callbacks: Any = None
    called_directly = True
    chain: Any = None
    chord: Any = None
    correlation_id: str | None = None
    delivery_info: Any = None
    errbacks: Any = None
    eta: str | None = None
    expires: Any = None
    group: str | None = None
    group_index: int | None = None
    #: The caller's own headers; None if there were none.
    headers: dict[str, Any] | None = None
    #: Node name of the worker.
    hostname: str | None = None
    id: str | None = None
    ignore_result: bool | None = False
    is_eager = False
    kwargs: Any = None
    logfile: str | None = None
    loglevel: int | None = None
    #: `gen<pid>@<host>` of the sender.
    origin: str | None = None
    parent_id: str | None = None
    properties: Any = None
    replaced_task_nesting = 0
    reply_to: str | None = None
    retries = 0
    root_id: str | None = None
    shadow: str | None = None
    soft_time_limit: float | None = None
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = None
    #: Old name of `group`.
    taskset: str | None = None
    time_limit: float | None = None
    #: [hard, soft] in seconds.
    timelimit: Any = None
    utc: bool | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # A dict copied as a whole: given field by field it takes several times as long.
        fields = self.__dict__ = dict(*args, **kwargs)
        if "timelimit" in fields:
            self._mirror_time_limits()
        if fields.get("headers") is None:
            # Nearly all messages have none, and finding that out costs least this way.
            has_custom = not _KNOWN.issuperset(fields)
            fields["headers"] = (
                {key: value for key, value in fields.items() if key not in _KNOWN}
                if has_custom
                else None
            )

    def _mirror_time_limits(self) -> None:
        limits = self.timelimit
        if not isinstance(limits, (list, tuple)) or len(limits) != 2:
            limits = (None, None)
        self.time_limit, self.soft_time_limit = limits

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set fields, given as to dict.update."""
        self.__dict__.update(*args, **kwargs)
        if "timelimit" in self.__dict__:
            self._mirror_time_limits()

    def clear(self) -> None:
        """Back to the values of the class."""
        self.__dict__.clear()

    def get(self, key: str, default: Any = None) -> Any:
        """The field of that name, or `default`."""
        return getattr(self, key, default)

    def ignores_result(self, default: bool) -> bool:
        """Whether nobody wants the result: as the call says, else as the task does (`default`)."""
        # Not the attribute: its default on the class says nothing about this call.
        wish = self.__dict__.get("ignore_result")
        return bool(default if wish is None else wish)

    def __repr__(self) -> str:
        return f"<Context: {vars(self)!r}>"

    def as_execution_options(self) -> dict[str, Any]:
        """Options of apply_async that send the same call again."""
        limit, soft_limit = self.timelimit or (None, None)
        return {
            "task_id": self.id,
            "root_id": self.root_id,
            "parent_id": self.parent_id,
            "group_id": self.group,
            "group_index": self.group_index,
            "shadow": self.shadow,
            "chord": self.chord,
            "chain": self.chain,
            "link": self.callbacks,
            "link_error": self.errbacks,
            "expires": self.expires,
            "soft_time_limit": soft_limit,
            "time_limit": limit,
            "headers": self._living_headers(),
            "retries": self.retries,
            "reply_to": self.reply_to,
            "replaced_task_nesting": self.replaced_task_nesting,
            "origin": self.origin,
        }

    def _living_headers(self) -> Mapping[str, Any] | None:
        return None if self.headers is None else strip_death_headers(self.headers)

    @property
    def children(self) -> list[Any]:
        """Results of the tasks this run has sent; append to it."""
        # Made at first use: most tasks send nothing.
        if self._children is None:
            self._children = []
        return self._children


_KNOWN = frozenset(dir(Context)) | _MESSAGE_FIELDS
