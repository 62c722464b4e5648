"""Engines that must be signed by a trusted key."""

import pytest

import ttc
from tests.support.fake_engines import changed_engines
from ttc.errors import BackendError, DigestError
from ttc.formats.engines import MANIFEST_FILE, SIGNATURE_FILE
from ttc.formats.signing import sign


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Private key, its public key, and a public key of somebody else, as PEM files."""
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    folder = tmp_path_factory.mktemp("keys")
    found = []
    for name in ("own", "foreign"):
        key = Ed25519PrivateKey.generate()
        private, public = folder / f"{name}.pem", folder / f"{name}.pub"
        private.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))
        form = s.PublicFormat.SubjectPublicKeyInfo
        public.write_bytes(key.public_key().public_bytes(s.Encoding.PEM, form))
        found += [private, public]
    return found[0], found[1], found[3]


def test_trusted_engines(bundles, engine_folders, tmp_path, api, keys):
    folder = changed_engines(engine_folders("tiny_a"), tmp_path, lambda c: None)
    private, public, foreign = keys
    load = lambda trust: ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=folder, trust=trust)  # noqa: E731
    with pytest.raises(DigestError, match=r"engines\.json\.sig: missing; these engines are not signed"):
        load(public)
    (folder / SIGNATURE_FILE).write_bytes(sign((folder / MANIFEST_FILE).read_bytes(), private))
    with pytest.raises(DigestError, match="not signed by the key in"):
        load(foreign)
    with pytest.raises(BackendError, match="no driver here"):
        load(public)
    assert not api.calls
