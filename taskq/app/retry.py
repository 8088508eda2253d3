"""Running a task again: `Task.retry`, and retrying by itself on the errors a task names.

A retry is a new message with the same id, one more on its `retries` and an ETA, sent by the run
that asks for it; that run then ends with `Retry` (app/outcome.py says what follows).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import wraps
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from taskq.exceptions import Ignore, MaxRetriesExceededError, Reject, Retry
from taskq.utils.serialization import raise_with_context
from taskq.utils.time import get_exponential_backoff_interval

if TYPE_CHECKING:
    from taskq.canvas import Signature
    from taskq.context import Context

__all__ = ("Retrying", "add_autoretry_behaviour")

#: seconds; the longest pause of `retry_backoff` when the task names none
DEFAULT_BACKOFF_MAX = 600

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Retrying:
    """The part of `Task` that runs a call again."""

    if TYPE_CHECKING:  # what the rest of Task provides
        name: str
        app: Any
        max_retries: int | None
        default_retry_delay: float
        MaxRetriesExceededError: type[MaxRetriesExceededError]
        run: Callable[..., Any]
        signature: Callable[..., Signature]

        @property
        def request(self) -> Context: ...

    def retry(
        self,
        args: Any = None,
        kwargs: Any = None,
        exc: Any = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """Send this call again, and end the run.

        Arguments:
            args, kwargs: new arguments; the part that is not given stays as it was.
            exc: the error that is the reason; raised when there are no retries left.
            throw: False returns the `Retry` instead of raising it, and the task ends as it likes.
            eta, countdown: when to run (a datetime, or seconds from now); without either
                `default_retry_delay` seconds from now.
            max_retries: the limit for this one retry, instead of the task's.
            options: execution options that replace those of the message.

        Raises:
            Retry: always, unless `throw` is False.
            MaxRetriesExceededError: no retries are left, and no `exc` was given.
            Reject: the message could not be sent.
        """
        request = self.request
        retries = request.retries + 1
        if max_retries is None:
            max_retries = self.max_retries
        else:
            # An autoretry of the error that this call may raise keeps to the same limit.
            request._retry_limit = max_retries
        if request.called_directly:
            raise_with_context(Retry("Task can be retried", None) if exc is None else exc)
        if eta is None and countdown is None:
            countdown = self.default_retry_delay
        again = self.signature_from_request(
            request, args, kwargs, countdown=countdown, eta=eta, retries=retries, **options
        )
        if max_retries is not None and retries > max_retries:
            if exc is not None:
                raise_with_context(exc)
            raise self.MaxRetriesExceededError(
                f"Can't retry {self.name}[{request.id}] args:{again.args} kwargs:{again.kwargs}",
                task_args=again.args,
                task_kwargs=again.kwargs,
            )
        reason = Retry(exc=exc, when=eta or countdown, is_eager=request.is_eager, sig=again)
        # An eager run has no queue to go back to: Task.apply runs the signature.
        if not request.is_eager:
            _send(again)
        if throw:
            raise reason
        return reason

    def signature_from_request(
        self,
        request: Context | None = None,
        args: Any = None,
        kwargs: Any = None,
        queue: str | None = None,
        **extra_options: Any,
    ) -> Signature:
        """The signature that would make this call once more: same id, same place in a workflow.

        Arguments:
            request: the call; the current one when not given.
            args, kwargs: replace that part of the arguments. What one of them binds is taken out
                of the other, inherited part, so that no parameter gets two values.
            queue: where to; the queue the message came from when not given.
            extra_options: execution options over those of the call.
        """
        request = self.request if request is None else request
        if args is None and kwargs is None:
            args, kwargs = request.args, request.kwargs
        elif kwargs is None:
            kwargs = self._without_bound(args, request.kwargs)
        elif args is None:
            args, kwargs = self._with_replaced(request.args, kwargs)
        options = {**_options_of(request), **extra_options}
        origin: Mapping[str, Any] = request.delivery_info or {}
        if origin.get("priority") is not None:
            options.setdefault("priority", origin["priority"])
        if queue:
            options["queue"] = queue
        elif origin.get("exchange") == "" and origin.get("routing_key"):
            # The anonymous exchange routes by queue name, and cannot be published to by name.
            options["queue"] = origin["routing_key"]
        else:
            for key in ("exchange", "routing_key"):
                if origin.get(key) is not None:
                    options.setdefault(key, origin[key])
        return self.signature(args, kwargs, **options)

    def _positional_parameters(self) -> list[inspect.Parameter]:
        try:
            parameters = inspect.signature(self.run).parameters.values()
        except (TypeError, ValueError):
            return []  # a builtin does not tell
        return [parameter for parameter in parameters if parameter.kind in _POSITIONAL]

    def _without_bound(
        self, args: Sequence[Any], kwargs: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """`kwargs` without the parameters that `args` fill."""
        filled = {
            parameter.name
            for parameter in self._positional_parameters()[: len(args)]
            if parameter.kind is not inspect.Parameter.POSITIONAL_ONLY
        }
        return {name: value for name, value in (kwargs or {}).items() if name not in filled}

    def _with_replaced(
        self, args: Sequence[Any] | None, kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """`args` with the values that `kwargs` name in their places, and the rest of `kwargs`."""
        values, left = list(args or ()), dict(kwargs)
        for position, parameter in enumerate(self._positional_parameters()[: len(values)]):
            is_named = parameter.kind is not inspect.Parameter.POSITIONAL_ONLY
            if is_named and parameter.name in left:
                values[position] = left.pop(parameter.name)
        return tuple(values), left


def _options_of(request: Context) -> dict[str, Any]:
    """Execution options of the call, as far as the message carried them."""
    options = request.as_execution_options()
    ignore_result = vars(request).get("ignore_result")
    if ignore_result is not None:
        options["ignore_result"] = ignore_result
    if request.stamped_headers is not None:
        options["stamped_headers"] = request.stamped_headers
        options.update(request.stamps or {})
    return options


def _send(again: Signature) -> None:
    try:
        again.apply_async()
    except Exception as exc:
        # Whatever kept the message from leaving: without it there will be no second run, and only
        # the broker (a dead-letter exchange) can still save the first message.
        raise Reject(exc, requeue=False) from exc


def add_autoretry_behaviour(task: Any, **options: Any) -> None:
    """Make `task.run` retry by itself on the errors of `autoretry_for`.

    Options, each also an attribute of the task's class:
        autoretry_for, dont_autoretry_for: classes of errors; the second are exempt from the first.
        retry_kwargs: arguments for `retry`, such as max_retries and countdown.
        retry_backoff: True or a number of seconds: pauses double from there, starting at 1 s or
            that number; they replace the countdown of `retry_kwargs`.
        retry_backoff_max: longest pause in seconds (600).
        retry_jitter: choose the pause at random between 0 and that time (True).
    """

    def option(name: str, default: Any) -> Any:
        return options.get(name, getattr(task, name, default))

    autoretry_for = tuple(option("autoretry_for", ()))
    if not autoretry_for or hasattr(task, "_orig_run"):
        return
    dont_autoretry_for = tuple(option("dont_autoretry_for", ()))
    retry_kwargs = option("retry_kwargs", {})
    backoff = option("retry_backoff", False)
    factor = int(max(1.0, float(backoff or 0)))
    backoff_max = int(option("retry_backoff_max", DEFAULT_BACKOFF_MAX))
    jitter = option("retry_jitter", True)
    original = task.run

    @contextmanager
    def retrying() -> Iterator[None]:
        try:
            yield
        except (Ignore, Retry):
            raise
        except dont_autoretry_for:
            raise
        except autoretry_for as exc:
            request = task.request
            arguments = dict(retry_kwargs)
            if backoff:
                arguments["countdown"] = get_exponential_backoff_interval(
                    factor=factor, retries=request.retries, maximum=backoff_max, full_jitter=jitter
                )
            limit = request._retry_limit
            if limit is None:
                limit = getattr(task, "override_max_retries", None)
            if limit is not None:
                arguments["max_retries"] = limit
            raise task.retry(exc=exc, **arguments)

    @wraps(original)
    def run(*args: Any, **kwargs: Any) -> Any:
        with retrying():
            returned = original(*args, **kwargs)
        return run_on(returned) if type(returned) is CoroutineType else returned

    async def run_on(coroutine: Any) -> Any:
        with retrying():
            return await coroutine

    task._orig_run, task.run = original, run
