"""Bundles that hold experts as they are stored: what is in them, and what everybody makes of it."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import ttc
from tests.support.fake_device import FakeDevice
from tests.support.quantised import small_checkpoint
from ttc.bench.identity import weights_digest
from ttc.errors import BundleError, NumericsError
from ttc.exporter.onnx.checkpoint import Checkpoint
from ttc.formats.manifest import MANIFEST_FILE, Manifest
from ttc.formats.quantised.codecs import decode
from ttc.model.bundle import Bundle
from ttc.model.weights import in_dtype
from ttc.runtime.backends.onnxruntime.graphs import decode_experts
from ttc.runtime.gpu.device import Scope
from ttc.runtime.gpu.weights import upload_weights, weight_bytes

# In the context tower int4 and int8, in the denoiser fp8, and int8, which one graph cannot have beside it.
FORMATS = {
    "context_tower.layers.0.mixer.experts.*": "int4",
    "context_tower.layers.1.mixer.experts.*": "int8",
    "denoiser_tower.layers.0.mixer.experts.*": "fp8",
    "denoiser_tower.layers.1.mixer.experts.*": "int8",
    "*.shared_experts.up_proj": "nvfp4",
}
STACK = "{}_tower.layers.{}.mixer.experts.up_proj.weight"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("small") / "checkpoint", FORMATS)


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Callable[[str, bool], Path]:
    """`exported(dtype, pack)`: the bundle of the checkpoint."""

    def export(dtype: str, pack: bool) -> Path:
        path = checkpoint.parent / f"{dtype}-{pack}.bundle"
        return path if path.exists() else ttc.export(checkpoint, path, dtype, pack=pack)

    return export


@pytest.fixture(params=[True, False], ids=["packed", "reference"])
def bundle(exported, request):
    with Bundle.open(exported("float32", request.param)) as opened:
        yield opened


def test_experts_are_weights_as_they_are_stored(bundle):
    found = {name: (spec.dtype, spec.shape, spec.layout, spec.piece) for name, spec in bundle.weights.items()}
    int4, int8, fp8, plain = (
        STACK.format(*each) for each in (("context", 0), ("context", 1), ("denoiser", 0), ("denoiser", 1))
    )
    assert found[int4] == ("int4", (4, 32, 64), "int4", "weight")
    assert found[f"{int4}_scale"] == ("float32", (4, 32, 2), "int4", "weight_scale")
    assert found[f"{int4}_scale_2"] == ("float32", (4,), "int4", "weight_scale_2")
    assert found[int8] == ("int8", (4, 32, 64), "int8", "weight")
    assert found[f"{int8}_scale"] == ("float32", (4, 32), "int8", "weight_scale")
    assert f"{int8}_scale_2" not in found
    assert found[fp8] == ("float8_e4m3fn", (4, 32, 64), "fp8", "weight")
    assert found[plain] == ("float32", (4, 32, 64), "int8", "")
    shared = "context_tower.layers.0.mixer.shared_experts.up_proj.weight"
    assert found[shared] == ("float32", (32, 64), "nvfp4", "")
    assert (bundle.read_weight(f"{int4}_scale_2") == 1).all()
    assert bundle.read_weight(int4).dtype == np.uint8
    assert bundle.read_weight(int4).shape == (4, 32, 32)
    assert bundle.manifest.format_version == 2
    assert bundle.describe()["format_version"] == 2


def test_both_forms_hold_the_same(exported):
    with Bundle.open(exported("float32", True)) as packed, Bundle.open(exported("float32", False)) as other:
        assert list(packed.weights) == list(other.weights)
        for name in packed.weights:
            one, two = packed.read_weight(name), other.read_weight(name)
            np.testing.assert_array_equal(one, two, strict=True)
            parts = [np.stack([*each.weight_parts(name)]) for each in (packed, other)]
            np.testing.assert_array_equal(*parts, strict=True)
            assert one.flags.c_contiguous
            assert not one.flags.writeable


def test_both_forms_are_one_model(exported):
    with Bundle.open(exported("float32", True)) as packed, Bundle.open(exported("float32", False)) as other:
        assert weights_digest(packed) == weights_digest(other)


def test_decoded_weights_are_what_the_codec_decodes(bundle, checkpoint):
    assert {spec.dtype for spec in bundle.decoded_weights.values()} == {"float32"}
    assert not any(name.endswith(("_scale", "_scale_2")) for name in bundle.decoded_weights)
    with Checkpoint.open(checkpoint) as source:
        for tower, layer, word in (("context", 0, "int4"), ("context", 1, "int8"), ("denoiser", 0, "fp8")):
            made = bundle.read_decoded(STACK.format(tower, layer))
            for expert in range(4):
                module = f"{tower}_tower.layers.{layer}.mixer.experts.{expert}.up_proj"
                stored = {end: source.read(f"{module}.{end}") for end in ("weight", "weight_scale")}
                np.testing.assert_array_equal(made[expert], decode(word, stored), strict=True)
            half = bundle.read_decoded(STACK.format(tower, layer), "bfloat16")
            np.testing.assert_array_equal(half, made.astype(half.dtype), strict=True)


def test_graphs_call_the_ops_of_their_layers(bundle):
    calls = {}
    for role in ("context", "denoiser"):
        model = ir.load(bundle.graph_path(role))
        calls[role] = [
            n.op_type for n in model.graph if n.domain == "ttc" and n.op_type.startswith("MoeExperts")
        ]
        assert {name for _, name, _ in model.functions} >= set(calls[role])
        assert json.loads(model.metadata_props["ttc.ops"]) == dict(bundle.manifest.ops)
        onnx.checker.check_model(bundle.graph_path(role), full_check=False)
    assert calls == {
        "context": ["MoeExpertsBlocked", "MoeExpertsScaled"],
        "denoiser": ["MoeExpertsScaled", "MoeExperts"],
    }
    assert {"MoeUpBlocked", "MoeDownScaled"} <= bundle.manifest.ops.keys()


def test_what_is_decoded_is_told(checkpoint):
    with Checkpoint.open(checkpoint) as source:
        (note,) = source.notes
    assert note.startswith(
        "2 stacks of experts (denoiser_tower.layers.1.mixer.experts.up_proj.weight, and 1 more)"
    )


@pytest.mark.parametrize("mode", ["ar", "diffusion"])
def test_tokens_are_the_same_everywhere(exported, mode):
    """The graphs' bodies with the codec's numbers, and the towers in torch with theirs."""
    made = []
    for pack, backend in ((True, "onnxruntime"), (False, "onnxruntime"), (False, "torch")):
        with ttc.load(exported("float32", pack), backend, "cpu") as engine:
            made.append(engine.generate([3, 1, 4, 1, 5], mode=mode, max_new_tokens=16).token_ids)
    assert made[0] == made[1] == made[2]


def test_decoded_graphs_have_no_trace_of_the_formats(bundle):
    model = ir.load(bundle.graph_path("context"))
    assert decode_experts(model, "float32")
    assert not decode_experts(model, "float32")
    names = {value.name for value in (*model.graph.inputs, *model.graph.initializers.values())}
    assert names & bundle.weights.keys() <= bundle.decoded_weights.keys()
    names = {name for _, name, _ in model.functions}
    assert {"MoeRouting", "MoeChoice", "MoeOrder", "MoeExperts", "MoeUp", "MoeDown", "MoeCombine"} <= names
    assert not [name for name in names if name.endswith(("Scaled", "Blocked"))]


def test_a_gpu_gets_the_bytes_as_they_are(bundle):
    device = FakeDevice()
    scope = Scope(device)
    arrays = upload_weights(bundle, bundle.weights, scope, None, 1000)
    total = 0
    for name, array in arrays.items():
        due = np.ascontiguousarray(bundle.read_weight(name)).reshape(-1).view(np.uint8)
        assert (array.dtype, array.shape) == (bundle.weights[name].dtype, bundle.weights[name].shape)
        assert array.nbytes == due.nbytes
        np.testing.assert_array_equal(device.bytes_of(array), due)
        total += array.nbytes
    assert weight_bytes(bundle, bundle.weights) == total
    scope.close()


def test_scales_of_int4_are_in_the_compute_dtype(checkpoint):
    with Checkpoint.open(checkpoint) as source:
        for layer, dtype in ((0, "float16"), (1, "float32")):
            spec = source.weights[f"{STACK.format('context', layer)}_scale"]
            assert in_dtype(spec, "float16").dtype == dtype


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("layout", "int3", "piece 'weight' of layout 'int3'; known layouts: int8, fp8"),
        ("piece", "weight_scale_3", "piece 'weight_scale_3' of layout 'int4'"),
        ("layout", "int8", "dtype 'int4', which weight of layout int8 has not"),
        ("dtype", "uint8", "dtype 'uint8'"),
        ("tensors", (), "cannot be made of 0 tensors"),
    ],
)
def test_rules_of_the_manifest(exported, key, value, message):
    manifest = Manifest.from_json((exported("float32", False) / MANIFEST_FILE).read_bytes())
    name = STACK.format("context", 0)
    changed = {**manifest.weights.map, name: dataclasses.replace(manifest.weights.map[name], **{key: value})}
    weights = dataclasses.replace(manifest.weights, map=changed)
    with pytest.raises(BundleError, match=message):
        dataclasses.replace(manifest, weights=weights).to_json()


def test_a_code_that_is_nan_is_named(checkpoint, exported, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "broken")
    with Checkpoint.open(folder) as source:
        begin = source.info("denoiser_tower.layers.0.mixer.experts.2.up_proj.weight").begin
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(begin + 64 + 7)
        file.write(b"\x7f")
    with pytest.raises(NumericsError, match=r"experts\.2\.up_proj\.weight' of .*row 1, column 7"):
        ttc.load(exported("float32", False), "onnxruntime", "cpu", checkpoint=folder)


def test_a_plain_bundle_has_no_word_of_quantisation(bundles):
    raw = (bundles("tiny_a") / MANIFEST_FILE).read_bytes()
    content = json.loads(raw)
    assert content["format_version"] == 1
    assert all(
        set(spec) == {"tensors", "stacked", "shape", "dtype", "graphs"}
        for spec in content["weights"]["map"].values()
    )
    assert not [name for name in content["ops"] if "Scaled" in name or "Blocked" in name]
