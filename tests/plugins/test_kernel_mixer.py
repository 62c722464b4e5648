"""The Mamba mixer in one launch against its parts' naive functions."""

import pytest
import torch

from tests.plugins.test_kernel_mamba import REAL_SHAPES, SHAPES, SMALL_SHAPES, columns_of_a_matrix, pick
from tests.plugins.test_kernel_mamba import tensors as block_tensors
from tests.plugins.test_mamba import example
from tests.support import tolerances
from tests.support.compare import assert_close
from tests.support.kernels import check_against_naive, run_guarded
from tests.support.single_op import run_body
from ttc.plugins.kernels import KERNELS
from ttc.plugins.mamba_block_scan import MAMBA_BLOCK_SCAN, MAMBA_CONV
from ttc.plugins.mamba_mixer import MAMBA_LONG_MIXER, MAMBA_MIXER, MAMBA_READING
from ttc.plugins.mamba_mixer.kernel import long_walk
from ttc.plugins.naive import run_naive
from ttc.plugins.triton import run_triton

MIXERS = (MAMBA_MIXER, MAMBA_LONG_MIXER)
LONG = (2, 70, 2, 16, 1, 24, 4)


def tensors(shape, dtype="float32"):
    """As of the parts, each row's state where the row is."""
    return with_convolution(
        block_tensors(shape, dtype) | {"rows": torch.arange(shape[0], dtype=torch.int32)}, shape[6]
    )


def with_convolution(named, W):
    """For the mixer that starts from it."""
    (activated,) = run_naive(MAMBA_CONV, *pick(MAMBA_CONV, named), W=W)
    return named | {"activated": activated}


