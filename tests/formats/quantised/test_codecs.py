"""What encoders write and decoders read, against NVIDIA ModelOpt's and compressed-tensors' numbers."""

import itertools

import ml_dtypes
import numpy as np
import pytest

from tests.support.quantised import MATRICES, stored, vector
from ttc.base.quantised import WEIGHT_FORMATS, WRITTEN_FORMATS
from ttc.errors import InputError, NumericsError
from ttc.formats.quantised import fp8, nvfp4
from ttc.formats.quantised.codecs import decode, encode
from ttc.formats.quantised.compressed_tensors import from_global_scale, from_packed_int4
from ttc.formats.quantised.nibbles import E2M1_VALUES, pack, unpack

E4M3, BF16 = ml_dtypes.float8_e4m3fn, ml_dtypes.bfloat16


def assert_equal(actual, expected):
    np.testing.assert_array_equal(actual, expected, strict=True)


def raw(array):
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


@pytest.mark.parametrize("matrix", MATRICES)
def test_nvfp4_is_modelopts_bytes(matrix):
    made = encode("nvfp4", vector(f"{matrix}/input"), four_over_six=False)
    for suffix, array in made.items():
        due = vector(f"{matrix}/nvfp4/{suffix}")
        assert (array.shape, array.dtype) == (due.shape, due.dtype)
        assert_equal(raw(array), raw(due))


@pytest.mark.parametrize("matrix", MATRICES)
def test_fp8_is_modelopts_bytes(matrix):
    made = encode("fp8", vector(f"{matrix}/input"))
    rows = np.ones(len(made["weight_scale"]), bool)
    rows[3] = matrix != "zero_blocks"  # ModelOpt writes NaN under a zero row; see below
    for suffix, array in made.items():
        due = vector(f"{matrix}/fp8_channel/{suffix}")
        assert (array.shape, array.dtype) == (due.shape, due.dtype)
        assert_equal(raw(array[rows]), raw(due[rows]))


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize(
    ("word", "kind"), [("nvfp4", "nvfp4"), ("fp8", "fp8"), ("fp8", "fp8_channel"), ("mxfp4", "mxfp4")]
)
def test_decoding_is_modelopts(matrix, word, kind):
    tensors = stored(f"{matrix}/{kind}")
    if (matrix, kind) == ("zero_blocks", "fp8_channel"):  # row 3 is NaN, which is refused; see below
        tensors = {name: np.delete(array, 3, axis=0) for name, array in tensors.items()}
    assert_equal(decode(word, tensors), tensors["dequantised"])


def test_the_exporters_double_rounding_is_read_too():
    scale = vector("normal/fp8/weight_scale")
    exported = {"weight": vector("normal/fp8_exported/weight"), "weight_scale": scale}
    right = encode("fp8", vector("ties_e4m3/input"))["weight"]
    assert_equal(raw(right), raw(vector("ties_e4m3/fp8_channel/weight")))
    assert not np.array_equal(decode("fp8", exported), vector("normal/fp8/dequantised"))
    assert_equal(decode("fp8", exported), exported["weight"].astype(np.float32) * scale)


@pytest.mark.parametrize(
    ("word", "kind"),
    [("fp8", "float-quantized"), ("fp8", "float-quantized-channel"), ("int8", "int-quantized")],
)
def test_scaled_formats_of_compressed_tensors(word, kind):
    assert_equal(decode(word, stored(f"ct/{kind}")), vector(f"ct/{kind}/dequantised"))


def test_packed_int4_of_compressed_tensors():
    ours = {
        "weight": from_packed_int4(vector("ct/pack-quantized/weight_packed")),
        "weight_scale": vector("ct/pack-quantized/weight_scale"),
    }
    assert_equal(decode("int4", ours), vector("ct/pack-quantized/dequantised"))
    # Its quotient was rounded to bfloat16, ours was not: the scales are equal, most of the codes.
    made = encode("int4", vector("normal/input")[:16])
    assert_equal(raw(made["weight_scale"]), raw(ours["weight_scale"]))
    difference = np.abs(decode("int4", made) - decode("int4", ours)).reshape(16, 8, 32).max(axis=2)
    assert (difference <= ours["weight_scale"].astype(np.float32)).all()
    assert (unpack(made["weight"]) == unpack(ours["weight"])).mean() > 0.95


def test_the_global_scale_of_compressed_tensors_divides():
    kind = "ct/nvfp4-pack-quantized"
    ours = {
        "weight": vector(f"{kind}/weight_packed"),
        "weight_scale": vector(f"{kind}/weight_scale"),
        "weight_scale_2": from_global_scale(vector(f"{kind}/weight_global_scale")),
    }
    made, due = decode("nvfp4", ours), vector(f"{kind}/dequantised")
    # One more rounding: of the inverse.
    np.testing.assert_array_max_ulp(made, due, maxulp=2)


def test_tables_of_all_bytes():
    every = np.arange(256, dtype=np.uint8)
    assert_equal(E2M1_VALUES[unpack(every[:, None])], vector("table/e2m1_pairs"))
    finite = np.isfinite(vector("table/e4m3"))
    assert np.flatnonzero(~finite).tolist() == [0x7F, 0xFF]
    one = {"weight": every[finite].view(E4M3)[None], "weight_scale": np.array(1, np.float32)}
    assert_equal(decode("fp8", one)[0], vector("table/e4m3")[finite])
    scales = every[:255, None]  # the last one is NaN
    blocks = {"weight": np.full((255, 16), 0x22, np.uint8), "weight_scale": scales}  # code 2 is 1.0
    assert_equal(decode("mxfp4", blocks)[:, 0], vector("table/e8m0")[:255])


