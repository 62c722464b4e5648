"""Ed25519 signatures over a manifest: who made it, where digests only say that it is whole.

Keys are PEM files as `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` write them.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttc.base.distribution import install
from ttc.base.files import read_bounded
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
    public = _public(Path(key))
    from cryptography.exceptions import InvalidSignature

    try:
        public.verify(signature, content)
    except (InvalidSignature, ValueError):
        raise DigestError(
            f"{where}: not signed by the key in {key}; take it from whom you trust again, or leave out trust"
        ) from None


def _private(path: Path) -> "Ed25519PrivateKey":
    serialization, ed25519 = _library()
    raw = read_bounded(path, _MAX_KEY_BYTES, InputError)
    try:
        key = serialization.load_pem_private_key(raw, password=None)
    except Exception as fault:  # OpenSSL and the library have many of their own
        raise InputError(f"{path}: not an unencrypted PEM private key ({_first(fault)}); {_ADVICE}") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise InputError(f"{path}: a key of another kind than ed25519; {_ADVICE}")
    private: Ed25519PrivateKey = key
    return private


def _public(path: Path) -> "Ed25519PublicKey":
    serialization, ed25519 = _library()
    raw = read_bounded(path, _MAX_KEY_BYTES, InputError)
    try:
        key = serialization.load_pem_public_key(raw)
    except Exception as fault:  # OpenSSL and the library have many of their own
        raise InputError(f"{path}: not a PEM public key ({_first(fault)}); {_ADVICE}") from None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise InputError(f"{path}: a key of another kind than ed25519; {_ADVICE}")
    public: Ed25519PublicKey = key
    if _is_of_small_order(public.public_bytes_raw()):
        raise InputError(f"{path}: a key of small order, for which anybody can sign; {_ADVICE}")
    return public


def _is_of_small_order(key: bytes) -> bool:
    """Whether a public key is one of the eight points of the curve whose order divides 8.

    Such a key accepts signatures that nobody needs a secret for. Their y coordinates are 0, 1, −1 and
    ±`_ORDER_8`, modulo p; a key may hold y + p too, and has the sign of x in its highest bit.
    """
    y = (int.from_bytes(key, "little") & (2**255 - 1)) % _P
    return y in (0, 1, _P - 1, _ORDER_8, _P - _ORDER_8)


def _first(fault: Exception) -> str:
    lines = str(fault).splitlines()
    return lines[0][:200] if lines else type(fault).__name__


# Of the curve, 2²⁵⁵ − 19, and of a point of order 8 on it.
_P = 2**255 - 19
_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_ADVICE = (
    "make a pair with: openssl genpkey -algorithm ed25519 -out private.pem; "
    "openssl pkey -in private.pem -pubout -out public.pem"
)


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise MissingDependencyError(
            f"signatures need the package cryptography; install it with: {install('sign')}"
        ) from None
    return serialization, ed25519
