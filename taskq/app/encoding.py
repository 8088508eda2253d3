"""This file knows what messages can be written with: serialisers, compressions, and their extras.

Serves step 4 of the journey; kombu does the writing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kombu import compression
from kombu.exceptions import SerializerNotInstalled
from kombu.serialization import pickle_protocol, registry
from kombu.utils import json

from taskq.exceptions import UnknownCompression
from taskq.utils.json_writing import build_writer
from taskq.utils.serialization import pickle_dumps, pickle_loads
from taskq.utils.text import closest

__all__ = (
    "check_accepted",
    "check_compression",
    "explain_unwritable",
    "not_installed",
    "register_json",
    "register_pickle",
    "register_zstd",
    "utf8dict",
)

#: Serialisers and compressions that come with an extra: name -> extra.
_EXTRAS = {
    "brotli": "brotli",
    "msgpack": "msgpack",
    "yaml": "yaml",
    "zstandard": "zstd",
    "zstd": "zstd",
}


def check_compression(name: str) -> None:
    """Raise UnknownCompression when messages cannot be compressed with `name` here."""
    try:
        compression.get_encoder(name)
    except KeyError:
        raise UnknownCompression(not_installed("compression", name)) from None


def not_installed(what: str, name: str | None) -> str:
    """Why a serialiser or compression (`what`) cannot be used, and what to do."""
    if name == "auth":
        return "the serializer 'auth' is not set up: call app.setup_security() in every process"
    extra = _EXTRAS.get(str(name).rpartition("/")[2].removeprefix("x-"))
    if extra is not None:
        return f"the {what} {name!r} is not installed here: it comes with taskq[{extra}]"
    known = sorted(registry._encoders if what == "serializer" else compression._aliases)
    near = closest(str(name), known)
    hint = f"did you mean {near!r}?" if near else f"known are {', '.join(known)}"
    return f"No encoder installed for {name}: {what} {name!r} is not known here; {hint}"


def check_accepted(setting: str, names: Iterable[str] | None) -> None:
    """Raise SerializerNotInstalled when a setting accepts what no serializer here is called."""
    for name in names or ():
        if isinstance(name, str) and ("/" in name or name in registry.name_to_type):
            continue
        if name == "auth":
            why = not_installed("serializer", name)
        else:
            known = sorted(registry.name_to_type)
            near = closest(str(name), known)
            why = f"did you mean {near!r}?" if near else f"known are {', '.join(known)}"
        raise SerializerNotInstalled(f"{setting} names {name!r}, which is not known here: {why}")


def explain_unwritable(properties: Mapping[str, Any], exc: Exception) -> Exception:
    """What to raise for properties that AMQP has no bytes for; `exc` when nothing is known."""
    priority = properties.get("priority")
    if priority is None or (isinstance(priority, int) and 0 <= priority <= 255):
        return exc
    return ValueError(f"priority must be a whole number from 0 to 255, not {priority!r:.80}")


def register_json() -> None:
    """Give kombu's JSON a writer that is made once, and not for every message.

    It writes what kombu's does. A JSON that the program has replaced stays.
    """
    own = registry._encoders.get("json")
    if own is not None and own.encoder is json.dumps:
        registry._encoders["json"] = own._replace(encoder=build_writer(json.JSONEncoder()))


def register_pickle() -> None:
    """Give kombu's pickle our reader and writer, which know Celery's names of our modules.

    They do what kombu's do for everything else. A pickle that the program has replaced stays.
    """
    own = registry._encoders.get("pickle")
    if own is not None and own.encoder.__module__ == "kombu.serialization":
        registry.register(
            "pickle",
            lambda obj: pickle_dumps(obj, protocol=pickle_protocol),
            pickle_loads,
            content_type="application/x-python-serialize",
            content_encoding="binary",
        )


def register_zstd() -> None:
    """Give kombu the zstandard package for zstd, where it has not found a zstd of its own."""
    if "application/zstd" in compression.encoders():
        return
    try:
        import zstandard
    except ImportError:
        return
    compression.register(
        zstandard.compress,
        # Unlike zstandard.decompress, this reads frames that do not say how long they are.
        lambda body: zstandard.ZstdDecompressor().decompressobj().decompress(body),
        "application/zstd",
        aliases=["zstd", "zstandard"],
    )


def utf8dict(d: Mapping[Any, Any], encoding: str = "utf-8") -> dict[Any, Any]:
    """The mapping with keys that are bytes decoded."""
    return {k.decode(encoding) if isinstance(k, bytes) else k: v for k, v in d.items()}
