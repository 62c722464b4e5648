"""Quantised checkpoints: read, decoded, and refused where they are not what their files say."""

import json
import re
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.support.quantised import FOLDER, change, defects, with_defect
from ttc.base.quantised import WEIGHT_FORMATS
from ttc.errors import CheckpointError, NumericsError
from ttc.exporter.onnx.checkpoint import Checkpoint
from ttc.formats.manifest import ShardRecord, WeightMap
from ttc.formats.quant_config.files import QUANT_FILE
from ttc.formats.quantised.codecs import encode
from ttc.formats.quantised.nibbles import unpack
from ttc.formats.weights import ReferencedWeights
from ttc.model.weights import in_dtype

PLAIN = FOLDER.parent / "tiny_a"
EXPERT = "context_tower.layers.1.mixer.experts.0.up_proj"


def quantised(folder, convert, modelopt=None, config=None):
    """A copy of tiny_a in one file; `convert(module, matrix)` → its tensors by suffix, or None: plain."""
    folder.mkdir()
    content = json.loads((PLAIN / "config.json").read_text())
    if config:
        content["quantization_config"] = config
    (folder / "config.json").write_text(json.dumps(content))
    if modelopt:
        (folder / QUANT_FILE).write_text(json.dumps({"quantization": modelopt}))
    tensors = {}
    for shard in sorted(PLAIN.glob("model*.safetensors")):
        for name, matrix in load_file(shard).items():
            module = name.removesuffix(".weight")
            made = convert(module, matrix) if matrix.ndim == 2 and module != name else None
            tensors |= {name: matrix} if made is None else {f"{module}.{key}": made[key] for key in made}
    save_file(tensors, folder / "model.safetensors")
    return folder


def experts(word):
    return lambda module, matrix: encode(word, matrix) if ".mixer.experts." in module else None


def is_expert(module):
    return ".mixer.experts." in module


@pytest.mark.parametrize(("name", "matrices", "unused"), [("tiny_fp8", 93, 0), ("tiny_nvfp4", 80, 82)])
def test_golden_checkpoints_open(name, matrices, unused):
    with Checkpoint.open(FOLDER / name) as checkpoint:
        layouts = [spec for spec in checkpoint.weights.values() if spec.layout]
        assert {spec.layout for spec in layouts} == {name.removeprefix("tiny_")}
        parts = sum(len(spec.parts) for spec in layouts if spec.piece in ("", "weight"))
        assert parts == matrices
        assert len(checkpoint.notes) == bool(unused)
        assert not unused or checkpoint.notes[0].startswith(f"{unused} scales of activations and caches (")


@pytest.mark.parametrize("name", sorted(defects()))
def test_defects(name, tmp_path):
    """Those that a reader must find, by name; the others open, and `ttc verify --weights` finds them."""
    folder, defect = with_defect(name, tmp_path / "x"), defects()[name]
    if defect["stage"] != "read":
        Checkpoint.open(folder).close()
        return
    due = {
        "missing_scale_2": f"1 missing: {defect['tensor']}",
        "swizzled_scale": f"{defect['tensor']} is 1-D uint8 [512], a kernel's swizzled order; "
        "float8_e4m3fn [48, 4] is due: export the checkpoint again without",
        "unknown_algo": "hf_quant_config.json: quant_algo 'W3A16_TERNARY' is not known; known: FP8, NVFP4",
        "excluded_but_quantised": "16 stored quantised, though {} and config.json excludes "
        "denoiser_tower.layers.4*: denoiser_tower.layers.4.mixer.experts.0.up_proj, ",
    }[name]
    # The one file that lists what is excluded also says what is quantised.
    due = due.format(folder / QUANT_FILE)
    with pytest.raises(CheckpointError, match=re.escape(due)):
        Checkpoint.open(folder)


def test_float8_without_a_file_that_says_how_is_refused(tmp_path):
    folder = shutil.copytree(FOLDER / "tiny_fp8", tmp_path / "x")
    (folder / QUANT_FILE).unlink()
    with pytest.raises(
        CheckpointError, match=r"93 unexpected: .*weight_scale.*93 of a dtype that is not floating"
    ):
        Checkpoint.open(folder)


