"""Which version this is, and which level of Celery's API it speaks (5.7)."""

from __future__ import annotations

from typing import NamedTuple

__version__ = "5.7.0.dev1"
SERIES = "keystone"
VERSION_BANNER = f"{__version__} ({SERIES})"


class version_info_t(NamedTuple):  # Celery's public name
    """The version as comparable parts."""

    major: int
    minor: int
    micro: int
    releaselevel: str
    serial: str


VERSION = version_info = version_info_t(5, 7, 0, "dev1", "")
