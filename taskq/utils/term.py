"""Colours for terminals: `str(colored().red("broken"))`."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

from kombu.utils.encoding import safe_str

__all__ = ("colored",)

_RESET_SEQ = "\033[0m"
_BLACK, _RED, _GREEN, _YELLOW, _BLUE, _MAGENTA, _CYAN, _WHITE = range(8)


def _sequence(code: str) -> str:
    return f"\033[{code}m"


def _foreground(color: int) -> str:
    return _sequence(f"1;{30 + color}")


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
            "black": self.black,
            "red": self.red,
            "green": self.green,
            "yellow": self.yellow,
            "blue": self.blue,
            "magenta": self.magenta,
            "cyan": self.cyan,
            "white": self.white,
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

    def black(self, *s: Any) -> colored:
        return self.node(s, _foreground(_BLACK))

    def red(self, *s: Any) -> colored:
        return self.node(s, _foreground(_RED))

    def green(self, *s: Any) -> colored:
        return self.node(s, _foreground(_GREEN))

    def yellow(self, *s: Any) -> colored:
        return self.node(s, _foreground(_YELLOW))

    def blue(self, *s: Any) -> colored:
        return self.node(s, _foreground(_BLUE))

    def magenta(self, *s: Any) -> colored:
        return self.node(s, _foreground(_MAGENTA))

    def cyan(self, *s: Any) -> colored:
        return self.node(s, _foreground(_CYAN))

    def white(self, *s: Any) -> colored:
        return self.node(s, _foreground(_WHITE))

    def bold(self, *s: Any) -> colored:
        return self.node(s, _sequence("1"))

    def underline(self, *s: Any) -> colored:
        return self.node(s, _sequence("4"))

    def blink(self, *s: Any) -> colored:
        return self.node(s, _sequence("5"))

    def reverse(self, *s: Any) -> colored:
        return self.node(s, _sequence("7"))

    def bright(self, *s: Any) -> colored:
        return self.node(s, _sequence("8"))

    def ired(self, *s: Any) -> colored:
        return self.node(s, _sequence(f"{40 + _RED}"))

    def igreen(self, *s: Any) -> colored:
        return self.node(s, _sequence(f"{40 + _GREEN}"))

    def iyellow(self, *s: Any) -> colored:
        return self.node(s, _sequence(f"{40 + _YELLOW}"))

    def iblue(self, *s: Any) -> colored:
        return self.node(s, _sequence(f"{40 + _BLUE}"))

    def imagenta(self, *s: Any) -> colored:
        return self.node(s, _sequence(f"{40 + _MAGENTA}"))

    def icyan(self, *s: Any) -> colored:
        return self.node(s, _sequence(f"{40 + _CYAN}"))

    def iwhite(self, *s: Any) -> colored:
        return self.node(s, _sequence(f"{40 + _WHITE}"))

    def reset(self, *s: Any) -> colored:
        """Ends the colours; always shown, as it protects the text that follows."""
        return self.node(s or ("",), _RESET_SEQ)


