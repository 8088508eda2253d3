"""This file is a call as bytes: what a job of the process pool is to a child.

A function is pickled as its name, and is nearly always the same one: its bytes are made once here
and looked up once there. They go before the rest, behind their length; no length: all is one
pickle.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import lru_cache
from types import FunctionType
from typing import Any

__all__ = ("decode_call", "encode_call")

#: Bytes of the length.
SIZE = 2

Call = tuple[Callable[..., Any], Any, Any]


def encode_call(target: Callable[..., Any], args: Any, kwargs: Any) -> bytes:
    """Give the bytes of target(*args, **kwargs); raises what pickle raises."""
    if type(target) is FunctionType:
        return _encode_name(target) + pickle.dumps((args, kwargs), pickle.HIGHEST_PROTOCOL)
    return bytes(SIZE) + pickle.dumps((target, args, kwargs), pickle.HIGHEST_PROTOCOL)


def decode_call(call: Any) -> Call:
    """Give (target, args, kwargs) of such bytes; raises what pickle raises."""
    size = call[0] << 8 | call[1]
    if size:
        args, kwargs = pickle.loads(call[SIZE + size :])
        return _find_function(bytes(call[SIZE : SIZE + size])), args, kwargs
    found: Call = pickle.loads(call[SIZE:])
    return found


@lru_cache(64)
def _encode_name(target: FunctionType) -> bytes:
    name = pickle.dumps(target, pickle.HIGHEST_PROTOCOL)
    return len(name).to_bytes(SIZE, "big") + name


@lru_cache(64)
def _find_function(name: bytes) -> Callable[..., Any]:
    found: Callable[..., Any] = pickle.loads(name)
    return found
