"""`ttc verify CHECKPOINT --weights`: sound checkpoints pass, every planted defect is named."""

import re
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.support.command_line import ROOT, ask, refused, run
from tests.support.quantised import CHECKPOINTS, FOLDER, change, with_defect
from ttc.base.quantised import WRITTEN_FORMATS
from ttc.errors import CheckpointError
from ttc.formats.quantised.codecs import encode
from ttc.formats.quantised.layouts import LAYOUTS
from ttc.quantize.plan import Formats
from ttc.quantize.run import quantize
from ttc.verify.matrices import examine
from ttc.verify.quantised import check_checkpoint

TINY_A = ROOT / "tests" / "golden" / "tiny_a"
MINIATURE = ROOT / "ttc" / "miniature"


def check(folder, plain=None):
    return check_checkpoint(folder, plain, lambda line: None)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_what_modelopt_wrote_is_sound(name):
    found = check(FOLDER / name, TINY_A)
    assert found.passed, found.faults
    assert any("relative error 0.0" in note for note in found.notes)
    alone = check(FOLDER / name)
    assert alone.passed
    assert "were not compared" in alone.notes[-1]


@pytest.mark.parametrize("word", WRITTEN_FORMATS)
def test_what_we_write_is_sound(tmp_path, word):
    quantize(MINIATURE, tmp_path / "out", Formats(word, word), jobs=1)
    found = check(tmp_path / "out", MINIATURE)
    assert found.passed, found.faults
    assert not [note for note in found.notes if "largest weight" in note]


@pytest.mark.parametrize(
    ("defect", "words"),
    [
        (
            "nan_block_scale",
            [r"denoiser_tower\.layers\.1\.mixer\.experts\.3\.up_proj\.weight_scale is NaN at row 17, block 2",
             "byte 0x7F"],
        ),
        (
            "zero_block_scale",
            [r"context_tower\.layers\.4\.mixer\.experts\.6\.down_proj\.weight_scale is 0 at row 40, block 1",
             "over codes that are not 0"],
        ),
        (
            "scale_2_twice",
            [r"denoiser_tower\.layers\.6\.mixer\.experts\.2\.down_proj: its largest weight is 5\.8e-05",
             r"have 0\.42 \(ratio 0\.00014\)", "the global scale is probably applied twice"],
        ),
        (
            "ones_scale",
            [r"denoiser_tower\.layers\.1\.mixer\.experts\.0\.down_proj: its largest weight",
             r"ratio 0\.0025", r"all its block scales are 1\.0"],
        ),
    ],
)  # fmt: skip
def test_each_planted_defect_is_named(tmp_path, defect, words):
    found = check(with_defect(defect, tmp_path / defect))
    (fault,) = found.faults
    for word in words:
        assert re.search(word, fault)


@pytest.mark.parametrize(
    "defect", ["missing_scale_2", "swizzled_scale", "unknown_algo", "excluded_but_quantised"]
)
def test_what_the_reader_refuses_is_refused_here(tmp_path, defect):
    with pytest.raises(CheckpointError):
        check(with_defect(defect, tmp_path / defect))


def test_transposed_scales_show_against_the_original_only(tmp_path):
    quantize(MINIATURE, tmp_path / "out", Formats("nvfp4", "nvfp4"), jobs=1)
    module = "context_tower.layers.1.mixer.experts.2.up_proj"

    def transpose(scales):
        return np.ascontiguousarray(scales.T).reshape(scales.shape)

    change(tmp_path / "out", f"{module}.weight_scale", transpose)
    assert check(tmp_path / "out").passed
    (fault,) = check(tmp_path / "out", MINIATURE).faults
    assert fault.startswith(f"{module}: its relative error is 0.")
    assert "wrong order" in fault


def matrix(shape=(64, 128)):
    return (0.02 * np.random.default_rng(1).standard_normal(shape)).astype(np.float32)


def faults(word, stored):
    found = examine("m", LAYOUTS[word], stored)
    return found.faults + found.unusual


@pytest.mark.parametrize("word", WRITTEN_FORMATS)
def test_a_scale_of_the_wrong_size_shows_in_the_codes(word):
    """The scale twice, or half, of what is due, and codes chosen for it."""
    stored = encode(word, matrix(), four_over_six=False)
    assert not faults(word, stored)
    # Encoded beside a weight eight times as large, rows and blocks do not reach the top.
    large = matrix()
    large[:, ::16] *= 8
    spread = encode(word, large, four_over_six=False)
    kept = {**spread, "weight": np.where(np.arange(spread["weight"].shape[1]) % 8 == 0, 0, spread["weight"])}
    kept["weight"] = kept["weight"].astype(spread["weight"].dtype)
    if word in ("nvfp4", "int4"):
        assert any("no code reaches" in fault for fault in faults(word, kept))
    cut = encode(word, np.clip(matrix(), -0.01, 0.01), four_over_six=False)
    assert any("larger weights were cut off" in fault for fault in faults(word, cut))


