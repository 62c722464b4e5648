"""Triton kernel of `MambaAdvance`: both states in one launch.

A program moves one head's BLOCK_P rows of the scan state, chunk by chunk in registers, up to its row's
commit_len, and a share of the convolution's channels. It reads all it needs of the old states before it
writes, and nothing of another program's, so the new states may lie where the old ones were.
"""

from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl

from ttc.plugins.kernel_math import chunk_decay
from ttc.plugins.launch import KernelSpec, Problem, Tile, cdiv, power_of_two
from ttc.plugins.mamba_advance import MAMBA_ADVANCE

__all__ = ["advance", "mamba_advance"]


@triton.jit(do_not_specialize=["L"])
def advance(
    xbc_ptr,
    activated_ptr,
    dt_ptr,
    conv_state_ptr,
    ssm_state_ptr,
    dt_bias_ptr,
    a_log_ptr,
    commit_len_ptr,
    L,
    new_conv_state_ptr,
    new_ssm_state_ptr,
    F: tl.constexpr,
    W1: tl.constexpr,
    H: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    G: tl.constexpr,
    SHARE: tl.constexpr,
    XBC_STRIDE: tl.constexpr,
    DT_STRIDE: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """States after the first commit_len[b] tokens, held to 0 … L; later tokens are not read. Program (h, p,
    b); SHARE channels each.

    xbc, activated: (B, L, F); dt: (B, L, H); tokens of xbc and dt XBC_STRIDE and DT_STRIDE elements apart.
    conv states: (B, F, W1).  scan states: (B, H, P, N) float32.
    """
    head = tl.program_id(0)
    row = tl.program_id(2).to(tl.int64)
    count = tl.minimum(tl.maximum(tl.load(commit_len_ptr + row), 0), L)

    parts = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    states = tl.arange(0, BLOCK_N)
    chunk = tl.arange(0, BLOCK_L)
    own = parts < P
    dense = states < N
    at_state = ((row * H + head) * P + parts)[:, None] * N + states[None, :]
    state = tl.load(ssm_state_ptr + at_state, mask=own[:, None] & dense[None, :], other=0.0)
    first_b = H * P + head // (H // G) * N
    for start in range(0, count, BLOCK_L):
        tokens = start + chunk
        live = tokens < count
        at = (row * L + tokens)[:, None] * F
        x_at = activated_ptr + at + (head * P + parts)[None, :]
        b_at = activated_ptr + at + (first_b + states)[None, :]
        x = tl.load(x_at, mask=live[:, None] & own[None, :], other=0.0).to(tl.float32)
        b = tl.load(b_at, mask=live[:, None] & dense[None, :], other=0.0).to(tl.float32)
        steps = dt_ptr + (row * L + tokens) * DT_STRIDE + head
        step, total = chunk_decay(steps, dt_bias_ptr, a_log_ptr, head, live)
        last = tl.sum(tl.where(chunk == BLOCK_L - 1, total, 0.0), 0)
        left = tl.exp(last - total) * step
        state = tl.exp(last) * state + tl.dot(tl.trans(x * left[:, None]), b, input_precision="ieee")
    tl.store(new_ssm_state_ptr + at_state, state, mask=own[:, None] & dense[None, :])

    program = head * tl.num_programs(1) + tl.program_id(1)
    lanes = tl.arange(0, BLOCK_F)
    channels = (program * SHARE + lanes)[:, None]
    widths = tl.arange(0, BLOCK_W)[None, :]
    inside = (lanes < SHARE)[:, None] & (channels < F) & (widths < W1)
    column = count + widths  # of the old columns followed by the block's
    at_conv = (row * F + channels) * W1
    old = tl.load(conv_state_ptr + at_conv + column, mask=inside & (column < W1), other=0.0)
    at_new = (row * L + column - W1) * XBC_STRIDE + channels
    new = tl.load(xbc_ptr + at_new, mask=inside & (column >= W1), other=0.0)
    tl.debug_barrier()  # a column may be written where another thread has still to read
    tl.store(new_conv_state_ptr + at_conv + widths, tl.where(column < W1, old, new), mask=inside)


def _constants(problem: Problem, tile: Tile) -> Mapping[str, Any]:
    dims, G = problem.dims, problem.attributes["G"]
    F = dims["H"] * dims["P"] + 2 * G * dims["N"]
    W1 = dims["W"] - 1
    programs = dims["H"] * cdiv(dims["P"], tile.blocks["BLOCK_P"])
    share = cdiv(F, programs)
    return {
        "F": F,
        "W1": W1,
        **{name: dims[name] for name in ("H", "P", "N")},
        "G": G,
        "SHARE": share,
        "XBC_STRIDE": problem.token_strides.get("xbc", F),
        "DT_STRIDE": problem.token_strides.get("dt", dims["H"]),
        "BLOCK_N": power_of_two(dims["N"], at_least=16),
        "BLOCK_F": power_of_two(share),
        "BLOCK_W": power_of_two(W1),
        **tile.blocks,
    }


mamba_advance = KernelSpec(
    op=MAMBA_ADVANCE,
    kernel=advance,
    changing=("B", "L"),
    integers=("L",),
    tiles=(
        Tile("16x16", {"BLOCK_L": 16, "BLOCK_P": 16}, num_warps=4),
        Tile("16x32", {"BLOCK_L": 16, "BLOCK_P": 32}, num_warps=4),
        Tile("32x32", {"BLOCK_L": 32, "BLOCK_P": 32}, num_warps=8),
    ),
    select_tile=lambda dims: 0 if dims["L"] <= 16 else 2,
    constants=_constants,
    grid=lambda dims, constants, minimum: (
        constants["H"],
        cdiv(constants["P"], constants["BLOCK_P"]),
        dims["B"],
    ),
    strided=("xbc", "dt"),
)
