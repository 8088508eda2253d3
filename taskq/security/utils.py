"""This file is what signing needs of the package cryptography: digests, and its errors as ours.

Importable without that package, so that its absence can be told.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from taskq.exceptions import ImproperlyConfigured, SecurityError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.padding import PSS
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

__all__ = ("get_digest_algorithm", "reraise_errors", "signature_padding")

CRYPTOGRAPHY_NOT_INSTALLED = (
    "Signed messages (serializer 'auth') need the package cryptography. Install it with the extra "
    "'auth': pip install \"taskq[auth]\""
)


def get_digest_algorithm(digest: str = "sha256") -> HashAlgorithm:
    """The digest of that name (security_digest); ImproperlyConfigured when there is none."""
    from cryptography.hazmat.primitives import hashes

    found = getattr(hashes, str(digest).upper(), None)
    if not (isinstance(found, type) and issubclass(found, hashes.HashAlgorithm)):
        raise ImproperlyConfigured(
            f"security_digest: {digest!r} is no digest; expected sha256, sha384, sha512 or "
            "another hash of the package cryptography"
        )
    return found()


def signature_padding(digest: HashAlgorithm) -> PSS:
    """How signatures are padded: PSS with the longest salt, as peers expect it."""
    from cryptography.hazmat.primitives.asymmetric import padding

    return padding.PSS(mgf=padding.MGF1(digest), salt_length=padding.PSS.MAX_LENGTH)


@contextmanager
def reraise_errors(
    msg: str = "{0!r}", errors: tuple[type[BaseException], ...] | None = None
) -> Iterator[None]:
    """Turn `errors` (by default: what a wrong signature raises) into SecurityError(msg)."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    errors = errors or (InvalidSignature, UnsupportedAlgorithm)
    try:
        yield
    except errors as exc:
        raise SecurityError(msg.format(exc)) from exc
