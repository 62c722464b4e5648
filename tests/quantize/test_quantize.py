"""A quantised checkpoint holds what the codec makes of every expert, and everything else byte for byte."""

import json
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from ttc.base.quantised import WEIGHT_FORMATS, WRITTEN_FORMATS
from ttc.errors import CheckpointError, InputError, NumericsError
from ttc.formats.quantised.codecs import decode, encode
from ttc.formats.shard import Shard
from ttc.quantize import run as module
from ttc.quantize.plan import Formats
from ttc.quantize.run import plan_quantize, quantize

GOLDEN = Path(__file__).parents[1] / "golden"
ROOT = Path(__file__).parents[2]
EXPERT = re.compile(r"(context|denoiser)_tower\..*\.mixer\.experts\.\d+\.(up|down)_proj\.weight")


def raw(array):
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def load(folder):
    """All tensors of a folder, read by the safetensors library where it knows the dtypes, else by ours."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with Shard.open(path) as shard:
            found |= {name: shard.read(name).copy() for name in shard.tensors}
    return found


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("word", WRITTEN_FORMATS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_experts_are_encoded_and_the_rest_is_copied(checkpoint, tmp_path, word, dtype):
    source, tensors = checkpoint(dtype)
    record = quantize(source, tmp_path / "out", Formats(word, word), jobs=1)
    made = load(tmp_path / "out")
    errors = {}
    for name, tensor in tensors.items():
        if EXPERT.fullmatch(name) is None:
            assert made.pop(name).tobytes() == tensor.tobytes()
            continue
        stored = encode(word, tensor)
        for suffix, array in stored.items():
            found = made.pop(f"{name.removesuffix('.weight')}.{suffix}")
            assert (found.dtype, found.shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(raw(found), raw(array))
        wide = tensor.astype(np.float64)
        difference = decode(word, stored) - wide
        errors[name] = np.linalg.norm(difference) / np.linalg.norm(wide)
    assert not made
    for layer in record.layers:
        before, projection = layer.module.rsplit(".", 1)
        due = [errors[f"{before}.{expert}.{projection}.weight"] for expert in range(4)]
        np.testing.assert_allclose(layer.errors, due, rtol=1e-5)
    assert len(record.layers) == 4


def test_another_reader_opens_it(checkpoint, tmp_path):
    source, tensors = checkpoint()
    quantize(source, tmp_path / "out", Formats("int8", "int8"), jobs=1)
    found = load_file(tmp_path / "out" / "model.safetensors")
    name = "context_tower.layers.0.mixer.experts.3.up_proj"
    assert found[f"{name}.weight"].dtype == np.int8
    decoded = found[f"{name}.weight"] * found[f"{name}.weight_scale"][:, np.newaxis]
    np.testing.assert_allclose(decoded, tensors[f"{name}.weight"], atol=0.02 * 4 / 127)


@pytest.mark.parametrize("word", WRITTEN_FORMATS)
def test_stacks_of_experts_are_taken_apart(checkpoint, tmp_path, word):
    def stack(tensors):
        for tower in ("context_tower", "denoiser_tower"):
            for projection in ("up_proj", "down_proj"):
                stem = f"{tower}.layers.0.mixer.experts"
                parts = [tensors.pop(f"{stem}.{expert}.{projection}.weight") for expert in range(4)]
                tensors[f"{stem}.{projection}"] = np.stack(parts)

    one_by_one, _ = checkpoint()
    quantize(one_by_one, tmp_path / "a", Formats(word, word), jobs=1)
    one_by_one.rename(tmp_path / "first")
    stacked, _ = checkpoint(change=stack)
    quantize(stacked, tmp_path / "b", Formats(word, word), jobs=1)
    a, b = load(tmp_path / "a"), load(tmp_path / "b")
    assert a.keys() == b.keys()
    for name, array in a.items():
        np.testing.assert_array_equal(raw(array), raw(b[name]))


def test_zeros_do_not_become_nan(checkpoint, tmp_path):
    def erase(tensors):
        tensors["context_tower.layers.0.mixer.experts.1.up_proj.weight"][3] = 0
        tensors["denoiser_tower.layers.0.mixer.experts.2.down_proj.weight"][:] = 0

    source, _ = checkpoint(change=erase)
    for word in WRITTEN_FORMATS:
        record = quantize(source, tmp_path / word, Formats(word, word), jobs=1)
        assert all(np.isfinite(array.astype(np.float32)).all() for array in load(tmp_path / word).values())
        (layer,) = [x for x in record.layers if x.module == "denoiser_tower.layers.0.mixer.experts.down_proj"]
        assert layer.errors[2] == 0 < layer.errors[1]


def test_the_same_bytes_whatever_the_number_of_processes(checkpoint, tmp_path):
    source, _ = checkpoint()
    (source / "LICENSE").write_text("yours")
    formats = Formats("int8", "nvfp4")
    for name, jobs in (("one", 1), ("again", 1), ("three", 3)):
        quantize(source, tmp_path / name, formats, jobs=jobs, max_shard_bytes=20_000)
    one = contents(tmp_path / "one")
    assert one == contents(tmp_path / "again") == contents(tmp_path / "three")
    assert sum(name.endswith(".safetensors") for name in one) > 3
    assert one["LICENSE"] == b"yours"


def test_shards_and_their_index(checkpoint, tmp_path):
    source, _ = checkpoint()
    quantize(source, tmp_path / "out", Formats("nvfp4", "nvfp4"), jobs=1, max_shard_bytes=20_000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == load(tmp_path / "out").keys()
    for name, file in index["weight_map"].items():
        module = name.rsplit(".", 1)[0]
        if ".experts." in name:
            assert index["weight_map"][f"{module}.weight"] == file
        with Shard.open(tmp_path / "out" / file) as shard:
            assert name in shard.tensors
            # Aligned: a tensor begins at a multiple of the size of its numbers.
            assert shard.read(name).flags.aligned


def test_a_tower_may_stay_as_it_is(checkpoint, tmp_path):
    source, tensors = checkpoint()
    quantize(source, tmp_path / "out", Formats("plain", "int8"), jobs=1)
    found = load(tmp_path / "out")
    name = "layers.0.mixer.experts.0.up_proj.weight"
    np.testing.assert_array_equal(found[f"context_tower.{name}"], tensors[f"context_tower.{name}"])
    assert found[f"denoiser_tower.{name}"].dtype == np.int8


def test_the_files_that_say_so(checkpoint, tmp_path):
    source, _ = checkpoint()
    (source / "README.md").write_text("the original")
    quantize(source, tmp_path / "same", Formats("nvfp4", "nvfp4"), jobs=1)
    said = json.loads((tmp_path / "same" / "hf_quant_config.json").read_text())["quantization"]
    assert (said["quant_algo"], said["group_size"]) == ("W4A16_NVFP4", 16)
    config = json.loads((tmp_path / "same" / "config.json").read_text())
    assert config["hidden_size"] == 64
    assert config["quantization_config"]["quant_algo"] == "W4A16_NVFP4"
    assert config["quantization_config"]["ignore"] == said["exclude_modules"]
    assert (tmp_path / "same" / "README-original.md").read_text() == "the original"
    quantize(source, tmp_path / "mixed", Formats("int8", "nvfp4"), jobs=1)
    mixed = json.loads((tmp_path / "mixed" / "hf_quant_config.json").read_text())["quantization"]
    assert mixed["quant_algo"] == "MIXED_PRECISION"
    layers = mixed["quantized_layers"]
    assert len(layers) == 2 * 2 * 4
    assert layers["context_tower.layers.0.mixer.experts.0.up_proj"] == {"quant_algo": "W8A16"}
    nvfp4 = {"quant_algo": "W4A16_NVFP4", "group_size": 16}
    assert layers["denoiser_tower.layers.0.mixer.experts.3.down_proj"] == nvfp4


def test_the_card_says_what_was_done(checkpoint, tmp_path):
    source, _ = checkpoint()
    record = quantize(source, tmp_path / "out", Formats("nvfp4", "plain"), jobs=1)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# plain, routed experts in nvfp4 in the context tower, plain in the denoiser tower" in card
    assert "four over six" in card
    (up,) = [layer for layer in record.layers if layer.module.endswith("up_proj")]
    expert, worst = up.worst
    assert f"| nvfp4 | {up.mean:.4f} | {worst:.4f} | {expert} |" in card
    kept = json.loads((tmp_path / "out" / "ttc_quantised.json").read_text())
    assert kept["layers"][0]["errors"] == [float(f"{e:.4g}") for e in up.errors]


@pytest.mark.parametrize("name", ["tiny_nvfp4", "tiny_fp8"])
def test_a_quantised_checkpoint_is_refused(tmp_path, name):
    with pytest.raises(CheckpointError, match=f"{name}: quantised already, says its hf_quant_config.json"):
        quantize(GOLDEN / "quantised" / name, tmp_path / "out", Formats("int8", "int8"))
    assert not list(tmp_path.iterdir())


def test_our_own_is_refused_too(checkpoint, tmp_path):
    source, _ = checkpoint()
    quantize(source, tmp_path / "out", Formats("int8", "int8"), jobs=1)
    (tmp_path / "out" / "hf_quant_config.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"quantization_config in config\.json; quantise the checkpoint"
    ):
        plan_quantize(tmp_path / "out", Formats("int8", "int8"))


def test_what_does_not_divide_is_refused():
    with pytest.raises(InputError, match=r"experts\.0\.down_proj: its 48 inputs .* groups of 32 that int4"):
        plan_quantize(GOLDEN / "tiny_a", Formats("int4", "int4"))


@pytest.mark.parametrize("jobs", [1, 2])
def test_nan_is_refused_by_name_and_leaves_nothing(checkpoint, tmp_path, jobs):
    def spoil(tensors):
        tensors["context_tower.layers.0.mixer.experts.2.up_proj.weight"][1, 1] = np.nan

    source, _ = checkpoint(change=spoil)
    with pytest.raises(
        NumericsError, match=r"context_tower\.layers\.0\.mixer\.experts\.2\.up_proj: a matrix"
    ):
        quantize(source, tmp_path / "out", Formats("int8", "int8"), jobs=jobs)
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


def test_too_small_a_disk_is_refused_first(checkpoint, tmp_path, monkeypatch):
    source, _ = checkpoint()
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(InputError, match="GB are free on this disk"):
        quantize(source, tmp_path / "out", Formats("int8", "int8"), jobs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


@pytest.mark.parametrize(
    ("context", "denoiser", "complaint"),
    [("plain", "plain", "nothing to quantise"), ("mxfp4", "int8", r"'mxfp4'; valid: plain, int8")],
)
def test_formats_that_cannot_be(context, denoiser, complaint):
    with pytest.raises(InputError, match=complaint):
        Formats(context, denoiser)


def test_jobs_that_cannot_be(tmp_path):
    with pytest.raises(InputError, match="jobs is 0; valid: at least 1"):
        quantize(GOLDEN / "tiny_b", tmp_path / "out", Formats("int8", "int8"), jobs=0)


@pytest.mark.parametrize(("word", "share"), [("int8", 0.52), ("fp8", 0.52), ("nvfp4", 0.29), ("int4", 0.29)])
def test_the_experts_bytes(word, share):
    plan = plan_quantize(ROOT / "ttc" / "miniature", Formats(word, word))
    before, after = plan.expert_bytes
    assert after / before <= share
    assert after / before == pytest.approx(WEIGHT_FORMATS[word].bytes_per_weight(128) / 2, rel=1e-3)
    assert sum(plan.tower_bytes.values()) == plan.source_bytes - before + after
