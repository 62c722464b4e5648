"""`Bundle`: the manifest's bytes, what opening checks, and the weights it hands out, by reference and
packed.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.external_data_helper
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from ttc.errors import BundleError, DigestError, NumericsError
from ttc.formats.atomic_folder import bundle_writer
from ttc.formats.manifest import GRAPH_ROLES, FileRecord, Manifest, ShardRecord, WeightMap, WeightSpec
from ttc.formats.shard import Shard
from ttc.model.bundle import Bundle
from ttc.model.config import ModelConfig

BF16 = ml_dtypes.bfloat16
REQUIRED = ("context", "denoiser", "step")

MODEL = ModelConfig(
    pattern="-",
    hidden_size=8,
    vocab_size=16,
    layer_norm_epsilon=1e-05,
    mamba_num_heads=0,
    mamba_head_dim=0,
    n_groups=0,
    ssm_state_size=0,
    conv_kernel=0,
    num_attention_heads=0,
    num_key_value_heads=0,
    head_dim=0,
    n_routed_experts=0,
    num_experts_per_tok=0,
    moe_intermediate_size=0,
    moe_shared_expert_intermediate_size=0,
    n_group=0,
    topk_group=0,
    norm_topk_prob=False,
    routed_scaling_factor=0.0,
    intermediate_size=4,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_ids=(2, 5),
    pad_token_id=None,
    dtype="bfloat16",
)

SMALL = Manifest(
    ttc_version="0.1.0",
    created_by={"onnx": "1.0"},
    source={"folder": "tiny"},
    model=MODEL.to_dict(),
    compute_dtype="float32",
    graphs={role: f"{role}.onnx" for role in REQUIRED},
    ops={"DiffusionStep": 1},
    weights=WeightMap(
        "reference",
        {"stack": WeightSpec("stack", ("e.0", "e.1"), True, (2, 3), "float32", ("context", "denoiser"))},
        "/models/tiny",
        {"model.safetensors": ShardRecord("a" * 64, 10, 1700000000000000001)},
    ),
    files={
        f"{role}.onnx": FileRecord("0123456789abcdef" * 4, number) for number, role in enumerate(REQUIRED)
    },
)

GOLDEN = """\
{"format": "ttc-bundle", "format_version": 1, "ttc_version": "0.1.0", "created_by": {"onnx": "1.0"}, \
"source": {"folder": "tiny"}, "model": {"pattern": "-", "hidden_size": 8, "vocab_size": 16, \
"layer_norm_epsilon": 1e-05, "mamba_num_heads": 0, "mamba_head_dim": 0, "n_groups": 0, \
"ssm_state_size": 0, "conv_kernel": 0, "num_attention_heads": 0, "num_key_value_heads": 0, \
"head_dim": 0, "n_routed_experts": 0, "num_experts_per_tok": 0, "moe_intermediate_size": 0, \
"moe_shared_expert_intermediate_size": 0, "n_group": 0, "topk_group": 0, "norm_topk_prob": false, \
"routed_scaling_factor": 0.0, "intermediate_size": 4, "max_position_embeddings": 64, "bos_token_id": \
1, "eos_token_ids": [2, 5], "pad_token_id": null, "dtype": "bfloat16", "mask_token_id": 3}, \
"compute_dtype": "float32", "graphs": {"context": "context.onnx", "denoiser": "denoiser.onnx", \
"step": "step.onnx"}, "ops": {"DiffusionStep": 1}, "weights": {"mode": "reference", "map": {"stack": \
{"tensors": ["e.0", "e.1"], "stacked": true, "shape": [2, 3], "dtype": "float32", "graphs": \
["context", "denoiser"]}}, "root": "/models/tiny", "shards": {"model.safetensors": {"header_sha256": \
"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "size_bytes": 10, "mtime_ns": \
1700000000000000001}}}, "files": {"context.onnx": {"sha256": \
"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "size_bytes": 0}, \
"denoiser.onnx": {"sha256": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", \
"size_bytes": 1}, "step.onnx": {"sha256": \
"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "size_bytes": 2}}, \
"manifest_sha256": "c33bf868c7699940fc64761dd13b0d208d624106f69263038a0da32a3f40ad64"}"""


def resigned(content: dict[str, Any]) -> bytes:
    """The manifest `content` with its own digest made to fit, as a careful forger would write it."""
    rest = {key: value for key, value in content.items() if key != "manifest_sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return json.dumps(rest | {"manifest_sha256": hashlib.sha256(text.encode()).hexdigest()}).encode()


def test_golden_json() -> None:
    """A change of the format cannot pass unseen: it needs a new version and a new literal here."""
    assert json.dumps(json.loads(SMALL.to_json())) == GOLDEN
    assert Manifest.from_json(SMALL.to_json()) == SMALL
    assert Manifest.from_json(GOLDEN.encode()) == SMALL


words = st.text(min_size=1, max_size=12)
names = st.text("abcdefgh-_.0123456789", min_size=1, max_size=12).filter(lambda name: set(name) != {"."})
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
counts = st.integers(0, 2**63 - 1)
roles = st.lists(st.sampled_from(REQUIRED), min_size=1, max_size=3, unique=True).map(tuple)
dtypes = st.sampled_from(["float32", "float16", "bfloat16"])
shapes = st.lists(st.integers(0, 9), max_size=4).map(tuple)
single = st.builds(lambda name, *rest: WeightSpec("", (name,), False, *rest), words, shapes, dtypes, roles)
stack = st.builds(
    lambda tensors, shape, *rest: WeightSpec("", tuple(tensors), True, (len(tensors), *shape), *rest),
    st.lists(words, min_size=1, max_size=4),
    shapes,
    dtypes,
    roles,
)
maps = st.dictionaries(words, single | stack, max_size=4).map(
    lambda specs: {name: dataclasses.replace(spec, name=name) for name, spec in specs.items()}
)
shards = st.dictionaries(names, st.builds(ShardRecord, digests, counts, counts), min_size=1, max_size=3)
weight_maps = st.builds(WeightMap, st.just("packed"), maps) | st.builds(
    WeightMap, st.just("reference"), maps, st.just("/somewhere/else"), shards
)
manifests = st.builds(
    lambda extra, **fields: Manifest(
        model=MODEL.to_dict(), graphs=SMALL.graphs, files={**extra, **SMALL.files}, **fields
    ),
    st.dictionaries(
        names.filter(lambda name: name != "bundle.json"), st.builds(FileRecord, digests, counts), max_size=3
    ),
    ttc_version=words,
    created_by=st.dictionaries(words, words, max_size=3),
    source=st.dictionaries(words, words, max_size=3),
    compute_dtype=dtypes,
    ops=st.dictionaries(words, counts, max_size=3),
    weights=weight_maps,
)


@given(manifests)
def test_manifest_round_trip(manifest: Manifest) -> None:
    assert Manifest.from_json(manifest.to_json()) == manifest


@settings(max_examples=300)
@given(st.integers(0), st.integers(0, 7))
def test_bit_flipped_manifest_is_always_noticed(place: int, bit: int) -> None:
    raw = bytearray(SMALL.to_json())
    raw[place % len(raw)] ^= 1 << bit
    with pytest.raises(BundleError):
        Manifest.from_json(bytes(raw))


@given(st.integers(0))
def test_truncated_manifest_is_always_noticed(length: int) -> None:
    raw = SMALL.to_json()
    with pytest.raises(BundleError):
        Manifest.from_json(raw[: length % len(raw)])


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=400)
@given(st.data())
def test_any_value_anywhere_is_taken_or_refused(data: st.DataObject) -> None:
    content = json.loads(SMALL.to_json())
    place: Any = content
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[key], dict) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    if data.draw(st.booleans()):
        place[key] = data.draw(anything)
    else:
        place[data.draw(st.text(max_size=6))] = place.pop(key)
    try:
        Manifest.from_json(resigned(content))
    except BundleError:
        return


def replaced(path: str, value: object) -> bytes:
    content = json.loads(SMALL.to_json())
    place, keys = content, path.split("/")
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return resigned(content)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", "other", "'format' is 'other', 'ttc-bundle' is due"),
        ("format_version", 2, "'format_version' is 2, 1 .export"),
        ("format_version", True, "'format_version' is True"),
        ("colour", 1, r"1 unknown key\(s\): 'colour'"),
        ("model", [], "model"),
        ("compute_dtype", "int8", "compute_dtype is 'int8'"),
        ("graphs/other", "step.onnx", "unknown role 'other'; known: context, denoiser, step, advance"),
        ("graphs/step", "missing.onnx", "graphs: 'missing.onnx' is not among the files"),
        ("graphs", {}, "graphs has no 'context'"),
        ("files/bundle.json", {"sha256": "0" * 64, "size_bytes": 1}, "lists bundle.json itself"),
        ("files/step.onnx/sha256", "0" * 63, "the sha256 of 'step.onnx'"),
        ("files/step.onnx/size_bytes", -1, "'size_bytes' is -1"),
        ("weights/mode", "other", "mode is 'other'"),
        ("weights/mode", "packed", "root must be null"),
        ("weights/root", "models/tiny", "root is 'models/tiny', the absolute path"),
        ("weights/root", None, "root is None"),
        ("weights/root", 3, "'root' is 3"),
        ("weights/shards", {}, "no shards are listed"),
        ("weights/map/stack/tensors", ["e.0"], "cannot be made of 1 tensors"),
        ("weights/map/stack/shape", [], "stacked|cannot be made"),
        ("weights/map/stack/dtype", "int4", "dtype 'int4'"),
        ("weights/map/stack/graphs", ["advance"], "taken by"),
        ("weights/map/stack/graphs", [], "taken by"),
    ],
)
def test_rules_of_the_manifest(path: str, value: object, message: str) -> None:
    with pytest.raises(BundleError, match=f"x/bundle.json.*{message}"):
        Manifest.from_json(replaced(path, value), "x/bundle.json")


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/../b", "./a", "a//b", "a/", "..", ".", "a\\b", "C:x", "a\nb", "x" * 2000],
)
def test_paths_cannot_leave_the_bundle(name: str) -> None:
    content = json.loads(SMALL.to_json())
    content["files"][name] = {"sha256": "0" * 64, "size_bytes": 1}
    with pytest.raises(BundleError, match="not a plain relative path inside the bundle"):
        Manifest.from_json(resigned(content))
    content = json.loads(SMALL.to_json())
    content["weights"]["shards"][name] = content["weights"]["shards"]["model.safetensors"]
    with pytest.raises(BundleError, match="not a plain"):
        Manifest.from_json(resigned(content))


# --- bundles on disk
# -------------------------------------------------------------------------------------------

WEIGHTS: dict[str, Any] = {
    "w.f32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "w.bf16": np.arange(4).astype(BF16),
    "e.0": np.array([[1, 2, 3]]).astype(BF16),
    "e.1": np.array([[4, 5, 6]]).astype(BF16),
    "scalar": np.array(2.5, np.float32),
}
ENTRIES = {
    "w.f32": WeightSpec("w.f32", ("w.f32",), False, (2, 3), "float32", ("context",)),
    "w.bf16": WeightSpec("w.bf16", ("w.bf16",), False, (4,), "float32", ("denoiser",)),
    "stack": WeightSpec("stack", ("e.0", "e.1"), True, (2, 1, 3), "float32", ("context", "denoiser")),
    "scalar": WeightSpec("scalar", ("scalar",), False, (), "float32", ("context",)),
}


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
    manifest = dataclasses.replace(SMALL, weights=WeightMap("reference", ENTRIES, str(checkpoint), records))
    with bundle_writer(tmp_path / "bundle") as draft:
        for role in REQUIRED:
            (draft.path / f"{role}.onnx").write_bytes(role.encode())
        (draft.path / "tokenizer.json").write_text("{}")
        return draft.commit(manifest)


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
        return draft.commit(dataclasses.replace(SMALL, weights=WeightMap("packed", ENTRIES)))


def expect_weights(bundle: Bundle) -> None:
    due = {
        "w.f32": WEIGHTS["w.f32"],
        "w.bf16": np.array([0, 1, 2, 3], np.float32),
        "stack": np.array([[[1, 2, 3]], [[4, 5, 6]]], np.float32),
        "scalar": np.array(2.5, np.float32),
    }
    assert set(bundle.weights) == set(due)
    for name, array in due.items():
        found = bundle.read_weight(name)
        assert (found.dtype.name, found.shape) == ("float32", bundle.weights[name].shape)
        assert found.flags.aligned
        assert found.flags.c_contiguous
        assert not found.flags.writeable
        np.testing.assert_array_equal(found, array)
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
        # One tensor in the graph's own dtype is the mapped file itself.
        assert not bundle.read_weight("w.f32").flags.owndata
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
    entries = ENTRIES | {"w.f32": dataclasses.replace(ENTRIES["w.f32"], shape=(3, 2))}
    with bundle_writer(tmp_path / "bundle") as draft:
        onnx.save(graph({"w.f32": WEIGHTS["w.f32"]}), draft.path / "context.onnx")
        (draft.path / "denoiser.onnx").write_bytes(b"\xff not onnx")
        (draft.path / "step.onnx").write_bytes(b"")
        path = draft.commit(dataclasses.replace(SMALL, weights=WeightMap("packed", entries)))
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
        path = draft.commit(dataclasses.replace(SMALL, weights=WeightMap("packed", ENTRIES)))
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
    entries = {
        name: WeightSpec(name, (name,), False, (n,), "float16", ("step",))
        for name, n in (("fits", 2), ("big", 1))
    }
    weights = WeightMap("reference", entries, str(checkpoint), {path.name: ShardRecord.of(Shard.open(path))})
    with bundle_writer(tmp_path / "half") as draft:
        for role in REQUIRED:
            (draft.path / f"{role}.onnx").write_bytes(b"")
        draft.commit(dataclasses.replace(SMALL, weights=weights))
    with Bundle.open(tmp_path / "half") as bundle:
        assert bundle.read_weight("fits").tolist() == [6e4, np.inf]
        with pytest.raises(NumericsError, match=r"weight 'big'.* too large for float16"):
            bundle.read_weight("big")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    name=st.sampled_from(["context.onnx", "tokenizer.json", "bundle.json"]),
    place=st.integers(0),
    bit=st.integers(0, 7),
    cut=st.booleans(),
)
def test_damaged_file_is_always_noticed_and_named(
    name: str, place: int, bit: int, cut: bool, referenced: Path
) -> None:
    path = referenced / name
    good = path.read_bytes()
    bad = bytearray(good)
    bad[place % len(bad)] ^= 1 << bit
    path.write_bytes(good[: place % len(good)] if cut else bad)
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
    with pytest.raises(BundleError, match=r"bundle.json: 1099511627776 bytes, a manifest has at most"):
        Bundle.open(tmp_path)


def test_roles() -> None:
    assert GRAPH_ROLES == ("context", "denoiser", "step", "advance")
