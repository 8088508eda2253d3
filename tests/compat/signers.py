"""Who signs messages in tests: an RSA key and a certificate of its own, as files."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

DAY = timedelta(days=1)
PEM = serialization.Encoding.PEM


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """A key, the same for everybody of that name: making one takes a moment."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem_of_key(key: Any, password: bytes | None = None) -> bytes:
    """The PEM text of a private key."""
    protection = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    kept: bytes = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, protection)
    return kept


def pem_of_certificate(name: str, key: Any = None, expired: bool = False) -> bytes:
    """The PEM text of a certificate, signed with its own key."""
    key = key or rsa_key(name)
    attributes = [(x509.NameOID.ORGANIZATION_NAME, "Tests"), (x509.NameOID.COMMON_NAME, name)]
    subject = x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 3 * DAY)
        .not_valid_after(now - DAY if expired else now + DAY)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(PEM)


class Signer:
    """`key` and `certificate`: files in `folder`, which is a store when others look there too."""

    def __init__(
        self, folder: Path, name: str, password: bytes | None = None, expired: bool = False
    ) -> None:
        self.key = folder / f"{name}.key"
        self.key.write_bytes(pem_of_key(rsa_key(name), password))
        self.certificate = folder / f"{name}.pem"
        self.certificate.write_bytes(pem_of_certificate(name, expired=expired))
        self.store = str(folder / "*.pem")

    def settings(self, **changes: Any) -> dict[str, Any]:
        """The settings of an application that signs as this signer."""
        return {
            "task_serializer": "auth",
            "accept_content": ["auth"],
            "security_key": str(self.key),
            "security_certificate": str(self.certificate),
            "security_cert_store": self.store,
            **changes,
        }