def test_all_finite_e4m3_codes_survive_a_round_trip():
    codes = np.array([byte for byte in range(256) if byte & 0x7F != 0x7F], np.uint8)
    values = codes.view(E4M3).astype(np.float32)[None]
    made = fp8.encode(values)
    assert made["weight_scale"] == 1  # 448 is the largest
    assert_equal(raw(made["weight"]), codes)


def test_all_e2m1_codes_survive_a_round_trip_under_every_block_scale():
    scales = np.arange(1, 0x7F, dtype=np.uint8).view(E4M3).astype(np.float32)
    values = E2M1_VALUES * scales[:, None]
    made = nvfp4.encode(values, four_over_six=False)
    assert made["weight_scale_2"] == 1  # 6 · 448 is the largest weight
    due = np.arange(16, dtype=np.uint8)
    due[8] = 0  # a zero keeps no sign
    assert (unpack(made["weight"]) == due).all()
    assert_equal(nvfp4.decode(made), values)


def test_nibbles():
    codes = np.arange(16, dtype=np.uint8).reshape(2, 8)
    assert pack(codes)[0].tolist() == [0x10, 0x32, 0x54, 0x76]  # the even one in the low half
    assert_equal(unpack(pack(codes)), codes)


@pytest.mark.parametrize("word", WRITTEN_FORMATS)
def test_zeros_are_stored_under_scale_one(word):
    matrix = vector("normal/input")[:16, :128].copy()
    matrix[3] = 0
    matrix[5, 32:64] = -0.0
    made = encode(word, matrix)
    decoded = decode(word, made)
    assert not decoded[3].any()
    assert not decoded[5, 32:64].any()
    scale = made["weight_scale"].astype(np.float32)
    assert (scale > 0).all()
    assert (scale[3] == 1).all()
    if word == "nvfp4":
        assert (raw(made["weight_scale"][3]) == 0x38).all()
    nothing = encode(word, np.zeros((16, 64), np.float32))
    assert not decode(word, nothing).any()
    assert all((nothing[key].astype(np.float32) == 1).all() for key in nothing if key != "weight")


def test_a_zero_row_of_modelopts_is_refused():
    with pytest.raises(NumericsError, match="row 3, column 0 is NaN"):
        decode("fp8", stored("zero_blocks/fp8_channel"))


def test_signs_of_zero():
    block = np.zeros((1, 16), BF16)
    block[0, :4] = [6, -0.0, -1e-3, 1e-3]
    for four_over_six in (False, True):
        codes = unpack(nvfp4.encode(block, four_over_six)["weight"])[0]
        assert codes[1:4].tolist() == [0, 8, 0]


def test_block_scales_stay_normal_below_a_large_weight():
    made = encode("nvfp4", vector("outlier/input"), four_over_six=False)
    scales = made["weight_scale"].astype(np.float32)
    assert (scales == 2**-9).sum() == 127
    assert scales.max() == 448


def test_four_over_six_is_nearer():
    matrix = vector("normal/input").astype(np.float32)
    error = {}
    for four_over_six in (False, True):
        made = encode("nvfp4", matrix, four_over_six=four_over_six)
        error[four_over_six] = np.linalg.norm(decode("nvfp4", made) - matrix) / np.linalg.norm(matrix)
        top = np.abs(E2M1_VALUES[unpack(made["weight"])]).reshape(48, 16, 16).max(axis=2)
        assert set(np.unique(top)) == ({4, 6} if four_over_six else {6})
    assert error[True] < 0.93 * error[False]


# Relative errors of normal weights; measured: 0.0067, 0.0260, 0.0872 and 0.0958.
@pytest.mark.parametrize(("word", "limit"), [("int8", 0.008), ("fp8", 0.028), ("nvfp4", 0.09), ("int4", 0.1)])
def test_errors_are_what_the_formats_allow(word, limit):
    matrix = vector("normal/input").astype(np.float32)
    error = np.linalg.norm(decode(word, encode(word, matrix)) - matrix) / np.linalg.norm(matrix)
    assert limit / 2 < error < limit


@pytest.mark.parametrize("word", WRITTEN_FORMATS)
def test_small_weights_do_not_overflow(word):
    for scale in (1e-30, 1e-38, 1e-40, 1e-45):
        matrix = vector("normal/input").astype(np.float32) * np.float32(scale)
        decoded = decode(word, encode(word, matrix))
        assert np.abs(decoded).max() <= np.abs(matrix).max() * 1.5 + 1e-36


@pytest.mark.parametrize("word", WRITTEN_FORMATS)
def test_what_cannot_be_stored_is_refused(word):
    matrix = np.ones((4, 64), np.float32)
    for bad in (np.nan, np.inf):
        matrix[2, 5] = bad
        with pytest.raises(NumericsError, match=f"cannot be stored as {word}"):
            encode(word, matrix)
    if group := WEIGHT_FORMATS[word].group:
        with pytest.raises(InputError, match=f"72 inputs cannot be stored as {word}, whose groups"):
            encode(word, np.ones((4, 72), np.float32))
        assert 72 % group


def test_bytes_of_a_weight():
    sizes = {word: WEIGHT_FORMATS[word].bytes_per_weight(2688) for word in WEIGHT_FORMATS}
    assert sizes["nvfp4"] == sizes["int4"] == 0.5625
    assert sizes["mxfp4"] == 0.53125
    assert sizes["int8"] == sizes["fp8"] == 1 + 4 / 2688
    for word, shape in itertools.product(WRITTEN_FORMATS, [(64, 96), (32, 256)]):
        made = encode(word, np.ones(shape, np.float32))
        stored_bytes = sum(array.nbytes for key, array in made.items() if key != "weight_scale_2")
        assert stored_bytes == WEIGHT_FORMATS[word].bytes_per_weight(shape[1]) * shape[0] * shape[1]
