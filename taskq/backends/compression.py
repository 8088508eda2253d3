"""How a result document is compressed: a magic word and the method's name in front of the bytes.

Readers need no setting: a payload without the magic word is taken as it is.
"""

from __future__ import annotations

from typing import Any

from kombu.compression import compress, decompress, encoders
from kombu.utils.encoding import bytes_to_str, ensure_bytes

from taskq.exceptions import ImproperlyConfigured

__all__ = (
    "COMPRESSED_PAYLOAD_MAGIC",
    "E_UNKNOWN_COMPRESSION",
    "compress_payload",
    "decompress_payload",
    "require_compression",
)

COMPRESSED_PAYLOAD_MAGIC = b"\x00celery-compressed\x00"

E_UNKNOWN_COMPRESSION = """\
Unknown compression method {0!r} configured in result_compression.
Available methods are: {1}.
"""

#: Methods that come with an optional package, and the extra that brings it.
_EXTRAS = {"zstd": "zstd", "zstandard": "zstd", "brotli": "brotli"}


def compress_payload(payload: Any, compression: str) -> bytes:
    """`payload` (text or bytes) compressed and marked; KeyError for an unknown method."""
    body, content_type = compress(ensure_bytes(payload), compression)
    return COMPRESSED_PAYLOAD_MAGIC + content_type.encode() + b"\x00" + body


def decompress_payload(payload: Any) -> Any:
    """What compress_payload() was given; anything that is not marked comes back unchanged."""
    if not isinstance(payload, (bytes, bytearray, memoryview)):
        return payload
    body = bytes(payload)
    if not body.startswith(COMPRESSED_PAYLOAD_MAGIC):
        return payload
    content_type, _, compressed = body[len(COMPRESSED_PAYLOAD_MAGIC) :].partition(b"\x00")
    return decompress(compressed, bytes_to_str(content_type))


def require_compression(compression: str) -> str:
    """`compression` if there is such a method, else ImproperlyConfigured naming those there are."""
    try:
        compress(b"", compression)
    except KeyError as exc:
        text = E_UNKNOWN_COMPRESSION.format(compression, ", ".join(sorted(encoders())))
        extra = _EXTRAS.get(compression.lower())
        if extra:
            text += f'It comes with an extra: pip install "taskq[{extra}]".\n'
        raise ImproperlyConfigured(text) from exc
    return compression
