"""The Mamba kernels against the reference implementation."""

import pytest
import torch

from tests.plugins.test_mamba import example
from tests.support import tolerances
from tests.support.kernels import check_against_naive, guarded
from ttc.errors import InputError
from ttc.plugins.kernels import KERNELS
from ttc.plugins.mamba_advance import MAMBA_ADVANCE
from ttc.plugins.mamba_block_scan import MAMBA_BLOCK_SCAN, MAMBA_CONV, MAMBA_SCAN
from ttc.plugins.naive import run_naive
from ttc.plugins.triton import run_triton

SMALL_SHAPES = [  # B, L, H, P, G, N, W
    (1, 1, 2, 4, 1, 3, 4),
    (2, 3, 2, 3, 2, 5, 4),
    (1, 16, 4, 8, 1, 12, 4),
    (2, 17, 2, 20, 1, 40, 2),
    (1, 128, 2, 8, 2, 16, 3),
]
REAL_SHAPES = [(1, 1, 64, 64, 8, 128, 4), (2, 16, 64, 64, 8, 128, 4), (1, 130, 64, 64, 8, 128, 4)]
SHAPES = [*SMALL_SHAPES, *(pytest.param(shape, marks=pytest.mark.gpu) for shape in REAL_SHAPES)]


def tensors(shape, dtype="float32"):
    """Inputs of the composite op by name: everything of the compute dtype, the scan state in float32."""
    names = [spec.name for spec in MAMBA_BLOCK_SCAN.inputs]
    arrays = example(*shape)  # xbc, dt, conv_state, ssm_state, conv_weight, conv_bias, dt_bias, a_log, d
    given = dict(zip(names, map(torch.from_numpy, arrays), strict=True))
    cast = {name: tensor.to(getattr(torch, dtype)) for name, tensor in given.items()}
    return cast | {"ssm_state": given["ssm_state"]}


def pick(op, named):
    return [named[spec.name] for spec in op.inputs]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_block_scan(device, shape, dtype):
    L, G, W = shape[1], shape[4], shape[6]
    if device == "cpu" and dtype != "float32" and L == 128:
        pytest.skip("128 tokens take the interpreter too long to do it in three dtypes")
    named = tensors(shape, dtype)
    named["activated"] = run_naive(MAMBA_CONV, *pick(MAMBA_CONV, named), W=W)[0]
    atol = tolerances.KERNEL[dtype]
    for tile in range(len(KERNELS["MambaConv"].tiles)):
        check_against_naive(MAMBA_CONV, pick(MAMBA_CONV, named), device, atol, tile=tile, W=W)
    for tile in range(len(KERNELS["MambaScan"].tiles)):
        near = max(atol, tolerances.SCAN)
        check_against_naive(MAMBA_SCAN, pick(MAMBA_SCAN, named), device, near, tile=tile, G=G)


def test_both_launches_in_a_chain(device):
    shape = SMALL_SHAPES[1]
    inputs = pick(MAMBA_BLOCK_SCAN, tensors(shape))
    check_against_naive(MAMBA_BLOCK_SCAN, inputs, device, tolerances.SCAN, G=shape[4], W=shape[6])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_advance(device, shape):
    """By nothing, by one token, by half and by all; rows of a batch by different numbers."""
    B, L, _, _, G, _, W = shape
    named = tensors(shape)
    named["activated"] = run_naive(MAMBA_CONV, *pick(MAMBA_CONV, named), W=W)[0]
    for tile, first in enumerate(sorted({0, 1, L // 2, L})):
        named["commit_len"] = torch.tensor([first, L - first][:B], dtype=torch.int32)
        inputs = pick(MAMBA_ADVANCE, named)
        check_against_naive(MAMBA_ADVANCE, inputs, device, tolerances.SCAN, tile=tile % 3, G=G)


def columns_of_a_matrix(tensors, device):
    """The tensors (B, L, X) as columns of one matrix with NaN between them, as in_proj gives xbc and dt."""
    B, L, _ = tensors[0].shape
    gap = torch.full((B, L, 3), torch.nan, dtype=tensors[0].dtype)
    parts = [part for tensor in tensors for part in (gap, tensor)] + [gap]
    widths = [part.shape[-1] for part in parts]
    return torch.cat(parts, -1).to(device).split(widths, -1)[1::2]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("B", "L"), [(1, 1), (3, 1), (1, 17), (2, 17)])
def test_columns_of_a_wider_matrix(device, B, L, dtype):
    """Kernels read xbc and dt where in_proj left them: the same bits as from dense copies."""
    G, W = 1, 4
    named = {name: x.to(device) for name, x in tensors((B, L, 2, 20, G, 12, W), dtype).items()}
    dense = dict(named)
    named["xbc"], named["dt"] = columns_of_a_matrix([named["xbc"].cpu(), named["dt"].cpu()], device)
    assert B == L == 1 or not named["xbc"].is_contiguous()
    for op, attributes in ((MAMBA_BLOCK_SCAN, {"G": G, "W": W}), (MAMBA_ADVANCE, {"G": G})):
        got = run_triton(op, *pick(op, named), **attributes)
        want = run_triton(op, *pick(op, dense), **attributes)
        for a, b in zip(got, want, strict=True):
            assert torch.equal(a, b)
        named["activated"] = dense["activated"] = want[-1]
        commit_len = torch.tensor([L, 0, L // 2][:B], dtype=torch.int32, device=device)
        named["commit_len"] = dense["commit_len"] = commit_len


def test_columns_that_no_stride_describes_are_refused(device):
    named = {name: x.to(device) for name, x in tensors((2, 6, 2, 4, 1, 3, 4)).items()}
    every_second_row = named["xbc"].repeat_interleave(2, 0)[::2]
    with pytest.raises(InputError, match=r"xbc has strides .* tokens equally far apart"):
        run_triton(MAMBA_CONV, *pick(MAMBA_CONV, named | {"xbc": every_second_row}), W=4)
    by_channel = named["xbc"].mT.contiguous().mT
    with pytest.raises(InputError, match=r"xbc has strides .* the last must be 1"):
        run_triton(MAMBA_CONV, *pick(MAMBA_CONV, named | {"xbc": by_channel}), W=4)


def test_advance_in_place(device):
    """The new states may lie where the old ones were; by 0 tokens they stay as they are, bit for bit."""
    shape = (2, 5, 2, 20, 1, 12, 4)
    named = tensors(shape, "float16")
    named["activated"] = run_naive(MAMBA_CONV, *pick(MAMBA_CONV, named), W=4)[0]
    named["commit_len"] = torch.tensor([2, 0], dtype=torch.int32)
    want = run_naive(MAMBA_ADVANCE, *pick(MAMBA_ADVANCE, named), G=1)
    placed = [guarded(t.shape, t.dtype, device)[0].copy_(t) for t in pick(MAMBA_ADVANCE, named)]
    states = placed[3], placed[4]
    run_triton(MAMBA_ADVANCE, *placed, out=states, G=1)
    assert torch.equal(states[0].cpu(), want[0])
    assert torch.allclose(states[1].cpu(), want[1], atol=tolerances.SCAN, rtol=0)
    assert torch.equal(states[1][1].cpu(), named["ssm_state"][1])


def test_strong_decay_does_not_overflow(device):
    """dt·A of −1000 a token: the masked half of the decay matrix must not become inf·0."""
    named = tensors((1, 40, 2, 4, 1, 3, 4))
    named["dt"] = torch.full_like(named["dt"], 60.0)
    check_against_naive(MAMBA_BLOCK_SCAN, pick(MAMBA_BLOCK_SCAN, named), device, tolerances.SCAN, G=1, W=4)
