"""The Mamba mixer in one launch against its parts' naive functions."""

import pytest
import torch

from tests.plugins.test_kernel_mamba import SHAPES, columns_of_a_matrix, pick
from tests.plugins.test_kernel_mamba import tensors as block_tensors
from tests.plugins.test_mamba import example
from tests.support import tolerances
from tests.support.compare import assert_close
from tests.support.kernels import check_against_naive
from tests.support.single_op import run_body
from ttc.plugins.mamba_block_scan import MAMBA_BLOCK_SCAN
from ttc.plugins.mamba_mixer import MAMBA_MIXER, MAMBA_READING
from ttc.plugins.naive import run_naive
from ttc.plugins.triton import run_triton


def tensors(shape, dtype="float32"):
    """As of the parts, each row's state where the row is."""
    return block_tensors(shape, dtype) | {"rows": torch.arange(shape[0], dtype=torch.int32)}


def committed(shape, first):
    B, L = shape[:2]
    return torch.tensor([first, L - first, L][:B], dtype=torch.int32)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_reading(device, shape, dtype):
    named = tensors(shape, dtype)
    near = max(tolerances.KERNEL[dtype], tolerances.SCAN)
    check_against_naive(MAMBA_READING, pick(MAMBA_READING, named), device, near, G=shape[4], W=shape[6])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_mixer(device, shape):
    """By nothing, one token, a whole chunk, half a block and all of it; rows by different numbers."""
    named = tensors(shape)
    for first in sorted({0, 1, min(16, shape[1]), shape[1] // 2, shape[1]}):
        named["commit_len"] = committed(shape, first)
        inputs = pick(MAMBA_MIXER, named)
        check_against_naive(MAMBA_MIXER, inputs, device, tolerances.SCAN, G=shape[4], W=shape[6])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixer_in_sixteen_bits(device, dtype):
    shape = SHAPES[3]
    named = tensors(shape, dtype) | {"commit_len": committed(shape, 5)}
    atol = tolerances.KERNEL[dtype]
    check_against_naive(MAMBA_MIXER, pick(MAMBA_MIXER, named), device, atol, G=shape[4], W=shape[6])


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
    for op in (MAMBA_READING, MAMBA_MIXER):
        inputs, attributes = pick(op, named), {"G": 2, "W": 4}
        for spec, got, want in zip(
            op.outputs,
            run_body(op, [tensor.numpy() for tensor in inputs], attributes),
            run_naive(op, *inputs, **attributes),
            strict=True,
        ):
            assert_close(got, want, tolerances.SCAN, f"{op.name}: {spec.name}")


@pytest.mark.parametrize("L", [1, 16, 40])
def test_new_scan_state_over_the_old(device, L):
    """And columns of a wider matrix: the same bits as apart and dense."""
    shape = (3, L, 2, 20, 1, 40, 4)
    named = {name: x.to(device) for name, x in tensors(shape, "bfloat16").items()}
    named["commit_len"] = torch.tensor([L, 0, L // 2], dtype=torch.int32, device=device)
    want = run_triton(MAMBA_MIXER, *pick(MAMBA_MIXER, named), G=1, W=4)
    named["xbc"], named["dt"] = columns_of_a_matrix([named["xbc"].cpu(), named["dt"].cpu()], device)
    out = (None, None, named["ssm_state"])
    got = run_triton(MAMBA_MIXER, *pick(MAMBA_MIXER, named), out=out, G=1, W=4)
    assert got[2] is named["ssm_state"]
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


def test_tokens_past_the_committed_stay_out_of_the_state(device):
    shape = (2, 20, 2, 4, 1, 3, 4)
    named = tensors(shape) | {"commit_len": torch.tensor([17, 0], dtype=torch.int32)}
    clean = run_triton(MAMBA_MIXER, *(x.to(device) for x in pick(MAMBA_MIXER, named)), G=1, W=4)
    named["xbc"] = named["xbc"].clone()
    named["xbc"][0, 17:], named["xbc"][1] = torch.nan, torch.nan
    dirty = run_triton(MAMBA_MIXER, *(x.to(device) for x in pick(MAMBA_MIXER, named)), G=1, W=4)
    for before, after in zip(clean[1:], dirty[1:], strict=True):
        assert torch.equal(before, after)
    assert dirty[0][0, 17:].isnan().all()
    assert torch.equal(clean[0][0, :16], dirty[0][0, :16]), "what came before, in chunks before"
