"""Text for people: cut, indent, fill, format and represent values without ever failing."""

from __future__ import annotations

import difflib
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import islice
from pprint import pformat
from re import Match, Pattern
from typing import Any, overload

from kombu.utils.encoding import safe_repr

__all__ = (
    "abbr",
    "abbrtask",
    "build_task_id",
    "closest",
    "dedent",
    "dedent_initial",
    "ensure_newlines",
    "ensure_sep",
    "fill_paragraphs",
    "indent",
    "join",
    "pluralize",
    "pretty",
    "remove_repeating",
    "remove_repeating_from_task",
    "saferepr",
    "simple_format",
    "str_to_list",
    "truncate",
)

RE_FORMAT = re.compile(r"%([%\w])")

_UNKNOWN_FORMAT_KEY = (
    "Unknown format %{0} in string {1!r}: known are {2}. "
    "A percent sign that stands for itself is written %%; was the text expanded twice?"
)


def closest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate a misspelled `name` most probably stands for, or None."""
    known = {candidate.lower(): candidate for candidate in candidates}
    found = difflib.get_close_matches(name.lower(), known, n=1)
    return known[found[0]] if found else None


@overload
def str_to_list(s: str) -> list[str]: ...
@overload
def str_to_list(s: list[str]) -> list[str]: ...
@overload
def str_to_list(s: None) -> None: ...
def str_to_list(s: str | list[str] | None) -> list[str] | None:
    """Split `a,b` at its commas; anything but text comes back as it is."""
    return s.split(",") if isinstance(s, str) else s


def dedent_initial(s: str, n: int = 4) -> str:
    """`s` without its first `n` spaces, if it starts with that many."""
    return s[n:] if s[:n] == " " * n else s


def dedent(s: str, sep: str = "\n") -> str:
    """Remove the first indentation of four spaces from every line."""
    return sep.join(dedent_initial(line) for line in s.splitlines())


def fill_paragraphs(s: str, width: int, sep: str = "\n") -> str:
    """Wrap every paragraph of `s` at `width` characters."""
    return sep.join(textwrap.fill(paragraph, width) for paragraph in s.split(sep))


def join(l: Iterable[str | None], sep: str = "\n") -> str:  # noqa: E741  (Celery's parameter name)
    """Join the texts that are not empty."""
    return sep.join(value for value in l if value)


def ensure_sep(sep: str, s: str, n: int = 2) -> str:
    """`s`, ending in at least `n` times `sep`."""
    return s + sep * (n - s.count(sep))


ensure_newlines: Callable[..., str] = partial(ensure_sep, "\n")


def abbr(S: str | None, max: int, ellipsis: str | None = "...") -> str:
    """`S` cut to `max` characters, the ellipsis included; `???` for None."""
    if S is None:
        return "???"
    if len(S) <= max:
        return S
    return S[: max - len(ellipsis)] + ellipsis if ellipsis else S[:max]


def abbrtask(S: str | None, max: int) -> str:
    """A task name cut to `max` characters in favour of its last part: `proj.t[.]add`."""
    if S is None:
        return "???"
    if len(S) <= max:
        return S
    module, _, last = S.rpartition(".")
    return abbr(module, max - len(last), None)[: max - len(last) - 3 or None] + "[.]" + last


def indent(t: str, indent: int = 0, sep: str = "\n") -> str:
    """Every line of `t` behind `indent` spaces."""
    return sep.join(" " * indent + line for line in t.split(sep))


def truncate(s: str, maxlen: int = 128, suffix: str = "...") -> str:
    """`s` cut to `maxlen` characters, at the last space if there is one, plus `suffix`."""
    if maxlen and len(s) >= maxlen:
        return s[:maxlen].rsplit(" ", 1)[0] + suffix
    return s


def pluralize(n: float, text: str, suffix: str = "s") -> str:
    """`text`, with `suffix` unless `n` is 1."""
    return text if n == 1 else text + suffix


def pretty(value: Any, width: int = 80, nl_width: int = 80, sep: str = "\n", **kw: Any) -> str:
    """`value` over several lines; a dict starts on a line of its own."""
    if isinstance(value, dict):
        return f"{sep} {pformat(value, 4, nl_width)[1:]}"
    return pformat(value, width=width, **kw)


def simple_format(
    s: str | None,
    keys: Mapping[str, str | Callable[[], str]],
    pattern: Pattern[str] = RE_FORMAT,
    expand: str = r"\1",
) -> str | None:
    """Replace `%x` by `keys["x"]` (called, if it can be) and `%%` by a percent sign.

    Raises:
        ValueError: `s` holds a `%x` that is not among the keys.
    """
    if not s:
        return s
    known = {**keys, "%": "%"}

    def resolve(match: Match[str]) -> str:
        key = match.expand(expand)
        try:
            value = known[key]
        except KeyError:
            raise ValueError(
                _UNKNOWN_FORMAT_KEY.format(key, s, " ".join(f"%{k}" for k in sorted(known)))
            ) from None
        return value() if callable(value) else value

    return pattern.sub(resolve, s)


def remove_repeating_from_task(task_name: str, s: str) -> str:
    """Leave out the module of `task_name` where `s` repeats it: `[proj.tasks.add(2, 2)]`."""
    module = task_name.rpartition(".")[0] + "."
    return remove_repeating(module, s)


def remove_repeating(substr: str, s: str) -> str:
    """`s` with only the first occurrence of `substr` left."""
    index = s.find(substr)
    if index < 0:
        return s
    head_end = index + len(substr)
    return s[:head_end] + s[head_end:].replace(substr, "")


#: Longer ones may have more digits than Python likes to write.
LARGE_NUMBER = 10**18

_SCALARS = frozenset({int, float, bool, complex, type(None)})
_TEXTS = frozenset({str, bytes})
#: The repr that builtin containers have: a subclass with one of its own decides for itself.
_BRACKETS: dict[Any, tuple[str, str, str]] = {
    list.__repr__: ("[", "]", "[]"),
    tuple.__repr__: ("(", ")", "()"),
    dict.__repr__: ("{", "}", "{}"),
    set.__repr__: ("{", "}", "set()"),
    frozenset.__repr__: ("frozenset({", "})", "frozenset()"),
}


def saferepr(
    o: Any, maxlen: int | None = None, maxlevels: int = 3, seen: set[int] | None = None
) -> str:
    """`repr(o)` that neither fails nor grows: for logs and the argsrepr header.

    Arguments:
        maxlen: characters after which the text is cut; it then ends in `..., ...)` with its
            closing bracket, so it can run a few characters over. None or 0 is no limit.
        maxlevels: depth below which containers are shown as `[...]`; 0 is no limit.
        seen: ids of the containers around `o`, shown as recursion.
    """
    # Nearly all results and arguments are a few plain values: those need no walk.
    kind = type(o)
    if kind in _SCALARS and (kind is not int or -LARGE_NUMBER < o < LARGE_NUMBER):
        text = repr(o)
        if not maxlen or len(text) <= maxlen:
            return text
    if kind is tuple or kind is dict:
        for value in o.values() if kind is dict else o:
            value_kind = type(value)
            if value_kind not in _SCALARS and (
                value_kind not in _TEXTS or (maxlen and len(value) > maxlen)
            ):
                break
        else:
            if kind is tuple or all(map(str.__instancecheck__, o)):
                text = repr(o)
                if not maxlen or len(text) <= maxlen:
                    return text
    writer = _ReprWriter(maxlen or None, maxlevels or None, seen)
    writer.write_value(o, 0)
    return "".join(writer.parts)


class _ReprWriter:
    """Writes a value piece by piece and stops when the text is long enough."""

    def __init__(
        self, maxlen: int | None, maxlevels: int | None, seen: set[int] | None = None
    ) -> None:
        self.parts: list[str] = []
        self.left = maxlen
        self.maxlevels = maxlevels
        self.seen = set() if seen is None else seen

    @property
    def is_full(self) -> bool:
        return self.left is not None and self.left <= 0

    def write_value(self, o: Any, level: int) -> None:
        kind = type(o)
        if kind in _TEXTS:
            self.write_text(o)
            return
        brackets = _BRACKETS.get(kind.__repr__)
        if brackets is None:
            self.write(safe_repr(o))
        else:
            self.write_container(o, level, *brackets)

    def write(self, text: str) -> None:
        if self.left is None:
            self.parts.append(text)
            return
        if len(text) > self.left:
            text = text[: max(self.left, 0)] + "..."
        self.left -= len(text)
        self.parts.append(text)

    def write_text(self, o: str | bytes) -> None:
        """Text is cut before it is quoted, so that 10 MB are never copied for a log line."""
        if self.left is None or len(o) <= self.left:
            self.write_whole(repr(o))
        else:
            shown = repr(o[: max(self.left, 0)])
            self.write_whole(f"{shown[:-1]}...{shown[-1]}")

    def write_whole(self, text: str) -> None:
        if self.left is not None:
            self.left -= len(text)
        self.parts.append(text)

    def write_container(self, o: Any, level: int, start: str, end: str, empty: str) -> None:
        if not o:
            self.write_whole(empty)
            return
        if id(o) in self.seen:
            self.write_whole(f"<Recursion on {type(o).__name__} with id={id(o)}>")
            return
        self.write_whole(start)
        if self.maxlevels is not None and level >= self.maxlevels:
            self.write_whole("...")
        else:
            self.seen.add(id(o))
            self.write_items(o, level + 1)
            self.seen.discard(id(o))
        one_tuple = isinstance(o, tuple) and len(o) == 1
        self.write_whole(f",{end}" if one_tuple else end)

    def write_items(self, o: Any, level: int) -> None:
        is_mapping = isinstance(o, dict)
        # A copy, as another thread may change the arguments meanwhile; no longer than can be shown.
        shown = None if self.left is None else max(self.left, 0) + 1
        for index, item in enumerate(list(islice(o.items() if is_mapping else o, shown))):
            if index:
                if self.is_full:
                    self.write_whole(", ...")
                    return
                self.write_whole(", ")
            if is_mapping:
                self.write_value(item[0], level)
                self.write_whole(": ")
                item = item[1]
            self.write_value(item, level)


def build_task_id() -> str:
    """A new random UUID (version 4) as text, in a third of the time uuid.uuid4 takes."""
    digits = os.urandom(16).hex()
    variant = "89ab"[ord(digits[16]) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
