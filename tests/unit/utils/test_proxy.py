"""A proxy behaves as its object; a promise makes it once."""

from __future__ import annotations

import copy
import operator
import pickle
from typing import Any

import pytest

from taskq.utils.proxy import PromiseProxy, Proxy, maybe_evaluate, try_import


class Target:
    """What it is."""

    x = 1

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    def __or__(self, other: Any) -> Any:
        return "or", other

    def __enter__(self) -> str:
        return "entered"

    def __exit__(self, *args: Any) -> None:
        pass


def test_a_proxy_is_what_it_stands_for() -> None:
    target = Target()
    proxy = Proxy(lambda: target)
    assert proxy.x == 1
    assert proxy(1, a=2) == ((1,), {"a": 2})
    assert proxy | 3 == ("or", 3)
    assert isinstance(proxy, Target)
    assert type(proxy) is Proxy
    assert proxy == target and hash(proxy) == hash(target)
    assert proxy.__doc__ == "What it is."
    assert proxy.__module__ == __name__
    with proxy as entered:
        assert entered == "entered"
    proxy.y = 5
    assert target.y == 5  # type: ignore[attr-defined]  # set through the proxy
    del proxy.y
    assert not hasattr(target, "y")
    assert "x" in dir(proxy)
    assert proxy.__dict__ is target.__dict__


@pytest.mark.parametrize(
    "operation",
    [operator.add, operator.sub, operator.mul, operator.mod, operator.lt, operator.eq, divmod],
)
def test_operators_are_forwarded(operation: Any) -> None:
    assert operation(Proxy(lambda: 7), 3) == operation(7, 3)


def test_conversions_and_containers() -> None:
    seven, items = Proxy(lambda: 7), Proxy(lambda: [1, 2])
    assert (int(seven), float(seven), abs(Proxy(lambda: -7)), -seven, str(seven)) == (
        7,
        7.0,
        7,
        -7,
        "7",
    )
    assert range(10)[seven] == 7
    assert (len(items), list(items), 1 in items, items[1]) == (2, [1, 2], True, 2)
    items[0] = 3
    assert not Proxy(lambda: None)
    assert Proxy(lambda: None) == None  # noqa: E711
    assert Proxy(lambda a, b=0: (a, b), (1,), {"b": 2})[1] == 2


def test_names_can_be_told_without_the_object() -> None:
    def never() -> None:
        raise AssertionError("evaluated")

    proxy = Proxy(never, name="add", __doc__="Adds.")
    assert (proxy.__name__, proxy.__doc__) == ("add", "Adds.")
    assert Proxy.__name__ == "Proxy"
    assert Proxy.__module__ == "taskq.utils.proxy"
    assert "Behaves as" in (Proxy.__doc__ or "")
    promise = PromiseProxy(never, name="add", __doc__="Adds.")
    assert (promise.__name__, promise.__doc__) == ("add", "Adds.")
    assert not promise.__evaluated__()


def test_an_unbound_proxy_can_be_looked_at() -> None:
    def unbound() -> None:
        raise RuntimeError("object unbound")

    proxy = Proxy(unbound)
    assert repr(proxy) == "<Proxy unbound>"
    assert not proxy
    assert dir(proxy) == []
    with pytest.raises(RuntimeError, match="unbound"):
        proxy.x


def test_a_promise_makes_its_object_once() -> None:
    made: list[Target] = []

    def make() -> Target:
        made.append(Target())
        return made[-1]

    heard: list[str] = []
    promise = PromiseProxy(make)
    promise.__then__(heard.append, "early")
    assert made == [] and heard == []
    assert promise.x == 1
    assert promise.__evaluated__()
    assert maybe_evaluate(promise) is made[0]
    promise.__then__(heard.append, "late")
    assert heard == ["early", "late"]
    assert len(made) == 1


def test_maybe_evaluate_leaves_other_things_alone() -> None:
    target = Target()
    proxy = Proxy(lambda: target)
    assert maybe_evaluate(3) == 3
    assert maybe_evaluate(proxy) is proxy


def test_copies_and_pickles_are_of_the_object() -> None:
    items = [1, 2]
    proxy = Proxy(lambda: items)
    assert type(copy.copy(proxy)) is list
    assert pickle.loads(pickle.dumps(proxy)) == [1, 2]


def test_try_import() -> None:
    assert try_import("no_such_module") is None
    assert try_import("no_such_module", 3) == 3
    assert try_import("operator") is operator
