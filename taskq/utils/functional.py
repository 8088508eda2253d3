"""Functions on functions and sequences; kombu's are answered here too."""

from __future__ import annotations

import inspect
from collections import UserList
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from kombu.utils.functional import (
    LRUCache,
    dictfilter,
    is_list,
    lazy,
    maybe_evaluate,
    maybe_list,
    memoize,
)

__all__ = (
    "DummyContext",
    "LRUCache",
    "arity_greater",
    "chunks",
    "dictfilter",
    "first",
    "firstmethod",
    "fun_accepts_kwargs",
    "fun_takes_argument",
    "head_from_fun",
    "is_list",
    "is_numeric_value",
    "lazy",
    "lookahead",
    "mattrgetter",
    "maybe",
    "maybe_evaluate",
    "maybe_list",
    "memoize",
    "mlazy",
    "noop",
    "padlist",
    "regen",
    "seq_concat_item",
    "seq_concat_seq",
    "uniq",
)

T = TypeVar("T")


class DummyContext:
    """A context manager that does nothing."""

    def __enter__(self) -> DummyContext:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        pass


class mlazy(lazy):
    """A lazy value that is computed once."""

    #: Whether it has been computed.
    evaluated = False
    _value: Any = None

    def evaluate(self) -> Any:
        if not self.evaluated:
            self._value = super().evaluate()
            self.evaluated = True
        return self._value


def noop(*args: Any, **kwargs: Any) -> None:
    """Do nothing, whatever the arguments."""


def evaluate_promises(it: Iterable[Any]) -> Iterator[Any]:
    """The values of `it`, lazy ones evaluated."""
    for value in it:
        yield value() if isinstance(value, mlazy) else value


def first(predicate: Callable[[T], Any] | None, it: Iterable[T]) -> T | None:
    """The first value for which `predicate` is true (without one: that is not None), or None."""
    return next(
        (
            value
            for value in evaluate_promises(it)
            if (predicate(value) if predicate is not None else value is not None)
        ),
        None,
    )


