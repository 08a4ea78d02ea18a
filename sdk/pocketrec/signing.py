"""Ed25519 signatures over `manifest.json` (docs/bundle.md, section 9), by way of `cryptography`.

Keys travel as PEM (PKCS#8 private, SubjectPublicKeyInfo public) or, the public ones, as their 32 raw bytes,
which is what an app pins. `cryptography` is loaded when a key is first used, not before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pocketrec.errors import BundleError, PocketrecError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_BYTES = 64


@dataclass(frozen=True)
class KeyPair:
    """A fresh key pair; `raw_public` (32 bytes) is what an app pins."""

    private_pem: bytes
    public_pem: bytes
    raw_public: bytes


def generate_key() -> KeyPair:
    """A new key pair from the system's randomness."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    public = private.public_key()
    return KeyPair(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes_raw(),
    )


def sign(message: bytes, private_key: bytes) -> bytes:
    """The signature (64 bytes) of `message` by a private key in PEM."""
    return _private(private_key).sign(message)


def verify(message: bytes, signature: bytes, public_keys: Sequence[bytes]) -> None:
    """Return when one of the keys (PEM or 32 raw bytes) made this signature.

    Raises:
        BundleError: `signature-invalid`.
        PocketrecError: `key-invalid`, for a key that is none.
    """
    from cryptography.exceptions import InvalidSignature

    for key in [_public(data) for data in public_keys]:
        try:
            key.verify(signature, message)
        except InvalidSignature:
            continue
        return
    raise BundleError(
        f"none of the {len(public_keys)} public keys made the bundle's signature.",
        code="signature-invalid",
        remedy="Use a bundle signed by a key you trust, or pin its key.",
    )


def read_key(path: str | Path) -> bytes:
    """The bytes of a key file.

    Raises:
        PocketrecError: `key-invalid` when there is none to read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise PocketrecError(
            f"the key file {path} cannot be read: {error.strerror}.",
            code="key-invalid",
            remedy="Check the path.",
        ) from None


def _private(data: bytes) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise PocketrecError(
            "the signing key is not an unencrypted Ed25519 private key in PEM.",
            code="key-invalid",
            remedy="Make one with `pocketrec.signing.generate_key()`.",
        )
    return key


def _public(data: bytes) -> Ed25519PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = Ed25519PublicKey.from_public_bytes(data) if len(data) == 32 else load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise PocketrecError(
            "a public key is neither 32 raw bytes nor an Ed25519 public key in PEM.",
            code="key-invalid",
            remedy="Use the public half of the key that signed the bundle.",
        )
    return key