def committed(shape, first):
    B, L = shape[:2]
    return torch.tensor([first, L - first, L][:B], dtype=torch.int32)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_reading(device, shape, dtype):
    named = tensors(shape, dtype)
    near = max(tolerances.KERNEL[dtype], tolerances.SCAN)
    check_against_naive(MAMBA_READING, pick(MAMBA_READING, named), device, near, G=shape[4], W=shape[6])


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        *((MAMBA_MIXER, shape) for shape in SMALL_SHAPES),
        *((MAMBA_LONG_MIXER, shape) for shape in (*SMALL_SHAPES[3:], LONG)),
        *(pytest.param(op, shape, marks=pytest.mark.gpu) for op in MIXERS for shape in REAL_SHAPES),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_mixer(device, op, shape):
    """By nothing, one token, a whole chunk, half a block and all of it; rows by different numbers."""
    named = tensors(shape)
    for first in sorted({0, 1, min(16, shape[1]), shape[1] // 2, shape[1]}):
        named["commit_len"] = committed(shape, first)
        inputs = pick(op, named)
        check_against_naive(op, inputs, device, tolerances.SCAN, G=shape[4], W=shape[6])


@pytest.mark.parametrize(
    ("version", "tile"), [("3.6.0", "16x32-4"), ("3.7.1", "32x32"), ("4.0.0+git", "32x32")]
)
def test_the_long_mixers_tile_goes_by_tritons_version(version, tile):
    assert long_walk(version).name == tile


@pytest.mark.parametrize("op", MIXERS, ids=lambda op: op.name)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixer_in_sixteen_bits(device, dtype, op):
    for shape in (SMALL_SHAPES[3], LONG):  # a chunk and a bit; several
        named = tensors(shape, dtype) | {"commit_len": committed(shape, 5)}
        named["xbc"] *= 0.25  # y stays below one, also after many tokens
        named = with_convolution(named, W=shape[6])
        atol = tolerances.KERNEL[dtype]
        check_against_naive(op, pick(op, named), device, atol, G=shape[4], W=shape[6])


@pytest.mark.parametrize("L", [1, 5, 33])
def test_bodies_are_the_twins(L):
    shape = (2, L, 4, 6, 2, 12, 4)
    named = dict(
        zip(
            [spec.name for spec in MAMBA_BLOCK_SCAN.inputs],
            map(torch.from_numpy, example(*shape)),
            strict=True,
        )
    )
    named |= {"commit_len": committed(shape, 1), "rows": torch.tensor([1, 0], dtype=torch.int32)}
    named = with_convolution(named, W=4)
    for op in (MAMBA_READING, *MIXERS):
        inputs, attributes = pick(op, named), {"G": 2, "W": 4}
        for spec, got, want in zip(
            op.outputs,
            run_body(op, [tensor.numpy() for tensor in inputs], attributes),
            run_naive(op, *inputs, **attributes),
            strict=True,
        ):
            assert_close(got, want, tolerances.SCAN, f"{op.name}: {spec.name}")


@pytest.mark.parametrize("op", MIXERS, ids=lambda op: op.name)
@pytest.mark.parametrize("L", [1, 16, 40])
def test_new_scan_state_over_the_old(device, L, op):
    """And columns of a wider matrix: the same bits as apart and dense."""
    shape = (3, L, 2, 20, 1, 40, 4)
    named = {name: x.to(device) for name, x in tensors(shape, "bfloat16").items()}
    named["commit_len"] = torch.tensor([L, 0, L // 2], dtype=torch.int32, device=device)
    want = run_triton(op, *pick(op, named), G=1, W=4)
    named["xbc"], named["dt"] = columns_of_a_matrix([named["xbc"].cpu(), named["dt"].cpu()], device)
    out = (None, None, named["ssm_state"])
    got = run_triton(op, *pick(op, named), out=out, G=1, W=4)
    assert got[2] is named["ssm_state"]
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("op", MIXERS, ids=lambda op: op.name)
def test_tokens_past_the_committed_stay_out_of_the_state(device, op):
    chunk = KERNELS[op.name].tiles[0].blocks["BLOCK_L"]
    shape = (2, 2 * chunk + 8, 2, 4, 1, 3, 4)
    named = tensors(shape) | {"commit_len": torch.tensor([chunk + 1, 0], dtype=torch.int32)}
    clean = run_triton(op, *(x.to(device) for x in pick(op, named)), G=1, W=4)
    named["xbc"] = named["xbc"].clone()
    named["xbc"][0, chunk + 1 :], named["xbc"][1] = torch.nan, torch.nan
    named = with_convolution(named, W=4)
    dirty = run_triton(op, *(x.to(device) for x in pick(op, named)), G=1, W=4)
    for before, after in zip(clean[1:], dirty[1:], strict=True):
        assert torch.equal(before, after)
    assert dirty[0][0, chunk + 1 :].isnan().all()
    assert torch.equal(clean[0][0, :chunk], dirty[0][0, :chunk]), "what came before, in chunks before"


def in_a_pool(named, rows, size, device):
    """The states in a pool of `size` rows with NaN in all others, and what says where."""
    pool = {}
    for name in ("conv_state", "ssm_state"):
        own = named[name]
        pool[name] = torch.full((size, *own.shape[1:]), torch.nan, dtype=own.dtype, device=device)
        pool[name][rows] = own.to(device)
    return pool | {"rows": torch.tensor(rows, dtype=torch.int32, device=device)}


@pytest.mark.parametrize("L", [1, 17, pytest.param(40, marks=pytest.mark.full)])
def test_rows_of_a_pool(device, L):
    """Bit for bit what tensors of their own give, and of the pool only those rows are written."""
    shape = (3, L, 2, 20, 1, 40, 4)
    named = {name: x.to(device) for name, x in tensors(shape, "bfloat16").items()}
    named["commit_len"] = torch.tensor([L, 0, L // 2], dtype=torch.int32, device=device)
    pooled = named | in_a_pool(named, [4, 1, 6], 7, device)
    for op in (MAMBA_READING, *MIXERS):
        got, want = (run_triton(op, *pick(op, each), G=1, W=4) for each in (pooled, named))
        for a, b in zip(got, want, strict=True):
            assert torch.equal(a, b), op.name
    untouched = pooled["ssm_state"].clone()
    for op in MIXERS:
        pooled["ssm_state"] = untouched.clone()
        want = run_triton(op, *pick(op, named), G=1, W=4)
        out = (None, None, pooled["ssm_state"])
        got = run_triton(op, *pick(op, pooled), out=out, G=1, W=4)
        assert got[2] is pooled["ssm_state"]
        assert torch.equal(got[1], want[1])
        expected = untouched.index_copy(0, pooled["rows"].long(), want[2])
        assert torch.equal(got[2].nan_to_num(7.0), expected.nan_to_num(7.0))


def test_the_twin_reads_rows_of_a_pool(device):
    shape = (2, 17, 2, 20, 1, 40, 2)
    named = tensors(shape) | {"commit_len": committed(shape, 5)}
    named |= in_a_pool(named, [4, 1], 6, "cpu")
    for op in (MAMBA_READING, *MIXERS):
        check_against_naive(op, pick(op, named), device, tolerances.SCAN, G=1, W=2)


@pytest.mark.parametrize("op", MIXERS, ids=lambda op: op.name)
def test_places_that_no_pool_has_lead_nowhere_outside(device, op):
    named = tensors((3, 5, 2, 4, 1, 3, 4)) | {"commit_len": torch.tensor([5, 5, 5], dtype=torch.int32)}
    named |= in_a_pool(named, [0, 1, 2], 3, "cpu") | {"rows": torch.tensor([-1, 1, 3], dtype=torch.int32)}
    got = run_guarded(op, pick(op, named), device, G=1, W=4)
    held = named | {"rows": torch.tensor([0, 1, 2], dtype=torch.int32)}
    for a, b in zip(got, run_guarded(op, pick(op, held), device, G=1, W=4), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_two_thousand_tokens(device):
    """As the twin has them in blocks of 64, whose closed form loses less than one over all of them."""
    named = tensors((1, 2048, 1, 4, 1, 16, 4)) | {"commit_len": torch.tensor([2000], dtype=torch.int32)}
    got = run_guarded(MAMBA_LONG_MIXER, pick(MAMBA_LONG_MIXER, named), device, G=1, W=4)
    after, states = [], (named["conv_state"], named["ssm_state"])
    reached = None
    for start in range(0, 2048, 64):
        block = {name: named[name][:, start : start + 64] for name in ("xbc", "dt")}
        block |= dict(zip(("conv_state", "ssm_state"), states, strict=True))
        for count in (2000 - start, 64):  # the first is within one block only
            if 0 < count <= 64:
                block["commit_len"] = torch.tensor([count], dtype=torch.int32)
                y, *states = run_naive(MAMBA_MIXER, *pick(MAMBA_MIXER, named | block), G=1, W=4)
                reached = states if count == 2000 - start else reached
        after.append(y)
    for a, b in zip(got, (torch.cat(after, 1), *reached), strict=True):
        assert_close(a.cpu(), b, tolerances.SCAN, "2048 tokens")
