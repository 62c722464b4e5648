"""Engines that must be signed by a trusted key, in a bundle that is."""

import dataclasses
import hashlib
import shutil
from pathlib import Path

import pytest

import ttc
from tests.support.keys import key_pair
from ttc.errors import BundleError, DigestError
from ttc.formats.atomic_folder import FolderKind
from ttc.formats.engines import ENGINES, MANIFEST_FILE, EngineFolder, EnginesManifest
from ttc.formats.signatures import sign_folder
from ttc.formats.signed_folder import signer
from ttc.formats.verification import BackendRecord, Verification


def sign_engines(folder: Path, key: Path, kind: FolderKind = ENGINES) -> None:
    """As `ttc build --sign` does."""
    write = signer(key, kind)
    assert write is not None
    write(folder)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Private key, its public key, and a pair of somebody else."""
    folder = tmp_path_factory.mktemp("keys")
    return *key_pair(folder, "own"), *key_pair(folder, "foreign")


@pytest.fixture
def bundle(bundles, tmp_path, keys):
    """Signed."""
    copy = shutil.copytree(
        bundles("tiny_a"), tmp_path / "a.bundle", ignore=shutil.ignore_patterns("verification.json")
    )
    sign_folder(copy, keys[0])
    return copy


@pytest.fixture
def engines(engine_folders, tmp_path, keys):
    """Signed."""
    copy = shutil.copytree(engine_folders("tiny_a"), tmp_path / "engines")
    sign_engines(copy, keys[0])
    return copy


def test_signed_engines_run(bundle, engines, keys, fake_gpu):
    with ttc.load(bundle, "tensorrt-rtx", engines=engines, trust=keys[1]) as engine:
        result = engine.generate([5, 6], max_new_tokens=4)
    assert len(result.token_ids) == 4
    assert result.stats.backend == "tensorrt-rtx"


def test_unsigned_engines_are_refused(bundle, engine_folders, keys, api):
    with pytest.raises(DigestError, match=r"engines\.json\.sig: missing; these engines are not signed"):
        ttc.load(bundle, "tensorrt-rtx", engines=engine_folders("tiny_a"), trust=keys[1])
    assert not api.calls


def test_an_unsigned_bundle_is_refused(bundles, engines, keys, api):
    with pytest.raises(DigestError, match=r"bundle\.json\.sig: missing"):
        ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=engines, trust=keys[1])
    assert not api.calls


def test_engines_of_another_key_are_refused(bundle, engines, keys, api):
    sign_engines(engines, keys[2])
    with pytest.raises(DigestError, match=r"engines\.json: not signed by the key in"):
        ttc.load(bundle, "tensorrt-rtx", engines=engines, trust=keys[1])
    assert not api.calls


@pytest.mark.parametrize("ending", [".engine", ".program.json", "engines.json", "engines.json.sig"])
def test_a_changed_byte_is_refused(bundle, engines, keys, api, ending):
    file = next(path for path in sorted(engines.iterdir()) if path.name.endswith(ending))
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    with pytest.raises(DigestError):
        ttc.load(bundle, "tensorrt-rtx", engines=engines, trust=keys[1])
    assert not api.calls


@pytest.mark.parametrize("name", ["evil.engine", "weights.bin", ".so"])
def test_unlisted_files_are_refused(bundle, engines, keys, api, name):
    (engines / name).touch()
    EngineFolder.open(engines)
    with pytest.raises(DigestError, match="not among the files that were signed; remove it"):
        ttc.load(bundle, "tensorrt-rtx", engines=engines, trust=keys[1])
    assert not api.calls


@pytest.mark.parametrize(
    ("name", "trusted"),
    [
        (MANIFEST_FILE, True),
        (MANIFEST_FILE, False),
        ("engines.json.sig", True),
        ("denoiser-00.engine", True),
        ("denoiser-00.engine", False),
    ],
)
def test_links_are_refused(bundle, engines, tmp_path, keys, api, name, trusted):
    """To a file that is right, and to none."""
    shutil.move(engines / name, tmp_path / name)
    (engines / name).symlink_to(tmp_path / name)
    for dangling in (False, True):
        if dangling:
            (tmp_path / name).unlink()
        with pytest.raises(BundleError, match=r"a symbolic link; a plain file is due"):
            ttc.load(bundle, "tensorrt-rtx", engines=engines, trust=keys[1] if trusted else None)
    assert not api.calls


def test_only_the_record_of_engines_is_signed_later(bundle, engines, keys):
    with pytest.raises(DigestError, match="engines are signed while they are built"):
        sign_folder(engines, keys[2])
    made = sign_folder(engines, keys[0])
    assert made.files == ()
    assert "verification.json: not there" in made.notes[0]


def test_engines_that_run_are_those_that_were_verified(bundle, engines, fake_gpu, monkeypatch):
    """Others that take their place after the record was read are refused before any is used."""
    digests = [hashlib.sha256((at / name).read_bytes()).hexdigest() for at, name in
               ((engines, MANIFEST_FILE), (bundle, "bundle.json"))]  # fmt: skip
    passed = BackendRecord(True, "cuda", "float32", "1", "2026-01-01T00:00:00+00:00")
    Verification("0", *digests, {"tensorrt-rtx": passed}).write(engines)
    ttc.load(bundle, "tensorrt-rtx", engines=engines, require_verified=True).close()
    real = EngineFolder.open

    def swapped(path, trust=None):
        rewrite_manifest(engines, ttc_version="another")
        return real(path, trust)

    monkeypatch.setattr(EngineFolder, "open", swapped)
    with pytest.raises(BundleError, match="replaced by other engines a moment ago; start again"):
        ttc.load(bundle, "tensorrt-rtx", engines=engines, require_verified=True)


def rewrite_manifest(engines: Path, **changes: str) -> None:
    path = engines / MANIFEST_FILE
    manifest = EnginesManifest.from_json(path.read_bytes(), str(path))
    path.write_bytes(dataclasses.replace(manifest, **changes).to_json())