@pytest.mark.parametrize("word", ["int8", "fp8"])
def test_scales_of_outputs(word):
    def spoiled(value):
        stored = encode(word, matrix())
        stored["weight_scale"][5] = value
        return faults(word, stored)

    assert spoiled(0.0) == ("m.weight_scale is 0 at row 5, over codes that are not 0",)
    assert spoiled(np.nan) == ("m.weight_scale is NaN at row 5",)
    assert spoiled(np.inf) == ("m.weight_scale is infinite at row 5",)
    assert spoiled(-1.0) == ("m.weight_scale is negative at row 5",)


def test_other_bytes_that_are_wrong():
    stored = encode("fp8", matrix())
    stored["weight"].view(np.uint8)[2, 3] = 0x7F
    assert faults("fp8", stored) == ("m.weight holds NaN at row 2, column 3",)
    stored = encode("nvfp4", matrix())
    stored["weight_scale"].view(np.uint8)[2, 3] |= 0x80
    (fault,) = faults("nvfp4", stored)
    assert "m.weight_scale is negative at row 2, block 3 (byte 0x" in fault
    stored = encode("nvfp4", matrix()) | {"weight_scale_2": np.float32(0)}
    assert faults("nvfp4", stored) == ("m.weight_scale_2 is 0, more than 0 is due",)


def test_zero_blocks_and_the_least_scale_are_no_defects():
    blocks = matrix()
    blocks[0, :16] = 0
    blocks[1, :] = 0
    blocks[2, 16:32] *= 1e-9
    for word in WRITTEN_FORMATS:
        assert not faults(word, encode(word, blocks))


def test_an_expert_that_is_larger_is_told_but_no_fault(tmp_path):
    quantize(MINIATURE, tmp_path / "out", Formats("int8", "int8"), jobs=1)
    module = "denoiser_tower.layers.4.mixer.experts.5.down_proj"
    change(tmp_path / "out", f"{module}.weight_scale", lambda scale: scale * 20)
    found = check(tmp_path / "out")
    assert found.passed
    assert any(note.startswith(f"{module}: its largest weight") for note in found.notes)


def test_a_plain_checkpoint_is_read_too(tmp_path):
    assert check(MINIATURE).passed
    tensors = load_file(MINIATURE / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"].astype(np.float32)
    tensors["lm_head.weight"][1, 1] = np.inf
    folder = tmp_path / "spoiled"
    folder.mkdir()
    for name in ("config.json", "generation_config.json"):
        (folder / name).write_bytes((MINIATURE / name).read_bytes())
    save_file({n: t.astype(ml_dtypes.bfloat16) for n, t in tensors.items()}, folder / "model.safetensors")
    assert check(folder).faults == ("lm_head.weight holds NaN or infinity",)


def test_the_original_must_be_plain():
    with pytest.raises(CheckpointError, match="is quantised there, too; the plain checkpoint"):
        check(FOLDER / "tiny_nvfp4", FOLDER / "tiny_fp8")


def test_the_command(tmp_path):
    found = ask("verify", FOLDER / "tiny_fp8", "--weights", "--checkpoint", TINY_A)
    assert found["passed"]
    broken = with_defect("zero_block_scale", tmp_path / "broken")
    done = run("verify", broken, "--weights")
    assert done.exit_code == 1
    assert "experts.6.down_proj.weight_scale is 0 at row 40, block 1" in done.stdout
    assert "verdict: FAILED" in done.stdout
    assert "a checkpoint; --weights examines its weights" in refused("verify", FOLDER / "tiny_fp8")


@pytest.mark.parametrize("word", WRITTEN_FORMATS)
@pytest.mark.parametrize("odd", ["zero", "outlier", "tiny", "constant", "one large weight"])
def test_odd_weights_that_are_the_originals_own_are_no_fault(tmp_path, word, odd):
    """What it was made from says more than how weights usually look."""
    changes = {
        "zero": lambda matrix: matrix * 0,
        "outlier": lambda matrix: np.where(np.arange(matrix.size).reshape(matrix.shape) == 7, -32768, matrix),
        "tiny": lambda matrix: matrix * np.float32(1e-30),
        "constant": lambda matrix: matrix * 0 + np.float32(0.0123),
        "one large weight": lambda matrix: np.where(
            np.arange(matrix.size).reshape(matrix.shape) == 7, 20 * np.abs(matrix).max(), matrix
        ),
    }
    plain = tmp_path / "plain"
    shutil.copytree(MINIATURE, plain)
    change(
        plain,
        "context_tower.layers.1.mixer.experts.2.up_proj.weight",
        lambda matrix: changes[odd](matrix.astype(np.float32)).astype(matrix.dtype),
    )
    quantize(plain, tmp_path / "out", Formats(word, word), jobs=1)
    found = check(tmp_path / "out", plain)
    assert found.passed, found.faults
