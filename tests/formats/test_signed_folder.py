"""Bundles that must be signed by a trusted key, and what `ttc sign` signs."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.keys import key_pair
from ttc.errors import BundleError, DigestError, InputError
from ttc.formats.signatures import sign_folder
from ttc.formats.verification import (
    RECORD_FILE,
    BackendRecord,
    Verification,
    file_digest,
)
from ttc.formats.verification import check_verified as check_bundle_verified
from ttc.model.bundle import Bundle


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Private key, its public key, and a public key of somebody else."""
    return *key_pair(tmp_path, "own"), key_pair(tmp_path, "foreign")[1]


@pytest.fixture
def signed(referenced: Path, keys: tuple[Path, Path, Path]) -> Path:
    made = sign_folder(referenced, keys[0])
    assert [path.name for path in made.files] == ["bundle.json.sig"]
    assert "verification.json: not there" in made.notes[0]
    return referenced


def record(bundle: Path) -> Path:
    """Write a record of a verification of this bundle."""
    digest = file_digest(bundle / "bundle.json")
    passed = BackendRecord(True, "cpu", "float32", "1", "2026-01-01T00:00:00+00:00")
    return Verification("0", digest, digest, {"onnxruntime": passed}).write(bundle)


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def test_a_signed_bundle_opens(signed: Path, keys: tuple[Path, Path, Path]) -> None:
    Bundle.open(signed).close()
    with Bundle.open(signed, trust=keys[1]) as bundle:
        assert bundle.manifest_sha256 == file_digest(signed / "bundle.json")
        assert bundle.read_tokenizer() == b"{}"


def test_an_unsigned_bundle_is_refused(referenced: Path, keys: tuple[Path, Path, Path]) -> None:
    with pytest.raises(
        DigestError, match=r"bundle\.json\.sig: missing; this bundle is not signed; .*ttc sign"
    ):
        Bundle.open(referenced, trust=keys[1])


def test_the_signature_of_another_key_is_refused(signed: Path, keys: tuple[Path, Path, Path]) -> None:
    with pytest.raises(DigestError, match=r"bundle\.json: not signed by the key in"):
        Bundle.open(signed, trust=keys[2])


@pytest.mark.parametrize("name", ["bundle.json", "bundle.json.sig", "tokenizer.json", "step.onnx"])
def test_a_changed_byte_is_refused(signed: Path, keys: tuple[Path, Path, Path], name: str) -> None:
    flip(signed / name)
    with pytest.raises(DigestError):
        Bundle.open(signed, trust=keys[1])


def test_a_manifest_with_digests_anew_is_refused(signed: Path, keys: tuple[Path, Path, Path]) -> None:
    """What finds accidents is no help here: digests are as they should be."""
    from tests.support.faults import rewrite

    flip(signed / "tokenizer.json")
    rewrite(signed)
    Bundle.open(signed).close()
    with pytest.raises(DigestError, match="not signed by the key in"):
        Bundle.open(signed, trust=keys[1])


@pytest.mark.parametrize(
    "plant",
    [
        lambda folder: (folder / "chat_template.jinja").write_text("{{ x }}"),
        lambda folder: (folder / "evil.onnx").symlink_to("step.onnx"),
        lambda folder: os.mkfifo(folder / ".hidden"),
        lambda folder: (folder / "sub").mkdir() or (folder / "sub" / "x").touch(),
    ],
)
def test_unlisted_files_are_refused(
    signed: Path, keys: tuple[Path, Path, Path], plant: Callable[[Path], object]
) -> None:
    plant(signed)
    Bundle.open(signed).close()
    with pytest.raises(DigestError, match="not among the files that were signed; remove it"):
        Bundle.open(signed, trust=keys[1])


def test_what_comes_later_is_let_through(signed: Path, keys: tuple[Path, Path, Path]) -> None:
    record(signed)
    (signed / "engines").mkdir()
    (signed / "engines" / "engines.json").touch()
    (signed / ".verification.json.ttc-tmp-1-0123abcd").touch()
    Bundle.open(signed, trust=keys[1]).close()


def test_a_linked_signature_is_refused(signed: Path, tmp_path: Path, keys: tuple[Path, Path, Path]) -> None:
    signature = signed / "bundle.json.sig"
    shutil.move(signature, tmp_path / "elsewhere")
    signature.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DigestError, match="a symbolic link"):
        Bundle.open(signed, trust=keys[1])
    (tmp_path / "elsewhere").unlink()
    with pytest.raises(DigestError, match="a symbolic link"):
        Bundle.open(signed, trust=keys[1])


def test_a_damaged_bundle_is_not_signed(referenced: Path, keys: tuple[Path, Path, Path]) -> None:
    flip(referenced / "step.onnx")
    with pytest.raises(DigestError, match=r"step\.onnx"):
        sign_folder(referenced, keys[0])
    assert not (referenced / "bundle.json.sig").exists()
    with pytest.raises(InputError, match="nothing to sign"):
        sign_folder(referenced.parent, keys[0])
    with pytest.raises(InputError, match="not an unencrypted PEM private key"):
        sign_folder(referenced, keys[1])


def test_a_record_must_be_signed_too(signed: Path, keys: tuple[Path, Path, Path]) -> None:
    private, public, foreign = keys
    manifest = signed / "bundle.json"
    path = record(signed)

    def check_verified(key: Path | None = None) -> None:
        with Bundle.open(signed) as bundle:
            assert check_bundle_verified(bundle, "onnxruntime", trust=key) == bundle.manifest_sha256

    check_verified()
    with pytest.raises(DigestError, match=r"verification\.json\.sig: missing; this record is not signed"):
        check_verified(public)
    made = sign_folder(signed, private)
    assert [file.name for file in made.files] == ["bundle.json.sig", "verification.json.sig"]
    assert (made.backends, made.notes) == ({"onnxruntime": True}, ())
    check_verified(public)
    with pytest.raises(DigestError, match=r"verification\.json: not signed by the key in"):
        check_verified(foreign)
    record(signed)
    assert not (signed / "verification.json.sig").exists(), "the new record is another's word"
    # The signature of the manifest is none of the record.
    shutil.copy(signed / "bundle.json.sig", signed / "verification.json.sig")
    with pytest.raises(DigestError, match=r"verification\.json: not signed by the key in"):
        check_verified(public)
    shutil.copy(manifest, path)
    with pytest.raises(BundleError, match="'format' is 'ttc-bundle'"):
        check_verified(public)


def test_a_record_of_another_state_is_not_signed(
    signed: Path, tmp_path: Path, keys: tuple[Path, Path, Path]
) -> None:
    other = shutil.copytree(signed, tmp_path / "other")
    from tests.support.faults import rewrite

    rewrite(other, ttc_version="9")
    shutil.copy(record(signed), other / RECORD_FILE)
    made = sign_folder(other, keys[0])
    assert [file.name for file in made.files] == ["bundle.json.sig"]
    assert "not signed, it speaks of an earlier state" in made.notes[0]
