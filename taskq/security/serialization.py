"""This file writes and reads signed messages: the serializer `auth`.

How it works: the body is written with another serializer and signed. What travels is, in base64,

    base64(signer's id) SEP base64(signature) SEP content type SEP content encoding SEP body

A reader looks the signer up in its store of trusted certificates and checks the signature before it
decodes the body. Everybody can read the body: it is signed, not encrypted.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from typing import Any

from kombu.exceptions import EncodeError, SerializerNotInstalled
from kombu.serialization import dumps, loads, registry
from kombu.utils.encoding import bytes_to_str, ensure_bytes

from taskq.exceptions import ImproperlyConfigured, SecurityError
from taskq.security.certificate import Certificate, CertStore, FSCertStore, require_valid
from taskq.security.key import PrivateKey
from taskq.security.utils import get_digest_algorithm, reraise_errors

__all__ = ("SecureSerializer", "register_auth")

#: Stands between the parts of a message; base64 has no such bytes, and the body is the last part.
DEFAULT_SEPARATOR = b"\x00\x01"


class SecureSerializer:
    """Signs what it writes, and reads only what somebody trusted has signed.

    Arguments:
        key, cert: what to sign with; not needed to read.
        cert_store: the certificates that are trusted; not needed to write.
        digest: name of the digest that is signed.
        serializer: name of the serializer of the body.
    """

    def __init__(
        self,
        key: PrivateKey | None = None,
        cert: Certificate | None = None,
        cert_store: CertStore | None = None,
        digest: str = "sha256",
        serializer: str = "json",
    ) -> None:
        self._key = key
        self._cert = cert
        self._cert_store = cert_store
        self._digest = get_digest_algorithm(digest)
        self._serializer = serializer

    def serialize(self, data: Any) -> str:
        """The signed message of `data`; SecurityError when it cannot be written."""
        if self._key is None or self._cert is None:
            raise ImproperlyConfigured(
                "cannot sign a message without a key and a certificate: set security_key and "
                "security_certificate"
            )
        with reraise_errors("Unable to serialize: {0!r}", (EncodeError, SerializerNotInstalled)):
            content_type, content_encoding, body = dumps(data, self._serializer)
        body = ensure_bytes(body)
        parts = (
            b64encode(self._cert.get_id().encode()),
            b64encode(self._key.sign(body, self._digest)),
            content_type.encode(),
            content_encoding.encode(),
            body,
        )
        return b64encode(DEFAULT_SEPARATOR.join(parts)).decode()

    def deserialize(self, data: str | bytes) -> Any:
        """What a signed message says; SecurityError unless somebody trusted has signed it."""
        if self._cert_store is None:
            raise ImproperlyConfigured(
                "cannot check a signed message without trusted certificates: set "
                "security_cert_store"
            )
        signer, signature, content_type, content_encoding, body = _parts(data)
        with reraise_errors("Unable to deserialize: {0}", (SecurityError,)):
            cert = self._cert_store[signer]
            require_valid(cert)
            cert.verify(body, signature, self._digest)
        # Whoever is trusted to sign is trusted with the serializer too.
        return loads(body, content_type, content_encoding, force=True)


def _parts(data: str | bytes) -> tuple[str, bytes, str, str, bytes]:
    with reraise_errors(
        "Unable to deserialize: {0!r}; the message is not a signed one: its sender must use the "
        "serializer 'auth'",
        (ValueError, TypeError, binascii.Error),
    ):
        parts = b64decode(data).split(DEFAULT_SEPARATOR, 4)
        signer, signature, content_type, content_encoding, body = parts
        return (
            b64decode(signer).decode(),
            b64decode(signature),
            bytes_to_str(content_type),
            bytes_to_str(content_encoding),
            body,
        )


def register_auth(
    key: str | bytes | None = None,
    key_password: str | bytes | None = None,
    cert: str | bytes | None = None,
    store: str | None = None,
    digest: str = "sha256",
    serializer: str = "json",
) -> None:
    """Give kombu the serializer `auth`.

    Arguments:
        key, cert: PEM texts of what to sign with.
        key_password: what the key is encrypted with.
        store: directory or file pattern of the trusted certificates.
        digest, serializer: names; see SecureSerializer.

    Raises:
        SecurityError: a text cannot be read, or the certificate is that of another key.
    """
    private = PrivateKey(key, key_password) if key else None
    certificate = Certificate(cert) if cert else None
    if private and certificate and not private.belongs_to(certificate.get_pubkey()):
        raise SecurityError(
            "The private key (security_key) and the certificate (security_certificate) do not "
            "belong together: nobody could check what is signed. Give the certificate that was "
            "made for this key."
        )
    auth = SecureSerializer(
        private,
        certificate,
        FSCertStore(store) if store else None,
        digest,
        serializer,
    )
    registry.register(
        "auth",
        auth.serialize,
        auth.deserialize,
        content_type="application/data",
        content_encoding="utf-8",
    )
