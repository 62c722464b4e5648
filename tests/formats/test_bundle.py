"""What opening a bundle checks before anything of it is used."""

import dataclasses
import hashlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ttc.errors import BundleError, DigestError
from ttc.formats.manifest import FileRecord, Manifest
from ttc.model.bundle import Bundle


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    name=st.sampled_from(["context.onnx", "tokenizer.json", "bundle.json"]),
    position=st.integers(0),
    bit=st.integers(0, 7),
    cut=st.booleans(),
)
def test_damaged_file_is_always_noticed_and_named(
    name: str, position: int, bit: int, cut: bool, referenced: Path
) -> None:
    path = referenced / name
    good = path.read_bytes()
    bad = bytearray(good)
    bad[position % len(bad)] ^= 1 << bit
    path.write_bytes(good[: position % len(good)] if cut else bad)
    try:
        with pytest.raises(BundleError) as caught:
            Bundle.open(referenced)
    finally:
        path.write_bytes(good)
    assert str(path) in str(caught.value)


def test_changed_file_says_how(referenced: Path) -> None:
    path = referenced / "step.onnx"
    path.write_bytes(b"longer")
    with pytest.raises(DigestError, match=r"step.onnx: 6 bytes, but 4 when it was exported"):
        Bundle.open(referenced)
    path.write_bytes(b"pets")
    with pytest.raises(DigestError, match=r"step.onnx: its content is not what was exported"):
        Bundle.open(referenced)


def test_missing_files_and_links(referenced: Path, tmp_path: Path) -> None:
    step = referenced / "step.onnx"
    outside = step.rename(tmp_path / "outside.onnx")
    with pytest.raises(BundleError, match=r"step.onnx: missing"):
        Bundle.open(referenced)
    step.symlink_to(outside)
    with pytest.raises(BundleError, match=r"step.onnx: a symbolic link"):
        Bundle.open(referenced)
    step.unlink()
    step.mkdir()
    with pytest.raises(BundleError, match=r"step.onnx: not a regular file"):
        Bundle.open(referenced)


def test_linked_folder_inside(referenced: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_bytes(b"x")
    (referenced / "sub").symlink_to(tmp_path / "outside")
    manifest = Manifest.from_json((referenced / "bundle.json").read_bytes())
    files = {**manifest.files, "sub/x": FileRecord(hashlib.sha256(b"x").hexdigest(), 1)}
    (referenced / "bundle.json").write_bytes(dataclasses.replace(manifest, files=files).to_json())
    with pytest.raises(BundleError, match=r"sub: a symbolic link"):
        Bundle.open(referenced)


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder; a bundle is a folder"):
        Bundle.open(tmp_path / "none")
    with pytest.raises(BundleError, match=r"bundle.json: missing; this folder is not a bundle"):
        Bundle.open(tmp_path)
    with (tmp_path / "bundle.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(BundleError, match=r"bundle.json: 1099511627776 bytes, more than the"):
        Bundle.open(tmp_path)
