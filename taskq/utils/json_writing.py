"""JSON text written by one C encoder that is made once; `json` makes a new one for every text."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

__all__ = ("build_writer", "is_ours")

_make_c_encoder: Any = getattr(json.encoder, "c_make_encoder", None)


def build_writer(encoder: json.JSONEncoder) -> Callable[[Any], str]:
    """A function that gives what `encoder.encode` gives, and raises what it raises.

    It does not look for circles: they end in a RecursionError, and then `encoder` has a look.
    """
    if _make_c_encoder is None or not encoder.ensure_ascii or encoder.indent is not None:
        return encoder.encode
    write = _make_c_encoder(
        None,
        encoder.default,
        json.encoder.encode_basestring_ascii,
        None,
        encoder.key_separator,
        encoder.item_separator,
        encoder.sort_keys,
        encoder.skipkeys,
        encoder.allow_nan,
    )
    join = "".join

    def encode(value: Any) -> str:
        try:
            return join(write(value, 0))
        except RecursionError:
            return encoder.encode(value)

    return encode


def is_ours(writer: Callable[[Any], str]) -> bool:
    """Whether build_writer has made it: what it writes may be put together from parts."""
    return writer.__module__ == __name__
