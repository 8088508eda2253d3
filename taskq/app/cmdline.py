"""Settings given on the command line, as `namespace.name=value`.

Before the journey: the worker and beat hand what follows their options to the loader.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kombu.utils import json

from taskq.app.defaults import OPTIONS
from taskq.app.option import Option, to_bool
from taskq.exceptions import ImproperlyConfigured
from taskq.utils.text import closest

__all__ = ["RE_TYPE", "parse_settings"]

RE_TYPE = re.compile(r"\((\w+)\)")

_CASTS: dict[str, Callable[[str], Any]] = {
    "json": json.loads,
    "int": int,
    "float": float,
    "bool": to_bool,
}
_READ_AS = {"tuple": "json", "list": "json", "dict": "json"}


def parse_settings(
    args: Iterable[str],
    namespace: str = "celery",
    re_type: re.Pattern[str] = RE_TYPE,
    extra_types: Mapping[str, Callable[[str], Any]] | None = None,
    override_types: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Names and values of the settings in `args`; see `BaseLoader.cmdline_config_parser`."""
    casts = {**_CASTS, **(extra_types or {})}
    read_as = {**_READ_AS, **(override_types or {})}
    settings = {}
    for arg in args:
        name, sign, text = arg.strip().partition("=")
        if not sign:
            raise ImproperlyConfigured(
                f"{arg!r} sets nothing: write {arg}=value, with no blanks around the ="
            )
        name = _setting_name(name, namespace)
        cast = re_type.match(text)
        if cast is None:
            settings[name] = _convert(name, text, _known_option(name).to_python)
            continue
        kind = read_as.get(cast[1], cast[1])
        if kind not in casts:
            kinds = ", ".join({**casts, **read_as})
            raise ImproperlyConfigured(f"{arg}: {cast[1]!r} is no type; the types are {kinds}")
        settings[name] = _convert(name, text[cast.end() :], casts[kind])
    return settings


def _setting_name(name: str, namespace: str) -> str:
    """`ns.name`, `.name` (within `namespace`) or a whole name, as a whole name."""
    name = name.lower()
    if "." not in name:
        return name
    space, _, key = name.partition(".")
    space, key = space or namespace, key.replace(".", "_")
    return key if space == "celery" else f"{space}_{key}"


def _known_option(name: str) -> Option:
    option = OPTIONS.get(name)
    if option is None:
        near = closest(name, OPTIONS)
        hint = f"did you mean {near!r}? Write" if near else "write"
        raise ImproperlyConfigured(
            f"there is no setting {name!r}: {hint} namespace.name=value, as in worker.pool=solo"
        )
    return option


def _convert(name: str, text: str, to_python: Callable[[str], Any]) -> Any:
    try:
        return to_python(text)
    except (TypeError, ValueError) as exc:
        raise ImproperlyConfigured(f"{name}: cannot use {text!r}: {exc}") from exc
