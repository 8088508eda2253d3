"""This file is `pydantic=True`: dicts become models before a body runs, and models dicts after it.

Beside `registration.py`, which asks for it when a task is made; a task without it never comes here.
In the worker `Models.wrap` stands around the body, inside of autoretry. In the caller `apply_async`
asks `Models.as_arguments` for what the message is to carry in place of models.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from taskq.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ("Models",)


_ANY = inspect.Parameter.POSITIONAL_OR_KEYWORD
_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, _ANY)
_BY_NAME = (inspect.Parameter.KEYWORD_ONLY, _ANY)


class _Parameter(NamedTuple):
    model: type[BaseModel]
    is_optional: bool


class Models:
    """What one task's annotations say of models.

    Arguments:
        strict, context: as `Model.model_validate` takes them.
        dump_options: for `Model.model_dump`, over mode="json".

    Raises:
        ImproperlyConfigured: pydantic is not installed.
    """

    def __init__(
        self,
        fun: Callable[..., Any],
        bound: bool,
        task_name: str,
        strict: bool,
        context: Mapping[str, Any],
        dump_options: Mapping[str, Any] | None,
    ) -> None:
        try:
            from pydantic import BaseModel
        except ImportError as exc:
            raise ImproperlyConfigured(
                f"task {task_name!r} asks for pydantic=True, but pydantic is not installed:"
                ' pip install "taskq[pydantic]"'
            ) from exc
        self._fun = fun
        self._self = (None,) if bound else ()
        self._signature = inspect.signature(fun)
        self._base = BaseModel
        self._validation: dict[str, Any] = {"strict": strict, "context": context}
        self._dump_options: dict[str, Any] = {"mode": "json", **(dump_options or {})}
        found = {name: self._read(hint) for name, hint in _hints(fun).items()}
        returned = found.pop("return", None)
        self._returned = returned and returned.model
        self._parameters = {name: parameter for name, parameter in found.items() if parameter}
        kinds = {name: each.kind for name, each in self._signature.parameters.items()}
        #: as a caller gives them: in order, without `self`, and by name
        self._in_order = [name for name, kind in kinds.items() if kind in _BY_POSITION][bound:]
        self._by_name = {name for name, kind in kinds.items() if kind in _BY_NAME}

    def _read(self, hint: Any) -> _Parameter | None:
        choices = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        rest = [choice for choice in choices if choice is not NoneType]
        if len(rest) != 1 or not isinstance(rest[0], type) or get_origin(rest[0]) is not None:
            return None
        is_model = issubclass(rest[0], self._base)
        return _Parameter(rest[0], len(choices) > 1) if is_model else None

    # -- in the worker

    def wrap(self) -> Callable[..., Any]:
        """The function, with dicts in and dicts out."""

        fun = self._fun

        @wraps(fun)
        def run(*args: Any, **kwargs: Any) -> Any:
            call = self._bind(args, kwargs)
            return self._finish(fun(*call.args, **call.kwargs))

        @wraps(fun)
        async def run_coroutine(*args: Any, **kwargs: Any) -> Any:
            call = self._bind(args, kwargs)
            return self._finish(await fun(*call.args, **call.kwargs))

        return run_coroutine if inspect.iscoroutinefunction(fun) else run

    def _bind(self, args: Any, kwargs: Any) -> inspect.BoundArguments:
        call = self._signature.bind(*args, **kwargs)
        for name, parameter in self._parameters.items():
            if name in call.arguments:
                call.arguments[name] = self._validate(parameter, call.arguments[name])
        return call

    def _finish(self, returned: Any) -> Any:
        if self._returned is None or not isinstance(returned, self._returned):
            return returned
        return returned.model_dump(**self._dump_options)

    def _validate(self, parameter: _Parameter, value: Any) -> Any:
        if value is None and parameter.is_optional:
            return None
        return parameter.model.model_validate(value, **self._validation)

    # -- in the caller

    def as_arguments(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Arguments of a call as they are sent: models dumped if they arrive as they were."""
        by_position: Any = args or ()
        by_name = kwargs or {}
        if not any(isinstance(each, self._base) for each in (*by_position, *by_name.values())):
            return args, kwargs
        try:
            self._signature.bind(*self._self, *by_position, **by_name)
        except TypeError:
            return args, kwargs  # a wrong call: what it gives to whom is not known
        dumped = map(self._dump, self._in_order, by_position)
        return (
            type(by_position)([*dumped, *by_position[len(self._in_order) :]]),
            {
                name: self._dump(name, value) if name in self._by_name else value
                for name, value in by_name.items()
            },
        )

    def _dump(self, name: str, value: Any) -> Any:
        """Dump a model for the parameter; the model itself if the worker would get another one."""
        parameter = self._parameters.get(name)
        if parameter is None or not isinstance(value, self._base):
            return value
        try:
            dumped = value.model_dump(**self._dump_options)
            return dumped if self._validate(parameter, dumped) == value else value
        except Exception:  # code of the model's author; the serializer says what cannot be sent
            return value


def _hints(fun: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(fun)
    except (NameError, TypeError, AttributeError):
        # Names for type checkers only. What is not text can be read all the same.
        return dict(getattr(fun, "__annotations__", {}))
