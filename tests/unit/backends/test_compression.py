"""Compressed result documents."""

from __future__ import annotations

from typing import Any

import pytest

from taskq.backends.base import COMPRESSED_PAYLOAD_MAGIC, compress_payload, decompress_payload
from taskq.backends.compression import require_compression
from taskq.exceptions import ImproperlyConfigured


@pytest.mark.parametrize("method", ["zlib", "gzip", "bzip2", "application/x-gzip"])
@pytest.mark.parametrize("payload", ["text ☃", b"\x00bytes"])
def test_there_and_back(method: str, payload: Any) -> None:
    packed = compress_payload(payload, method)
    assert packed.startswith(COMPRESSED_PAYLOAD_MAGIC)
    expected = payload.encode() if isinstance(payload, str) else payload
    assert decompress_payload(packed) == expected
    assert decompress_payload(memoryview(packed)) == expected


def test_the_form_is_celerys() -> None:
    assert compress_payload("abc", "zlib").startswith(
        b"\x00celery-compressed\x00application/x-gzip\x00x\x9c"
    )


@pytest.mark.parametrize("payload", [None, "text", b"bytes", b"", b"\x00celery-comp"])
def test_what_is_not_marked_is_left_alone(payload: Any) -> None:
    assert decompress_payload(payload) is payload


def test_an_unknown_method() -> None:
    with pytest.raises(KeyError):
        compress_payload("abc", "nope")
    with pytest.raises(KeyError):
        decompress_payload(COMPRESSED_PAYLOAD_MAGIC + b"application/x-nope\x00aaa")
    with pytest.raises(ImproperlyConfigured, match=r"'nope'.*\n.*application/x-gzip"):
        require_compression("nope")
    assert require_compression("zlib") == "zlib"