def test_names_may_be_those_of_a_model_with_one_tower(tmp_path):
    modelopt = {"quant_algo": "FP8", "exclude_modules": ["lm_head", "backbone.layers.4*"]}
    folder = quantised(tmp_path / "x", experts("fp8"), modelopt)
    with pytest.raises(CheckpointError, match=r"32 stored quantised, though .* excludes backbone.layers.4\*"):
        Checkpoint.open(folder)
    layers = {f"backbone.layers.{i}.mixer.experts": {"quant_algo": "FP8"} for i in (1, 4)}
    modelopt = {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    (folder / QUANT_FILE).write_text(json.dumps({"quantization": modelopt}))
    with pytest.raises(CheckpointError, match=r"32 stored quantised, which .* does not say: .*layers.6"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("foreign", ["pre_quant_scale", "g_idx", "qzeros", "weight_zero_point"])
def test_tensors_of_other_quantisers_are_named(foreign, tmp_path):
    def convert(module, matrix):
        return (
            encode("fp8", matrix) | {foreign: np.ones(matrix.shape[1], np.float32)}
            if module == EXPERT
            else None
        )

    folder = quantised(tmp_path / "x", convert, {"quant_algo": "FP8"})
    with pytest.raises(CheckpointError, match=rf"{EXPERT}.{foreign}: .*`ttc quantize`"):
        Checkpoint.open(folder)


def test_expert_stacks_of_mixed_formats_are_refused(tmp_path):
    folder = quantised(
        tmp_path / "x",
        lambda module, matrix: encode("fp8", matrix) if module == EXPERT else None,
        {"quant_algo": "FP8"},
    )
    with pytest.raises(
        CheckpointError, match=r"1 expert stacks of mixed formats: context_tower.layers.1.mixer"
    ):
        Checkpoint.open(folder)


def test_a_scale_of_the_wrong_shape_is_refused(tmp_path):
    def convert(module, matrix):
        made = encode("fp8", matrix) if is_expert(module) else None
        if module == EXPERT:
            made["weight_scale"] = made["weight_scale"][:5]
            made["input_scale"] = np.ones(2, np.float32)
        return made

    folder = quantised(tmp_path / "x", convert, {"quant_algo": "FP8"})
    with pytest.raises(
        CheckpointError,
        match=rf"{EXPERT}.input_scale float32 \[2\] instead of one number.*1 not as fp8 is stored: "
        rf"{EXPERT}.weight_scale is float32 \[5\]; .*\[48\] or \[48, 1\] or \[1\] or \[\] is due",
    ):
        Checkpoint.open(folder)


def int4_of_compressed_tensors(matrix):
    made = encode("int4", matrix)
    packed = (made["weight"] ^ 0x88).view("<i4")
    assert np.array_equal(unpack(made["weight"]) ^ 8, unpack(packed.view(np.uint8)))
    shape = np.array(matrix.shape, np.int64)
    return {"weight_packed": packed, "weight_scale": made["weight_scale"], "weight_shape": shape}


def nvfp4_of_compressed_tensors(matrix):
    made = encode("nvfp4", matrix)
    whole = np.float32(1) / made["weight_scale_2"].reshape(1)
    return {
        "weight_packed": made["weight"],
        "weight_scale": made["weight_scale"],
        "weight_global_scale": whole,
    }


def scaled_of_compressed_tensors(matrix):
    made = encode("int8", matrix)
    return made | {"weight_scale": made["weight_scale"][:, None].astype(ml_dtypes.bfloat16)}


def compressed(fmt, kind, bits, strategy, **more):
    weights = {"type": kind, "num_bits": bits, "strategy": strategy, "symmetric": True} | more
    groups = {"group_0": {"weights": weights, "targets": ["Linear"]}}
    return {
        "quant_method": "compressed-tensors",
        "format": fmt,
        "config_groups": groups,
        "ignore": ["lm_head"],
    }


@pytest.mark.parametrize(
    ("word", "config", "convert"),
    [
        ("int8", compressed("int-quantized", "int", 8, "channel"), scaled_of_compressed_tensors),
        (
            "nvfp4",
            compressed("nvfp4-pack-quantized", "float", 4, "tensor_group", group_size=16),
            nvfp4_of_compressed_tensors,
        ),
        (
            "int4",
            compressed("pack-quantized", "int", 4, "group", group_size=32),
            int4_of_compressed_tensors,
        ),
    ],
)
def test_compressed_tensors_gives_the_weights_that_our_layout_gives(word, config, convert, tmp_path):
    def only_up(encoded):  # 48 inputs of the other projection cannot be divided into groups of 32
        return lambda module, matrix: encoded(matrix) if module.endswith("shared_experts.up_proj") else None

    def ours(matrix):
        made = encode(word, matrix)
        if word == "int8":
            made["weight_scale"] = made["weight_scale"].astype(ml_dtypes.bfloat16)
        return made

    modelopt = {"quant_algo": WEIGHT_FORMATS[word].algorithm}
    theirs = decoded(quantised(tmp_path / "theirs", only_up(convert), config=config))
    for name, array in decoded(quantised(tmp_path / "ours", only_up(ours), modelopt)).items():
        # The inverse of a second scale is rounded once more.
        np.testing.assert_array_max_ulp(theirs[name], array, maxulp=2 if word == "nvfp4" else 0)


def test_a_matrix_comes_decoded_as_its_codec_decodes_it(tmp_path):
    made = decoded(FOLDER / "tiny_fp8")
    with Checkpoint.open(FOLDER / "tiny_fp8") as checkpoint:
        name = "denoiser_tower.layers.2.mixer.in_proj"
        codes, scale = (checkpoint.read(f"{name}.{end}") for end in ("weight", "weight_scale"))
        np.testing.assert_array_equal(made[f"{name}.weight"], codes.astype(np.float32) * scale)


def test_a_matrix_that_decodes_to_nan_is_named(tmp_path):
    folder = shutil.copytree(FOLDER / "tiny_fp8", tmp_path / "x")
    name = "denoiser_tower.layers.2.mixer.in_proj.weight"
    with Checkpoint.open(folder) as checkpoint:
        begin = checkpoint.info(name).begin
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(begin + 64 * 3 + 5)
        file.write(b"\xff")
    with pytest.raises(
        NumericsError,
        match=rf"tensor '{name}' of .*/x: stored as fp8, but the weight at row 3, column 5 is NaN",
    ):
        decoded(folder)


def decoded(folder):
    """All weights of a checkpoint as a plain float32 bundle has them."""
    with Checkpoint.open(folder) as checkpoint:
        specs = {name: in_dtype(spec, "float32") for name, spec in checkpoint.weights.items()}
        shards = {name: ShardRecord.of(shard) for name, shard in checkpoint.shards.items()}
    weights = ReferencedWeights(WeightMap("reference", specs, str(folder), shards), None, "x")
    try:
        return {name: np.array(weights.read(spec)) for name, spec in specs.items()}
    finally:
        weights.close()


@pytest.mark.parametrize("value", [np.nan, -1.0, 0.0, np.inf])
def test_a_scale_that_is_not_used_is_looked_at(tmp_path, value):
    folder = tmp_path / "x"
    shutil.copytree(FOLDER / "tiny_nvfp4", folder)
    name = "denoiser_tower.layers.1.mixer.experts.3.up_proj.input_scale"
    change(folder, name, lambda scale: np.full_like(scale, value))
    with pytest.raises(CheckpointError, match=rf"{re.escape(name)} is .*, a finite number above 0 is due"):
        Checkpoint.open(folder)


def test_codes_that_are_no_numbers_never_leave_the_checkpoint(tmp_path):
    """ModelOpt's zero row: scale 0 and NaN codes, which a kernel that decodes by bits would make 480."""

    def broken(module, matrix):
        if not is_expert(module):
            return None
        made = dict(encode("fp8", matrix))
        if module == EXPERT:
            codes = made["weight"].copy()
            codes.view(np.uint8)[3] = 0xFF
            made["weight"] = codes
        return made

    folder = quantised(tmp_path / "x", broken, modelopt={"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"})
    with Checkpoint.open(folder) as checkpoint:
        name = EXPERT.replace(".0.up_proj", ".up_proj.weight")
        specs = {key: in_dtype(spec, "float32") for key, spec in checkpoint.weights.items()}
        assert specs[name].piece
        shards = {file: ShardRecord.of(shard) for file, shard in checkpoint.shards.items()}
        weights = ReferencedWeights(WeightMap("reference", specs, str(folder), shards), None, "x")
        with pytest.raises(
            NumericsError, match=rf"{re.escape(EXPERT)}.* is NaN or infinite at row 3, column 0"
        ):
            weights.read(specs[name])
        weights.close()


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (np.array([3, 5], np.int64), r"weight_shape says \[3, 5\], the matrix is \[48, 64\]"),
        (np.array([48, 64], np.int32), r"weight_shape int32 \[2\] instead of int64 \[2\]"),
        (np.array([48], np.int64), r"weight_shape int64 \[1\] instead of int64 \[2\]"),
    ],
)
def test_a_repeated_shape_is_held_against_the_matrix(tmp_path, said, complaint):
    def packed(module, matrix):
        if not is_expert(module) or not module.endswith("up_proj"):
            return None
        made = int4_of_compressed_tensors(matrix)
        return made | {"weight_shape": said} if module == EXPERT else made

    weights = {"type": "int", "num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": True}
    groups = {"group_0": {"weights": weights, "targets": ["Linear"]}}
    given = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups}
    with pytest.raises(CheckpointError, match=complaint):
        Checkpoint.open(quantised(tmp_path / "x", packed, config=given))


