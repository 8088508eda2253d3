"""Names that will go: warn whoever uses them."""

from __future__ import annotations

import warnings
from collections.abc import Callable as _Callable
from functools import wraps
from typing import Any, TypeVar

from taskq.exceptions import CDeprecationWarning, CPendingDeprecationWarning

__all__ = ("Callable", "Property", "warn")

F = TypeVar("F", bound=_Callable[..., Any])


def warn(
    description: str | None = None,
    deprecation: str | None = None,
    removal: str | None = None,
    alternative: str | None = None,
    stacklevel: int = 2,
) -> None:
    """Warn that something will be deprecated (with `deprecation`) or removed."""
    hint = f" {alternative}" if alternative else ""
    until = f" in version {removal}" if removal else ""
    category: type[Warning] = CDeprecationWarning
    text = f"{description} is deprecated and scheduled for removal{until}.{hint}"
    if deprecation is not None:
        category = CPendingDeprecationWarning
        text = (
            f"{description} is scheduled for deprecation in version {deprecation} "
            f"and removal{until}.{hint}"
        )
    warnings.warn(text, category, stacklevel=stacklevel + 1)


def Callable(
    deprecation: str | None = None,
    removal: str | None = None,
    alternative: str | None = None,
    description: str | None = None,
) -> _Callable[[F], F]:
    """Decorator for a function whose every call warns."""

    def decorate(fun: F) -> F:
        @wraps(fun)
        def warn_and_call(*args: Any, **kwargs: Any) -> Any:
            warn(description or fun.__name__, deprecation, removal, alternative, stacklevel=2)
            return fun(*args, **kwargs)

        return warn_and_call  # type: ignore[return-value]  # the same signature

    return decorate


def Property(
    deprecation: str | None = None,
    removal: str | None = None,
    alternative: str | None = None,
    description: str | None = None,
) -> _Callable[[_Callable[[Any], Any]], property]:
    """Decorator for a property whose every reading warns."""
    decorate = Callable(deprecation, removal, alternative, description)

    def as_property(fun: _Callable[[Any], Any]) -> property:
        return property(decorate(fun))

    return as_property
