"""`bundle.json`: its bytes, and what reading it refuses."""

import dataclasses
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.small_bundle import MODEL, REQUIRED, SMALL
from ttc.errors import BundleError
from ttc.formats.manifest import GRAPH_ROLES, FileRecord, Manifest, ShardRecord, WeightMap, WeightSpec

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
def test_bit_flipped_manifest_is_always_noticed(position: int, bit: int) -> None:
    raw = bytearray(SMALL.to_json())
    raw[position % len(raw)] ^= 1 << bit
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
    inner: Any = content
    while True:
        key = data.draw(st.sampled_from(sorted(inner)))
        if not isinstance(inner[key], dict) or not inner[key] or data.draw(st.booleans()):
            break
        inner = inner[key]
    if data.draw(st.booleans()):
        inner[key] = data.draw(anything)
    else:
        inner[data.draw(st.text(max_size=6))] = inner.pop(key)
    try:
        Manifest.from_json(resigned(content))
    except BundleError:
        return


def replaced(path: str, value: object) -> bytes:
    content = json.loads(SMALL.to_json())
    inner, keys = content, path.split("/")
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return resigned(content)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", "other", "'format' is 'other', 'ttc-bundle' is due"),
        ("format_version", 3, "'format_version' is 3, 1 or 2 .export"),
        ("format_version", 2, "format_version is 2, but its weights need 1"),
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


def test_roles() -> None:
    assert GRAPH_ROLES == ("context", "denoiser", "step", "advance")