def test_groups_that_no_kernel_has_are_decoded_while_reading(tmp_path):
    """A scale for all 48 inputs of a 4-bit matrix: right numbers, but no op for them."""
    config = json.loads((PLAIN / "config.json").read_text())
    assert config["moe_intermediate_size"] % 32

    def packed(module, matrix):
        if not is_expert(module):
            return None
        scale = np.abs(matrix).max(1, keepdims=True) / 7
        codes = np.clip(np.rint(matrix / scale), -8, 7).astype(np.int64) + 8
        words = (codes.reshape(len(codes), -1, 8) << (4 * np.arange(8))).sum(-1).astype(np.uint32)
        shape = np.array(matrix.shape, np.int64)
        return {"weight_packed": words.view(np.int32), "weight_scale": scale, "weight_shape": shape}

    weights = {"type": "int", "num_bits": 4, "strategy": "channel", "symmetric": True}
    groups = {"group_0": {"weights": weights, "targets": ["Linear"]}}
    said = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups}
    with Checkpoint.open(quantised(tmp_path / "x", packed, config=said)) as checkpoint:
        stacks = [spec for name, spec in checkpoint.weights.items() if ".experts." in name]
        assert stacks
        assert not [spec for spec in stacks if spec.piece]
        assert [note for note in checkpoint.notes if "decoded" in note]
