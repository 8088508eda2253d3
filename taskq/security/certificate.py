"""This file is who may sign: certificates, and the stores of those that are trusted."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from datetime import datetime, timezone

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from kombu.utils.encoding import bytes_to_str, ensure_bytes

from taskq.exceptions import SecurityError
from taskq.security.utils import reraise_errors, signature_padding
from taskq.utils.log import get_logger

__all__ = ("CertStore", "Certificate", "FSCertStore")

NOBODY_TRUSTED = (
    "No certificate is trusted, so every signed message will be refused: there is no file %r "
    "(security_cert_store)"
)

logger = get_logger(__name__)


class Certificate:
    """An X.509 certificate of an RSA key.

    Arguments:
        cert: its PEM text.

    Raises:
        SecurityError: it cannot be read, or its key is no RSA key.
    """

    def __init__(self, cert: str | bytes) -> None:
        with reraise_errors(
            "Invalid certificate: {0!r}; expected the PEM text of a certificate of an RSA key",
            errors=(ValueError, TypeError),
        ):
            self._cert = x509.load_pem_x509_certificate(ensure_bytes(cert))
            key = self._cert.public_key()
            if not isinstance(key, rsa.RSAPublicKey):
                raise ValueError("Non-RSA certificates are not supported.")
        self._key = key

    def has_expired(self) -> bool:
        """True when it is valid no more."""
        return datetime.now(timezone.utc) >= self._cert.not_valid_after_utc

    def get_pubkey(self) -> rsa.RSAPublicKey:
        """The key that checks signatures."""
        return self._key

    def get_serial_number(self) -> int:
        """The number its issuer gave it."""
        return self._cert.serial_number

    def get_issuer(self) -> str:
        """Who issued it: the values of the name, in order."""
        return " ".join(bytes_to_str(attribute.value) for attribute in self._cert.issuer)

    def get_id(self) -> str:
        """Issuer and serial number: how messages name their signer."""
        return f"{self.get_issuer()} {self.get_serial_number()}"

    def verify(
        self, data: str | bytes, signature: bytes, digest: hashes.HashAlgorithm
    ) -> None:
        """Raise SecurityError unless `signature` is that of `data` by this certificate's key."""
        with reraise_errors(
            "Bad signature: {0!r}; the message was changed on its way, signed with another key, or "
            "with another digest (security_digest)"
        ):
            self._key.verify(signature, ensure_bytes(data), signature_padding(digest), digest)


class CertStore:
    """The certificates that are trusted, by id."""

    def __init__(self) -> None:
        self._certs: dict[str, Certificate] = {}

    def itercerts(self) -> Iterator[Certificate]:
        """All of them."""
        yield from self._certs.values()

    def __getitem__(self, id: str | bytes) -> Certificate:
        """The certificate with that id; SecurityError when it is unknown."""
        try:
            return self._certs[bytes_to_str(id)]
        except KeyError:
            raise SecurityError(
                f"Unknown certificate: {bytes_to_str(id)!r}; nothing in the store of trusted "
                "certificates (security_cert_store) is of this signer"
            ) from None

    def add_cert(self, cert: Certificate) -> None:
        """Trust a certificate; SecurityError when one with the same id is here."""
        if cert.get_id() in self._certs:
            raise SecurityError(f"Duplicate certificate: {cert.get_id()!r}")
        self._certs[cert.get_id()] = cert


class FSCertStore(CertStore):
    """The certificates in files.

    Arguments:
        path: a directory, or a pattern of files (`/etc/ssl/tasks/*.pem`).

    Raises:
        SecurityError: a file holds no certificate, one that has expired, or one twice.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        if os.path.isdir(path):
            path = os.path.join(path, "*")
        names = sorted(glob.glob(path))
        if not names:
            logger.warning(NOBODY_TRUSTED, path)
        for name in names:
            with open(name, "rb") as file:
                pem = file.read()
            try:
                cert = Certificate(pem)
                require_valid(cert)
                self.add_cert(cert)
            except SecurityError as exc:
                raise SecurityError(f"{exc} (file {name})") from exc


def require_valid(cert: Certificate) -> None:
    """Raise SecurityError when the certificate has expired."""
    if cert.has_expired():
        raise SecurityError(
            f"Expired certificate: {cert.get_id()!r}; the signer needs a new one, and its readers "
            "need it in their store (security_cert_store)"
        )
