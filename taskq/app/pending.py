"""What is set on an application before its configuration is loaded.

Before the journey: `app.conf` has this as its only layer until somebody reads a setting.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, MutableMapping
from typing import Any

from taskq.utils.collections import AttributeDictMixin

__all__ = ["PendingConfiguration"]


class PendingConfiguration(UserDict[str, Any], AttributeDictMixin):
    """Keeps what is written; the first read loads the configuration and is answered by it.

    Arguments:
        conf: where writes are kept.
        callback: loads the configuration and gives the settings.
    """

    callback: Callable[[], Any] | None = None

    def __init__(self, conf: MutableMapping[str, Any], callback: Callable[[], Any]) -> None:
        # Not by attribute: attributes are settings here.
        self.__dict__.update(_written=conf, _loaded=None, callback=callback)

    @property
    def data(self) -> Any:  # type: ignore[override]  # UserDict reads from it and never sets it
        """The settings; loads the configuration when first asked for."""
        if self._loaded is None and self.callback is not None:
            self.__dict__["_loaded"] = self.callback()
        return self._loaded

    def __setitem__(self, key: str, value: Any) -> None:
        self._written[key] = value

    def update(self, *args: Any, **kwargs: Any) -> None:
        self._written.update(*args, **kwargs)

    def setdefault(self, *args: Any, **kwargs: Any) -> Any:
        return self._written.setdefault(*args, **kwargs)

    def clear(self) -> None:
        self._written.clear()

    def __contains__(self, key: object) -> bool:
        return key in self.data

    def __len__(self) -> int:
        return len(self.data)
