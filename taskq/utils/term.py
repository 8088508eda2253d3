"""Colours for terminals: `str(colored().red("broken"))`."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

from kombu.utils.encoding import safe_str

__all__ = ("colored",)

_RESET_SEQ = "\033[0m"
_NAMES = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")


def _style(code: str) -> Callable[..., colored]:
    """A method that gives its texts behind this escape sequence."""

    def style(self: colored, *s: Any) -> colored:
        return self.node(s, f"\033[{code}m")

    return style


class colored:
    """Text with colours, put together by calls: `c.blue("a ", c.red("b"), " c")`.

    Arguments:
        s: texts or other coloured objects.
        enabled: without colours the text comes out plain.
        op: the escape sequence before the text.
    """

    def __init__(self, *s: Any, **kwargs: Any) -> None:
        self.s: tuple[Any, ...] = s
        self.enabled: bool = platform.system() != "Windows" and kwargs.get("enabled", True)
        self.op: str = kwargs.get("op", "")
        self.names: dict[str, Callable[..., colored]] = {
            name: getattr(self, name) for name in _NAMES
        }

    def __str__(self) -> str:
        parts = (str(part) if isinstance(part, colored) else safe_str(part) for part in self.s)
        text = "".join(parts)
        if self.enabled and self.op:
            return f"{self.op}{text}{_RESET_SEQ}"
        return text

    def __repr__(self) -> str:
        return repr(self.no_color())

    def __len__(self) -> int:
        return len(self.no_color())

    def __add__(self, other: object) -> str:
        return str(self) + str(other)

    def no_color(self) -> str:
        """The text alone."""
        return "".join(
            part.no_color() if isinstance(part, colored) else safe_str(part) for part in self.s
        )

    def embed(self) -> str:
        """The text for use within other coloured text: nothing is reset at its end."""
        text = "".join(
            part.embed() if isinstance(part, colored) else safe_str(part) for part in self.s
        )
        return f"{self.op}{text}" if self.enabled else text

    def node(self, s: tuple[Any, ...], op: str) -> colored:
        """A part of the text with an escape sequence of its own."""
        return self.__class__(enabled=self.enabled, op=op, *s)  # noqa: B026  (Celery's order)

    black, red, green, yellow = map(_style, ("1;30", "1;31", "1;32", "1;33"))
    blue, magenta, cyan, white = map(_style, ("1;34", "1;35", "1;36", "1;37"))
    bold, underline, blink, reverse, bright = map(_style, "14578")
    # The same colours behind the text.
    ired, igreen, iyellow, iblue = map(_style, ("41", "42", "43", "44"))
    imagenta, icyan, iwhite = map(_style, ("45", "46", "47"))

    def reset(self, *s: Any) -> colored:
        """Ends the colours; always shown, as it protects the text that follows."""
        return self.node(s or ("",), _RESET_SEQ)


