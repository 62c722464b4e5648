"""Attention of a block: twin, body and kernel agree, with any lengths, and read no further than those."""

import numpy as np
import pytest
import torch

from tests.support import tolerances
from tests.support.compare import assert_close
from tests.support.kernels import check_against_naive, run_guarded
from tests.support.single_op import run_body
from ttc.plugins.block_attention import BLOCK_ATTENTION
from ttc.plugins.kernels import KERNELS
from ttc.plugins.naive import run_naive
from ttc.plugins.triton import run_triton

SHAPES = [  # B, L, J, heads per KV head, head dim, capacity
    (1, 1, 1, 1, 8, 16),
    (3, 5, 2, 3, 12, 24),
    (2, 17, 2, 4, 16, 40),
    (1, 70, 1, 2, 8, 96),
    pytest.param((1, 16, 2, 16, 128, 2048), marks=pytest.mark.gpu),  # the real model's
    pytest.param((8, 1, 2, 16, 128, 2048), marks=pytest.mark.gpu),
    pytest.param((1, 256, 2, 16, 128, 512), marks=pytest.mark.gpu),
]


def example(shape, dtype="float32", lengths=None):
    B, L, J, per_kv, Y, C = shape
    random = torch.Generator().manual_seed(B * L * C)
    widths = (J * per_kv * Y, J * Y, J * Y)
    own = [torch.randn(B, L, width, generator=random) for width in widths]
    cached = [torch.randn(B, J, C, Y, generator=random) for _ in range(2)]
    if lengths is None:
        lengths = [0, C - L, C // 2][:B] if B > 1 else [C // 2]
    kind = getattr(torch, dtype)
    return [tensor.to(kind) for tensor in (*own, *cached)] + [torch.tensor(lengths, dtype=torch.int32)]


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_is_the_twin(device, shape, dtype, causal):
    if device == "cpu" and dtype != "float32" and shape != SHAPES[1]:
        pytest.skip("one shape in the narrow dtypes is enough for the interpreter")
    for tile in range(len(KERNELS["BlockAttention"].tiles)):
        atol = tolerances.KERNEL[dtype]
        check_against_naive(BLOCK_ATTENTION, example(shape, dtype), device, atol, tile=tile, causal=causal)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_body_is_the_twin(shape, causal):
    inputs = example(shape)
    (body,) = run_body(BLOCK_ATTENTION, [tensor.numpy() for tensor in inputs], {"causal": causal})
    want = run_naive(BLOCK_ATTENTION, *inputs, causal=causal)[0]
    assert_close(body, want, tolerances.OP, "body")


@pytest.mark.parametrize("causal", [0, 1])
def test_the_definition(causal):
    """Token by token and head by head, in float64."""
    B, L, J, per_kv, Y, _ = shape = (3, 5, 2, 3, 12, 24)
    inputs = example(shape)
    got = run_naive(BLOCK_ATTENTION, *inputs, causal=causal)[0].view(B, L, J * per_kv, Y)
    q, k, v, k_cache, v_cache, lengths = (tensor.double().numpy() for tensor in inputs)
    for b in range(B):
        n = int(lengths[b])
        for token in range(L):
            last = token + 1 if causal else L
            for head in range(J * per_kv):
                j = head // per_kv
                own = slice(j * Y, (j + 1) * Y)
                keys = np.concatenate([k_cache[b, j, :n], k[b, :last, own]])
                values = np.concatenate([v_cache[b, j, :n], v[b, :last, own]])
                scores = keys @ q[b, token, head * Y : (head + 1) * Y] / Y**0.5
                weight = np.exp(scores - scores.max())
                want = weight @ values / weight.sum()
                assert_close(got[b, token, head], want, tolerances.OP, f"row {b}, token {token}, head {head}")


def test_what_lies_beyond_the_length_is_not_read(device):
    """Not even NaN, which the twin's products would let through."""
    shape = (2, 5, 2, 3, 12, 24)
    inputs = example(shape, lengths=[0, 7])
    want = run_guarded(BLOCK_ATTENTION, inputs, device, causal=1)[0]
    for cache in inputs[3:5]:
        cache[0] = torch.nan
        cache[1, :, 7:] = torch.nan
    assert torch.equal(run_guarded(BLOCK_ATTENTION, inputs, device, causal=1)[0], want)


def test_lengths_that_no_cache_has_lead_nowhere_outside(device):
    for length in (-1, 25, 2**31 - 1):
        run_guarded(BLOCK_ATTENTION, example((1, 5, 2, 3, 12, 24), lengths=[length]), device, causal=0)


def test_projections_are_read_where_one_product_left_them(device):
    """Queries, keys and values side by side: the same bits as from dense copies."""
    *own, k_cache, v_cache, lengths = (tensor.to(device) for tensor in example((2, 17, 2, 4, 16, 40)))
    together = torch.cat(own, -1)
    parts = together.split([tensor.shape[-1] for tensor in own], -1)
    got = run_triton(BLOCK_ATTENTION, *parts, k_cache, v_cache, lengths, causal=0)
    want = run_triton(BLOCK_ATTENTION, *own, k_cache, v_cache, lengths, causal=0)
    assert torch.equal(got[0], want[0])
    naive = run_naive(BLOCK_ATTENTION, *parts, k_cache, v_cache, lengths, causal=0)
    assert_close(got[0].cpu(), naive[0].cpu(), tolerances.KERNEL["float32"], "strided")
