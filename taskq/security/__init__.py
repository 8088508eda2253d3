"""This file sets an application up to sign its messages and to refuse all others."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from kombu.serialization import disable_insecure_serializers, registry

from taskq._state import get_current_app
from taskq.exceptions import ImproperlyConfigured
from taskq.security.utils import CRYPTOGRAPHY_NOT_INSTALLED

try:
    from taskq.security.serialization import register_auth
except ImportError as exc:
    raise ImproperlyConfigured(CRYPTOGRAPHY_NOT_INSTALLED) from exc

__all__ = ("setup_security",)

SECURITY_SETTING_MISSING = """\
Signing messages (serializer 'auth') needs the settings
    * security_key: file with the private key,
    * security_certificate: file with its certificate, and
    * security_cert_store: pattern of the files with the certificates that are trusted.
"""

SETTING_MISSING = """\
Signing messages needs the setting
    * task_serializer = 'auth'
and, since a signature nobody insists on is worth nothing,
    * accept_content = ['auth']
"""

#: The name and the content type of signed messages.
_AUTH = frozenset({"auth", "application/data"})


def setup_security(
    allowed_serializers: Iterable[str] | None = None,
    key: str | None = None,
    key_password: str | bytes | None = None,
    cert: str | None = None,
    store: str | None = None,
    digest: str | None = None,
    serializer: str = "json",
    app: Any = None,
) -> None:
    """Sign messages (serializer `auth`) and refuse insecure ones; see `App.setup_security`."""
    app = app or get_current_app()
    conf = app.conf
    accept = frozenset(conf.accept_content or ())
    if conf.task_serializer != "auth" or not accept or accept - _AUTH:
        raise ImproperlyConfigured(SETTING_MISSING)
    key = key or conf.security_key
    cert = cert or conf.security_certificate
    store = store or conf.security_cert_store
    if not (key and cert and store):
        raise ImproperlyConfigured(SECURITY_SETTING_MISSING)
    register_auth(
        _read(key, "security_key"),
        key_password or conf.security_key_password,
        _read(cert, "security_certificate"),
        store,
        digest or conf.security_digest,
        serializer,
    )
    disable_untrusted_serializers(allowed_serializers)
    registry.enable("auth")
    registry._set_default_serializer("auth")


def _read(path: str, setting: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as exc:
        said = f"{exc.strerror}: the file that {setting} names, in the directory {os.getcwd()}"
        raise type(exc)(exc.errno, said, path) from None


def disable_untrusted_serializers(whitelist: Iterable[str] | None = None) -> None:
    """Refuse every serializer that is not in `whitelist` where nothing says which to accept."""
    disable_insecure_serializers(allowed=whitelist)
