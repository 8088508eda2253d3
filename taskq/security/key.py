"""This file is the private key that messages are signed with."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from kombu.utils.encoding import ensure_bytes

from taskq.security.utils import reraise_errors, signature_padding

__all__ = ("PrivateKey",)


class PrivateKey:
    """An RSA key.

    Arguments:
        key: its PEM text.
        password: what it is encrypted with, if it is.

    Raises:
        SecurityError: it cannot be read, or is no RSA key.
    """

    def __init__(self, key: str | bytes, password: str | bytes | None = None) -> None:
        # A TypeError is a password that is missing, or not needed.
        with reraise_errors(
            "Invalid private key: {0!r}; expected the PEM text of an RSA key (security_key) "
            "and the password it is encrypted with, if it is (security_key_password)",
            errors=(ValueError, TypeError),
        ):
            loaded = serialization.load_pem_private_key(
                ensure_bytes(key), password=ensure_bytes(password)
            )
            if not isinstance(loaded, rsa.RSAPrivateKey):
                raise ValueError("Non-RSA keys are not supported.")
        self._key = loaded

    def belongs_to(self, public: rsa.RSAPublicKey) -> bool:
        """Whether `public` checks what this key signs."""
        return self._key.public_key().public_numbers() == public.public_numbers()

    def sign(self, data: str | bytes, digest: hashes.HashAlgorithm) -> bytes:
        """The signature of `data`."""
        return self._key.sign(ensure_bytes(data), signature_padding(digest), digest)
