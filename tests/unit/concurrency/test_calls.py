"""What a job is to a child, as bytes."""

from __future__ import annotations

import pickle
from functools import partial
from typing import Any

import pytest
from contract import child_jobs as jobs

from taskq.concurrency.calls import decode_call, encode_call


@pytest.mark.parametrize("target", [jobs.nap, max, partial(max, 3), "text".upper, int])
def test_a_call_arrives_as_it_was_sent(target: Any) -> None:
    for _ in range(2):
        call = memoryview(encode_call(target, (1, 2), {"key": [3]}))
        found, args, kwargs = decode_call(call)
        assert (args, kwargs) == ((1, 2), {"key": [3]})
        assert pickle.dumps(found) == pickle.dumps(target)


def test_what_a_target_holds_is_not_remembered() -> None:
    target = partial(max, 1)
    encode_call(target, (), {})
    target.keywords["key"] = abs
    found, _, _ = decode_call(encode_call(target, (), {}))
    assert found.keywords == {"key": abs}


def test_a_function_without_a_name_cannot_be_sent() -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        encode_call(lambda: None, (), {})
