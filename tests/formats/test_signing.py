"""Keys and signatures that others made."""

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ttc.errors import DigestError, InputError
from ttc.formats.signing import sign, verify

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SMALL_ORDER = [
    bytes.fromhex(text)
    for text in (
        "01" + "00" * 31,
        "01" + "00" * 30 + "80",
        "ec" + "ff" * 30 + "7f",
        "ec" + "ff" * 31,
        "00" * 32,
        "00" * 31 + "80",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "ee" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
    )
]


def public(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    private = KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "private.pem").write_bytes(private)
    (tmp_path / "public.pem").write_bytes(public(KEY.public_key()))
    return tmp_path / "private.pem", tmp_path / "public.pem"


def test_a_signature_holds_for_its_content_and_key(pair: tuple[Path, Path]) -> None:
    made = sign(b"content", pair[0])
    verify(b"content", made, pair[1], "x")
    for content, signature in ((b"other", made), (b"content", made[:-1]), (b"content", b""), (b"", made)):
        with pytest.raises(DigestError, match="x: not signed by the key"):
            verify(content, signature, pair[1], "x")


@pytest.mark.parametrize("raw", SMALL_ORDER, ids=bytes.hex)
def test_a_key_that_anybody_can_sign_for_is_refused(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(public(Ed25519PublicKey.from_public_bytes(raw)))
    # With R the neutral point and S = 0, about one content in the key's order verifies without any secret.
    forged = SMALL_ORDER[0] + bytes(32)
    with pytest.raises(InputError, match="a key of small order, for which anybody can sign"):
        verify(b"content", forged, path, "x")


def test_a_key_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(InputError, match="not a regular file"):
            sign(b"content", path)
        with pytest.raises(InputError, match="not a regular file"):
            verify(b"content", bytes(64), path, "x")
