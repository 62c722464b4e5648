"""Ed25519 signatures over a manifest: who made it, where digests only say that it is whole.

Keys are PEM files as `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` write them.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttc.base.distribution import install
from ttc.errors import DigestError, InputError, MissingDependencyError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["sign", "verify"]

_MAX_KEY_BYTES = 64 * 1024


def sign(content: bytes, key: str | os.PathLike[str]) -> bytes:
    """Return the signature of `content`, 64 bytes, by the private key in a PEM file.

    Raises:
        InputError: the file holds no unencrypted ed25519 private key.
        MissingDependencyError: the package cryptography is not installed.
    """
    return _private(Path(key)).sign(content)


def verify(content: bytes, signature: bytes, key: str | os.PathLike[str], where: str) -> None:
    """Raise unless `signature` is that of `content` by the public key in a PEM file.

    Args:
        content: what was signed.
        signature: 64 bytes.
        key: PEM file of an ed25519 public key.
        where: what messages call the content.

    Raises:
        DigestError: it was not signed by this key.
        InputError: the file holds no ed25519 public key.
        MissingDependencyError: the package cryptography is not installed.
    """
    from cryptography.exceptions import InvalidSignature

    public = _public(Path(key))
    try:
        public.verify(signature, content)
    except InvalidSignature:
        raise DigestError(
            f"{where}: not signed by the key in {key}; take it from whom you trust again, or leave out trust"
        ) from None


def _private(path: Path) -> "Ed25519PrivateKey":
    serialization, ed25519 = _library()
    try:
        key = serialization.load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError) as fault:
        raise InputError(f"{path}: not an unencrypted PEM private key ({fault}); {_ADVICE}") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise InputError(f"{path}: a key of another kind than ed25519; {_ADVICE}")
    private: Ed25519PrivateKey = key
    return private


def _public(path: Path) -> "Ed25519PublicKey":
    serialization, ed25519 = _library()
    try:
        key = serialization.load_pem_public_key(_read(path))
    except ValueError as fault:
        raise InputError(f"{path}: not a PEM public key ({fault}); {_ADVICE}") from None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise InputError(f"{path}: a key of another kind than ed25519; {_ADVICE}")
    public: Ed25519PublicKey = key
    return public


_ADVICE = (
    "make a pair with: openssl genpkey -algorithm ed25519 -out private.pem; "
    "openssl pkey -in private.pem -pubout -out public.pem"
)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_KEY_BYTES)
    except OSError as fault:
        raise InputError(f"{path}: cannot be read ({fault.strerror})") from None


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise MissingDependencyError(
            f"signatures need the package cryptography; install it with: {install('sign')}"
        ) from None
    return serialization, ed25519
