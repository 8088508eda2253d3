"""Certificates for servers that speak TLS: one authority, one server, one client."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Certificates:
    """Files in `folder`: authority, server and client certificate, and the keys of the last two.

    The server's is valid for 127.0.0.1 and localhost.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        key, certificate = self._issue("taskq test authority", None)
        self._issuer = (key, certificate)
        self.authority = self._write("authority.pem", certificate)
        self.server, self.server_key = self._pair("server")
        self.client, self.client_key = self._pair("client")

    def _pair(self, name: str) -> tuple[str, str]:
        key, certificate = self._issue(f"taskq test {name}", self._issuer)
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        key_file = self.folder / f"{name}.key"
        key_file.write_bytes(private)
        return self._write(f"{name}.pem", certificate), str(key_file)

    def _write(self, name: str, certificate: x509.Certificate) -> str:
        file = self.folder / name
        file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return str(file)

    @staticmethod
    def _issue(name: str, issuer: Any) -> tuple[Any, x509.Certificate]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        signer, parent = (key, None) if issuer is None else issuer
        now = datetime.datetime.now(datetime.timezone.utc)
        names: list[x509.GeneralName] = [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        authority_key = x509.SubjectKeyIdentifier.from_public_key(signer.public_key())
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if parent is None else parent.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=7))
            .add_extension(x509.BasicConstraints(ca=parent is None, path_length=None), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_key),
                False,
            )
        )
        if parent is None:
            usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, True)
        else:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        return key, builder.sign(signer, hashes.SHA256())
