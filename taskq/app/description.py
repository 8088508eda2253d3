"""This file says what an application and its surroundings are, for people who report problems."""

from __future__ import annotations

import platform as _platform
from typing import TYPE_CHECKING, Any

import billiard
import kombu
from kombu.exceptions import KombuError

from taskq.app.censor import sanitize_url
from taskq.exceptions import CeleryError
from taskq.utils.imports import qualname
from taskq.version import __version__

if TYPE_CHECKING:
    from taskq.app.base import App

BUGREPORT_INFO = """
software -> taskq:{taskq_v} kombu:{kombu_v} py:{py_v}
            billiard:{billiard_v} {driver_v}
platform -> system:{system} arch:{arch}
            kernel version:{kernel_version} imp:{py_i}
loader   -> {loader}
settings -> transport:{transport} results:{results}

{human_settings}
"""


def appstr(app: App) -> str:
    """Name and address of an application, for the text of objects that belong to it."""
    return f"{app.main or '__main__'} at {id(app):#x}"


def bugreport(app: App) -> str:
    """Versions, platform and settings; secrets are masked."""
    try:
        connection: Any = app.connection()
        driver = connection.transport
        driver_version = f"{driver.driver_name}:{driver.driver_version()}"
        transport = connection.transport_cls
    except (ImportError, OSError, CeleryError, KombuError) as exc:
        # What is broken belongs into the report.
        driver_version, transport = "", sanitize_url(f"({type(exc).__name__}: {exc})")
    return BUGREPORT_INFO.format(
        taskq_v=__version__,
        kombu_v=kombu.__version__,
        billiard_v=billiard.__version__,
        py_v=_platform.python_version(),
        driver_v=driver_version,
        system=_platform.system(),
        arch=", ".join(part for part in _platform.architecture() if part),
        kernel_version=_platform.release(),
        py_i=_platform.python_implementation(),
        loader=qualname(type(app.loader)),
        transport=transport,
        results=sanitize_url(app.conf.result_backend) or "disabled",
        human_settings=app.conf.humanize(),
    )
