"""A small checkpoint on disk, and a bundle that refers to it."""

import dataclasses
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from tests.support.small_bundle import REQUIRED, SMALL, SPECS, WEIGHTS
from ttc.formats.atomic_folder import bundle_writer
from ttc.formats.manifest import ShardRecord, WeightMap
from ttc.formats.shard import Shard


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    save_file({name: WEIGHTS[name] for name in ("w.f32", "e.1")}, folder / "one.safetensors")
    save_file({name: WEIGHTS[name] for name in ("w.bf16", "e.0", "scalar")}, folder / "two.safetensors")
    return folder


@pytest.fixture
def referenced(tmp_path: Path, checkpoint: Path) -> Path:
    """A bundle that takes its weights from `checkpoint`."""
    records = {path.name: ShardRecord.of(Shard.open(path)) for path in sorted(checkpoint.iterdir())}
    manifest = dataclasses.replace(SMALL, weights=WeightMap("reference", SPECS, str(checkpoint), records))
    with bundle_writer(tmp_path / "bundle") as draft:
        for role in REQUIRED:
            (draft.path / f"{role}.onnx").write_bytes(role.encode())
        (draft.path / "tokenizer.json").write_text("{}")
        return draft.commit(manifest)
