"""The weights that a bundle hands out, by reference and packed."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.external_data_helper
import pytest
from safetensors.numpy import save_file

from tests.support.small_bundle import BF16, MODEL, REQUIRED, SMALL, SPECS, WEIGHTS
from ttc.errors import BundleError, DigestError, NumericsError
from ttc.formats.atomic_folder import bundle_writer
from ttc.formats.manifest import Manifest, ShardRecord, WeightMap, WeightSpec
from ttc.formats.shard import Shard
from ttc.formats.weight_readers import ConvertedPart, PartReader, StoredPart
from ttc.model.bundle import Bundle


def graph(weights: dict[str, Any], external: str | None = None) -> onnx.ModelProto:
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    model = onnx.helper.make_model(onnx.helper.make_graph([], "graph", [], [], tensors))
    if external is not None:
        onnx.external_data_helper.convert_model_to_external_data(model, location=external, size_threshold=0)
    return model


def packed_bundle(destination: Path, external: str | None = None) -> Path:
    stacked = np.stack([WEIGHTS["e.0"], WEIGHTS["e.1"]]).astype(np.float32)
    held = {
        "context": {"w.f32": WEIGHTS["w.f32"], "stack": stacked, "scalar": WEIGHTS["scalar"]},
        "denoiser": {"w.bf16": WEIGHTS["w.bf16"].astype(np.float32), "stack": stacked},
        "step": {},
    }
    with bundle_writer(destination) as draft:
        for role, weights in held.items():
            data = external if role == "context" else None
            onnx.save(graph(weights, data), draft.path / f"{role}.onnx")
        return draft.commit(dataclasses.replace(SMALL, weights=WeightMap("packed", SPECS)))


def read_in_pieces(reader: PartReader, most_bytes: int) -> bytearray:
    """The last piece first: who reads may be several."""
    made = bytearray(reader.nbytes)
    for begin in reversed(range(0, reader.nbytes, most_bytes)):
        reader.fill(memoryview(made)[begin : begin + most_bytes], begin)
    return made


def expect_weights(bundle: Bundle) -> None:
    expected = {
        "w.f32": WEIGHTS["w.f32"],
        "w.bf16": np.array([0, 1, 2, 3], np.float32),
        "stack": np.array([[[1, 2, 3]], [[4, 5, 6]]], np.float32),
        "scalar": np.array(2.5, np.float32),
    }
    assert set(bundle.weights) == set(expected)
    for name, array in expected.items():
        found = bundle.read_weight(name)
        assert (found.dtype.name, found.shape) == ("float32", bundle.weights[name].shape)
        assert found.flags.aligned
        assert found.flags.c_contiguous
        assert not found.flags.writeable
        np.testing.assert_array_equal(found, array)
        parts = [bytes(read_in_pieces(reader, 5)) for reader in bundle.weight_readers(name)]
        assert parts == [part.tobytes() for part in bundle.weight_parts(name)]
        assert len(parts) == (2 if name == "stack" else 1)
    with pytest.raises(BundleError, match="no weight 'other' among its 4"):
        bundle.read_weight("other")


def test_referenced_weights(referenced: Path, checkpoint: Path) -> None:
    with Bundle.open(referenced) as bundle:
        assert bundle.config == MODEL
        assert bundle.compute_dtype == "float32"
        assert bundle.weights_mode == "reference"
        assert bundle.graph_path("step") == referenced / "step.onnx"
        assert bundle.tokenizer_path == referenced / "tokenizer.json"
        with pytest.raises(
            BundleError, match="no graph for the role 'advance'; it has: context, denoiser, step"
        ):
            bundle.graph_path("advance")
        expect_weights(bundle)
        described = bundle.describe()
    json.dumps(described)
    assert described["weights"] == {
        "mode": "reference",
        "count": 4,
        "tensors": 5,
        "root": str(checkpoint),
        "shards": 2,
        "shard_bytes": sum(path.stat().st_size for path in checkpoint.iterdir()),
    }
    assert set(described["files"]) == {"context.onnx", "denoiser.onnx", "step.onnx", "tokenizer.json"}


@pytest.mark.parametrize("external", [None, "context.onnx.data"])
def test_packed_weights(external: str | None, tmp_path: Path) -> None:
    path = packed_bundle(tmp_path / "bundle", external)
    assert (path / "context.onnx.data").exists() == (external is not None)
    with Bundle.open(path) as bundle:
        assert bundle.weights_mode == "packed"
        assert bundle.tokenizer_path is None
        assert bundle.describe()["weights"]["root"] is None
        expect_weights(bundle)
    with pytest.raises(BundleError, match="packed"):
        Bundle.open(path, checkpoint_root=tmp_path)


def test_packed_graph_that_does_not_fit_its_manifest(tmp_path: Path) -> None:
    specs = SPECS | {"w.f32": dataclasses.replace(SPECS["w.f32"], shape=(3, 2))}
    with bundle_writer(tmp_path / "bundle") as draft:
        onnx.save(graph({"w.f32": WEIGHTS["w.f32"]}), draft.path / "context.onnx")
        (draft.path / "denoiser.onnx").write_bytes(b"\xff not onnx")
        (draft.path / "step.onnx").write_bytes(b"")
        path = draft.commit(dataclasses.replace(SMALL, weights=WeightMap("packed", specs)))
    with Bundle.open(path) as bundle:
        with pytest.raises(
            BundleError, match=r"context.onnx: initializer 'w.f32' is float32 \[2, 3\], the manifest says"
        ):
            bundle.read_weight("w.f32")
        with pytest.raises(BundleError, match=r"context.onnx: no initializer 'stack'"):
            bundle.read_weight("stack")
        with pytest.raises(BundleError, match=r"denoiser.onnx: not an ONNX file"):
            bundle.read_weight("w.bf16")


def test_external_data_outside_the_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(24))
    model = graph({"w.f32": WEIGHTS["w.f32"]}, "data")
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    for item in tensor.external_data:
        if item.key == "location":
            item.value = "../secret"
    with bundle_writer(tmp_path / "bundle") as draft:
        (draft.path / "context.onnx").write_bytes(model.SerializeToString())
        for role in ("denoiser", "step"):
            (draft.path / f"{role}.onnx").write_bytes(b"")
        path = draft.commit(dataclasses.replace(SMALL, weights=WeightMap("packed", SPECS)))
    with Bundle.open(path) as bundle, pytest.raises(BundleError, match=r"takes data from '../secret'"):
        bundle.read_weight("w.f32")


def test_moved_checkpoint(referenced: Path, checkpoint: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(checkpoint, moved, copy_function=shutil.copyfile)
    shutil.rmtree(checkpoint)
    with pytest.raises(BundleError, match=r"checkpoint: no such folder, .*--checkpoint"):
        Bundle.open(referenced)
    with Bundle.open(referenced, checkpoint_root=moved) as bundle:
        expect_weights(bundle)
        assert bundle.describe()["weights"]["root"] == str(moved)


def test_moved_bundle(referenced: Path, tmp_path: Path) -> None:
    with Bundle.open(referenced.rename(tmp_path / "renamed")) as bundle:
        expect_weights(bundle)


def test_touched_shard(referenced: Path, checkpoint: Path) -> None:
    os.utime(checkpoint / "two.safetensors", ns=(1, 1))
    with pytest.raises(DigestError, match=r"two.safetensors: .*written to or touched"):
        Bundle.open(referenced)
    with Bundle.open(referenced, checkpoint_root=checkpoint) as bundle:
        expect_weights(bundle)


def test_changed_shard(referenced: Path, checkpoint: Path) -> None:
    path = checkpoint / "one.safetensors"
    content, found = path.read_bytes(), path.stat()
    save_file({"w.f32": WEIGHTS["w.f32"], "e.2": WEIGHTS["e.1"]}, path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    for root in (None, checkpoint):
        with pytest.raises(DigestError, match=r"one.safetensors: .*its header"):
            Bundle.open(referenced, root)
    save_file({"w.f32": WEIGHTS["w.f32"]}, path)
    with pytest.raises(DigestError, match=r"one.safetensors: .*bytes, \d+ when it was exported"):
        Bundle.open(referenced, checkpoint)
    path.write_bytes(content[:-1])
    with pytest.raises(BundleError, match=r"one.safetensors: .*truncated"):
        Bundle.open(referenced)
    path.unlink()
    with pytest.raises(BundleError, match=r"one.safetensors: the file is missing"):
        Bundle.open(referenced)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (
            WeightSpec("w.f32", ("none",), False, (2, 3), "float32", ("context",)),
            "no tensor 'none' there, but the weight 'w.f32'",
        ),
        (
            WeightSpec("w.f32", ("w.f32",), False, (6,), "float32", ("context",)),
            r"'w.f32' is float32 \[2, 3\], which does not fit",
        ),
    ],
)
def test_map_that_does_not_fit_the_shards(weight: WeightSpec, message: str, referenced: Path) -> None:
    manifest = Manifest.from_json((referenced / "bundle.json").read_bytes())
    weights = dataclasses.replace(manifest.weights, map={"w.f32": weight})
    (referenced / "bundle.json").write_bytes(dataclasses.replace(manifest, weights=weights).to_json())
    with pytest.raises(BundleError, match=message):
        Bundle.open(referenced)


def test_value_too_large_for_the_dtype(tmp_path: Path, checkpoint: Path) -> None:
    path = checkpoint / "big.safetensors"
    save_file({"fits": np.array([6e4, np.inf], np.float32), "big": np.array([7e4]).astype(BF16)}, path)
    specs = {
        name: WeightSpec(name, (name,), False, (n,), "float16", ("step",))
        for name, n in (("fits", 2), ("big", 1))
    }
    weights = WeightMap("reference", specs, str(checkpoint), {path.name: ShardRecord.of(Shard.open(path))})
    with bundle_writer(tmp_path / "half") as draft:
        for role in REQUIRED:
            (draft.path / f"{role}.onnx").write_bytes(b"")
        draft.commit(dataclasses.replace(SMALL, weights=weights))
    with Bundle.open(tmp_path / "half") as bundle:
        assert bundle.read_weight("fits").tolist() == [6e4, np.inf]
        with pytest.raises(NumericsError, match=r"weight 'big'.* too large for float16"):
            bundle.read_weight("big")


def test_a_shard_that_is_cut_short_after_opening_is_an_error(referenced: Path, checkpoint: Path) -> None:
    with Bundle.open(referenced) as bundle:
        os.truncate(checkpoint / "one.safetensors", 4)
        with pytest.raises(
            BundleError, match=r"one.safetensors: ends at byte \d+, and had \d+ bytes .* cut short"
        ):
            bundle.read_weight("w.f32")


def test_what_is_stored_as_it_is_due_is_read_where_it_goes(referenced: Path) -> None:
    with Bundle.open(referenced) as bundle:
        kinds = {name: [type(reader) for reader in bundle.weight_readers(name)] for name in bundle.weights}
    assert kinds == {
        "w.f32": [StoredPart],
        "scalar": [StoredPart],
        "w.bf16": [ConvertedPart],
        "stack": [ConvertedPart, ConvertedPart],
    }


@pytest.mark.parametrize("external", [None, "context.onnx.data"])
def test_a_graph_that_is_changed_after_opening_is_not_read(external: str | None, tmp_path: Path) -> None:
    path = packed_bundle(tmp_path / "bundle", external)
    with Bundle.open(path) as bundle:
        name = external or "context.onnx"
        honest = (path / name).read_bytes()
        (path / name).unlink()
        (path / name).write_bytes(bytes(len(honest)))
        if external is None:
            with pytest.raises(DigestError, match=r"context.onnx: its content is not what was exported"):
                bundle.read_weight("w.f32")
        else:  # the file that was open while its digest was taken
            np.testing.assert_array_equal(bundle.read_weight("w.f32"), WEIGHTS["w.f32"])


def test_every_external_tensor_must_be_of_a_listed_file(tmp_path: Path) -> None:
    model = graph({"w.f32": WEIGHTS["w.f32"]})
    hidden = onnx.numpy_helper.from_array(np.zeros(3, np.float32), "hidden")
    hidden.ClearField("raw_data")
    hidden.data_location = onnx.TensorProto.EXTERNAL
    hidden.external_data.add(key="location", value="secret")
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["c"], value=hidden))
    with bundle_writer(tmp_path / "bundle") as draft:
        (draft.path / "context.onnx").write_bytes(model.SerializeToString())
        for role in ("denoiser", "step"):
            (draft.path / f"{role}.onnx").write_bytes(b"")
        path = draft.commit(dataclasses.replace(SMALL, weights=WeightMap("packed", SPECS)))
    with Bundle.open(path) as bundle, pytest.raises(BundleError, match=r"takes data from 'secret'"):
        bundle.read_graph("context")