def firstmethod(method: str, on_call: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """A function that calls `method` of each object in turn and gives the first answer not None.

    Objects without the method are passed over; lazy objects are evaluated.
    """

    def ask_each(it: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        for obj in it:
            bound = getattr(maybe_evaluate(obj), method, None)
            if bound is None:
                continue
            answer = on_call(bound, *args, **kwargs) if on_call else bound(*args, **kwargs)
            if answer is not None:
                return answer
        return None

    return ask_each


def chunks(it: Iterable[T], n: int) -> Iterator[list[T]]:
    """`it` in lists of `n` values, the last one shorter."""
    values = iter(it)
    while chunk := list(islice(values, n)):
        yield chunk


def padlist(container: Any, size: int, default: Any = None) -> list[Any]:
    """The first `size` values, filled up with `default`."""
    return list(container)[:size] + [default] * (size - len(container))


def mattrgetter(*attrs: str) -> Callable[[Any], dict[str, Any]]:
    """A function that gives a dict of these attributes; missing ones are None."""
    return lambda obj: {attr: getattr(obj, attr, None) for attr in attrs}


def uniq(it: Iterable[T]) -> Iterator[T]:
    """The values of `it`, each only once, in order."""
    seen: set[Any] = set()
    for value in it:
        if value not in seen:
            seen.add(value)
            yield value


def lookahead(it: Iterable[T]) -> Iterator[tuple[T, T | None]]:
    """(value, the one after it) for each value; None follows the last."""
    values = iter(it)
    try:
        current = next(values)
    except StopIteration:
        return
    for following in values:
        yield current, following
        current = following
    yield current, None


def regen(it: Any) -> Any:
    """A list that takes its values from the iterable `it` as they are asked for, and keeps them.

    Lists and tuples come back as they are.
    """
    return it if isinstance(it, (list, tuple)) else _regen(it)


class _regen(UserList, list):  # type: ignore[type-arg, misc]  # Celery's is both: any JSON encoder takes it
    # Being a list, it is encoded as one; its own storage stays empty.

    def __init__(self, it: Iterable[Any] | None) -> None:
        self._source: Iterator[Any] = iter(it if it is not None else ())
        self._taken: list[Any] = []
        self._done = False

    def __reduce__(self) -> tuple[type[list[Any]], tuple[list[Any]]]:
        return list, (self.data,)

    def __reduce_ex__(self, protocol: Any) -> tuple[type[list[Any]], tuple[list[Any]]]:
        return self.__reduce__()

    def __deepcopy__(self, memo: dict[int, Any]) -> _regen:
        memo[id(self)] = self
        return self

    def __length_hint__(self) -> int:
        return len(self.data)

    @property
    def data(self) -> list[Any]:  # type: ignore[override]  # read-only: the source decides
        """All values."""
        if not self._done:
            self._taken.extend(self._source)
            self._done = True
        return self._taken

    def _take_one(self) -> bool:
        if self._done:
            return False
        try:
            self._taken.append(next(self._source))
        except StopIteration:
            self._done = True
        return not self._done

    def __iter__(self) -> Iterator[Any]:
        index = 0
        while index < len(self._taken) or self._take_one():
            yield self._taken[index]
            index += 1

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, int) or index < 0:
            return self.data[index]
        while index >= len(self._taken) and self._take_one():
            pass
        return self._taken[index]

    def __bool__(self) -> bool:
        return bool(self._taken) or self._take_one()

    def __repr__(self) -> str:
        # Must not take from the source: a log line would change what runs.
        values = ", ".join(repr(value) for value in self._taken)
        return f"<{type(self).__name__}: [{values}{'' if self._done else '...'}]>"


class _NoMatter:
    """Stands for every default in a header: what it is does not matter, only that there is one."""

    def __repr__(self) -> str:
        return "None"


def head_from_fun(fun: Callable[..., Any], bound: bool = False) -> Callable[..., Any]:
    """A function that accepts what `fun` accepts, and raises TypeError for anything else.

    It is compiled, once, with the parameters of `fun`: a call is checked by Python itself, as fast
    as any call and with Python's own words.

    Arguments:
        bound: the first parameter (self) is not the caller's.
    """
    # An instance is asked for its __call__ and a class for what it defines, as for a task.
    is_plain = inspect.isroutine(fun)
    try:
        signature = inspect.signature(fun if is_plain else fun.__call__)  # type: ignore[operator]  # any callable has it
    except ValueError:
        # Some builtins do not tell; they check for themselves.
        signature = inspect.signature(lambda *args, **kwargs: None)
    parameters = [
        parameter.replace(
            annotation=parameter.empty,
            default=parameter.empty if parameter.default is parameter.empty else _NoMatter(),
        )
        for parameter in signature.parameters.values()
    ][1 if bound else 0 :]
    bare = inspect.Signature(parameters)
    made: dict[str, Any] = {}
    exec(compile(f"def head{bare}: return 1", "<signature of a task>", "exec"), made)
    head: Callable[..., Any] = made["head"]
    head.__name__ = head.__qualname__ = fun.__name__ if is_plain else type(fun).__name__
    return head


def arity_greater(fun: Callable[..., Any], n: int) -> Any:
    """Whether `fun` takes more than `n` positional arguments."""
    spec = inspect.getfullargspec(fun)
    return spec.varargs or len(spec.args) > n


def fun_takes_argument(name: str, fun: Callable[..., Any], position: int | None = None) -> Any:
    """Whether `fun` takes an argument of that name, or has one at that position."""
    spec = inspect.getfullargspec(fun)
    return (
        spec.varkw
        or spec.varargs
        or (len(spec.args) >= position if position else name in spec.args)
    )


def fun_accepts_kwargs(fun: Callable[..., Any]) -> bool:
    """Whether `fun` takes any keyword argument."""
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(fun).parameters.values())


def maybe(typ: Callable[[Any], T], val: Any) -> T | None:
    """`typ(val)`, or None for None."""
    return typ(val) if val is not None else None


def seq_concat_item(seq: Any, item: Any) -> Any:
    """`seq` and one more item, in the type of `seq`."""
    return (*seq, item) if isinstance(seq, tuple) else [*seq, item]


def seq_concat_seq(a: Any, b: Any) -> Any:
    """Both sequences one after the other, in the type of the first."""
    return type(a)((*a, *b))


def is_numeric_value(value: Any) -> bool:
    """Whether it is an int or float, and not a truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
