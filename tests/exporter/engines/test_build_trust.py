"""What is checked of engines before they are used: digests, paths, signatures, versions."""

import dataclasses
import hashlib
import json
import os

import pytest

from tests.support.build_models import flip
from ttc.errors import BackendError, BundleError, DigestError, InputError
from ttc.exporter.engines.build import build
from ttc.formats.engines import MANIFEST_FILE, SIGNATURE_FILE, EngineFolder

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
pytestmark = pytest.mark.usefixtures("cache_folder")


@pytest.fixture
def keys(tmp_path):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    paths = []
    for name in ("mine", "other"):
        private = Ed25519PrivateKey.generate()
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        for kind, data in (("private", pem), ("public", public)):
            paths.append(tmp_path / f"{name}-{kind}.pem")
            paths[-1].write_bytes(data)
    return paths


def test_signatures(step, tmp_path, keys):
    private, public, _, other = keys
    output = build(step, tmp_path / "out", sign=private).output
    EngineFolder.open(output)
    EngineFolder.open(output, trust=public)
    with pytest.raises(DigestError, match="not signed by the key in"):
        EngineFolder.open(output, trust=other)
    with pytest.raises(InputError, match=r"not a PEM public key.*openssl"):
        EngineFolder.open(output, trust=private)
    with pytest.raises(InputError, match="not an unencrypted PEM private key"):
        build(step, tmp_path / "no", sign=public)
    (output / SIGNATURE_FILE).unlink()
    with pytest.raises(DigestError, match="these engines are not signed"):
        EngineFolder.open(output, trust=public)


@pytest.mark.parametrize(
    ("harm", "error", "complaint"),
    [
        (lambda f: flip(f / "step.engine"), DigestError, "its content is not what was built"),
        (lambda f: os.truncate(f / "step.engine", 99), DigestError, "99 bytes"),
        (lambda f: (f / "step.engine").write_bytes(b"foreign"), DigestError, "7 bytes"),
        (lambda f: (f / "step.engine").unlink(), BundleError, "missing"),
        (lambda f: flip(f / MANIFEST_FILE, 60), BundleError, "engines.json"),
        (lambda f: (f / MANIFEST_FILE).write_text("{}"), BundleError, "'format' is missing"),
        (lambda f: (f / MANIFEST_FILE).unlink(), BundleError, "made by `ttc build`"),
    ],
)
def test_harmed_engines_are_refused(step, tmp_path, harm, error, complaint):
    output = build(step, tmp_path / "out").output
    harm(output)
    with pytest.raises(error, match=complaint):
        EngineFolder.open(output)


def test_an_engine_changed_after_opening_is_refused(step, tmp_path):
    folder = EngineFolder.open(build(step, tmp_path / "out").output)
    assert folder.engine("step") == (folder.path / "step.engine").read_bytes()
    flip(folder.path / "step.engine")
    with pytest.raises(DigestError):
        folder.engine("step")


def test_a_manifest_that_leads_outside_is_refused(step, tmp_path):
    output = build(step, tmp_path / "out").output
    path = output / MANIFEST_FILE
    manifest = EngineFolder.open(output).manifest
    record = manifest.files["step.engine"]
    for name in ("../step.engine", "/etc/passwd", "a/b.engine", "evil.sh", MANIFEST_FILE):
        path.write_bytes(dataclasses.replace(manifest, files={**manifest.files, name: record}).to_json())
        with pytest.raises(BundleError, match=r"plain relative path|no file of a set of engines"):
            EngineFolder.open(output)


def test_versions_are_compared(step, tmp_path):
    folder = EngineFolder.open(build(step, tmp_path / "out").output)
    version = folder.manifest.backend_version
    folder.check_version("tensorrt-rtx", version)
    with pytest.raises(BackendError, match=r"built with tensorrt-rtx .* but 1\.0 is installed"):
        folder.check_version("tensorrt-rtx", "1.0")
    with pytest.raises(BackendError, match="built for tensorrt-rtx, not for tensorrt"):
        folder.check_version("tensorrt", version)


def test_a_signed_build_takes_nothing_from_the_cache(step, tmp_path, keys, cache_folder):
    private, public, *_ = keys
    output = build(step, tmp_path / "out").output
    honest = EngineFolder.open(output).engine("step")
    # Who can write to the cache puts in code of their own, with its digest.
    (engine,) = cache_folder.glob("*/step.engine")
    entry = engine.parent / "entry.json"
    told = json.loads(entry.read_bytes())
    engine.write_bytes(b"evil" + honest)
    told["files"]["step.engine"] = hashlib.sha256(engine.read_bytes()).hexdigest()
    entry.write_text(json.dumps(told))
    signed = build(step, tmp_path / "signed", sign=private).output
    assert EngineFolder.open(signed, trust=public).engine("step") == honest


def test_a_cache_entry_without_records_is_built_again(step, tmp_path, cache_folder):
    build(step, tmp_path / "out")
    (records,) = cache_folder.glob("*/records.json")
    entry = records.parent / "entry.json"
    for odd in (b"[]", b'{"step": {}}', b"[" * 99999):
        records.write_bytes(odd)
        told = json.loads(entry.read_bytes())
        told["files"]["records.json"] = hashlib.sha256(odd).hexdigest()
        entry.write_text(json.dumps(told))
    assert not build(step, tmp_path / "out").graphs[0].cached
