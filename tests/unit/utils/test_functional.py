"""Functions on functions and sequences."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from taskq.utils import functional
from taskq.utils.functional import head_from_fun, mlazy, regen


def plain(a: int, b: int = 1, *args: int, c: int, d: int = 2, **kw: int) -> None: ...


class Adder:
    def method(self, a: int) -> None: ...

    def __call__(self, x: int, y: int = 1) -> None: ...


@pytest.mark.parametrize(
    ("fun", "bound", "args", "kwargs"),
    [
        (plain, False, (1,), {"c": 3}),
        (plain, False, (1, 2, 3, 4), {"c": 3, "z": 9}),
        (Adder(), False, (1,), {"y": 2}),
        (Adder().method, False, (1,), {}),
        (Adder.method, True, (1,), {}),
        (max, False, (1, 2), {"key": None}),
    ],
)
def test_a_head_accepts_what_its_function_accepts(
    fun: Any, bound: bool, args: Any, kwargs: Any
) -> None:
    head_from_fun(fun, bound=bound)(*args, **kwargs)


@pytest.mark.parametrize(
    ("fun", "bound", "args", "kwargs", "name"),
    [
        (plain, False, (1,), {}, "plain"),
        (Adder(), False, (), {}, "Adder"),
        (Adder.method, True, (1, 2), {}, "method"),
        (lambda x: None, False, (), {"y": 1}, "<lambda>"),
    ],
)
def test_a_head_refuses_what_its_function_refuses(
    fun: Any, bound: bool, args: Any, kwargs: Any, name: str
) -> None:
    with pytest.raises(TypeError, match=f"{name}\\(\\)"):
        head_from_fun(fun, bound=bound)(*args, **kwargs)


def test_regen_takes_values_as_they_are_asked_for() -> None:
    taken: list[int] = []

    def source() -> Iterator[int]:
        for number in range(5):
            taken.append(number)
            yield number

    values = regen(source())
    assert isinstance(values, list)
    assert repr(values) == "<_regen: [...]>"
    assert taken == []
    assert values[1] == 1
    assert taken == [0, 1]
    assert bool(values)
    assert repr(values) == "<_regen: [0, 1...]>"
    assert list(values) == list(values) == [0, 1, 2, 3, 4]
    assert (len(values), values[-1], values[1:3], 3 in values) == (5, 4, [1, 2], True)
    assert values == [0, 1, 2, 3, 4]
    with pytest.raises(IndexError):
        values[5]


def test_regen_leaves_lists_and_tuples_alone() -> None:
    for value in ([1], (1,), []):
        assert regen(value) is value
    assert not regen(iter(()))


def test_regen_travels_as_a_list() -> None:
    assert json.dumps(regen(iter([1, 2]))) == "[1, 2]"
    assert type(pickle.loads(pickle.dumps(regen(iter([1, 2]))))) is list
    values = regen(iter([1, 2]))
    assert copy.deepcopy(values) is values


def test_mlazy_computes_once() -> None:
    calls: list[int] = []
    value = mlazy(calls.append, 1)
    assert not value.evaluated
    value()
    value()
    assert value.evaluated
    assert calls == [1]


def test_first_and_firstmethod() -> None:
    class Silent:
        def ask(self, x: int) -> None:
            return None

    class Telling:
        def ask(self, x: int) -> int:
            return x * 2

    assert functional.first(None, [None, 0, 1]) == 0
    assert functional.first(lambda x: x > 1, [1, 2, 3]) == 2
    assert functional.first(lambda x: x > 9, [1]) is None
    assert functional.firstmethod("ask")([Silent(), object(), mlazy(Telling)], 4) == 8
    assert functional.firstmethod("ask", lambda m, x: m(x + 1))([Telling()], 4) == 10
    assert functional.firstmethod("ask")([Silent()], 4) is None


def test_sequences() -> None:
    assert list(functional.chunks(iter(range(7)), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(functional.chunks([], 3)) == []
    assert functional.padlist([1], 3, 9) == [1, 9, 9]
    assert functional.padlist([1, 2, 3], 2) == [1, 2]
    assert list(functional.uniq([1, 2, 1])) == [1, 2]
    assert list(functional.lookahead([1, 2])) == [(1, 2), (2, None)]
    assert list(functional.lookahead([])) == []
    assert functional.seq_concat_item((1,), 2) == (1, 2)
    assert functional.seq_concat_item([1], 2) == [1, 2]
    assert functional.seq_concat_seq([1], (2,)) == [1, 2]


def test_questions_about_functions() -> None:
    assert functional.fun_accepts_kwargs(plain)
    assert not functional.fun_accepts_kwargs(lambda a: None)
    assert functional.arity_greater(lambda a, b: None, 1)
    assert not functional.arity_greater(lambda a: None, 1)
    assert functional.fun_takes_argument("a", lambda a: None)
    assert not functional.fun_takes_argument("b", lambda a: None)
    assert functional.fun_takes_argument("b", lambda a, b: None, position=2)


def test_small_ones() -> None:
    assert functional.noop(1, x=2) is None
    assert functional.maybe(int, "3") == 3
    assert functional.maybe(int, None) is None
    assert functional.mattrgetter("real", "nope")(3) == {"real": 3, "nope": None}
    assert functional.is_numeric_value(1.5) and not functional.is_numeric_value(True)
    with functional.DummyContext():
        pass
