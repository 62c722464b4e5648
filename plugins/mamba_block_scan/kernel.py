"""Triton kernels of `MambaConv` and `MambaScan`.

`MambaScan` is the closed form of `naive.py` (state space duality, Dao and Gu 2024) over chunks of BLOCK_L
tokens, every chunk of outputs a program of its own: it reads the tokens up to its own, chunk by chunk
backwards, and then the state, once. So a block of up to BLOCK_L tokens costs its own size and the state (2 MB
a layer and row in the real model), and a longer one grows quadratically, but for every chunk at the same
time. Programs also split heads, and the rows of a head's state (head_dim); the products of B and C are
repeated by the programs of one head. All products are full float32.
"""

from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl

from ttc.plugins.kernel_math import chunk_decay
from ttc.plugins.launch import KernelSpec, Problem, Tile, cdiv, power_of_two
from ttc.plugins.mamba_block_scan import MAMBA_CONV, MAMBA_SCAN

__all__ = ["convolve", "mamba_conv", "mamba_scan", "scan"]


@triton.jit(do_not_specialize=["L"])
def convolve(
    xbc_ptr,
    conv_state_ptr,
    weight_ptr,
    bias_ptr,
    L,
    activated_ptr,
    F: tl.constexpr,
    W: tl.constexpr,
    XBC_STRIDE: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """SiLU of the causal depthwise convolution of one tile (BLOCK_L, BLOCK_F). Program (f, l, b).

    xbc, activated: (B, L, F), tokens of xbc XBC_STRIDE elements apart.  conv_state: (B, F, W − 1), newest
    last.  weight: (F, 1, W).
    """
    row = tl.program_id(2).to(tl.int64)
    channels = tl.program_id(0) * BLOCK_F + tl.arange(0, BLOCK_F)
    tokens = tl.program_id(1) * BLOCK_L + tl.arange(0, BLOCK_L)
    real = channels < F
    inside = (tokens < L)[:, None] & real[None, :]
    xbc_ptr += row * L * XBC_STRIDE
    states = conv_state_ptr + (row * F + channels)[None, :] * (W - 1)
    bias = tl.load(bias_ptr + channels, mask=real, other=0.0).to(tl.float32)
    total = tl.zeros((BLOCK_L, BLOCK_F), tl.float32) + bias[None, :]
    for k in tl.static_range(W):
        source = (tokens + (k - (W - 1)))[:, None]  # negative: a column of before the block
        new = tl.load(
            xbc_ptr + source * XBC_STRIDE + channels[None, :], mask=inside & (source >= 0), other=0.0
        )
        old = tl.load(states + (source + (W - 1)), mask=inside & (source < 0), other=0.0)
        weight = tl.load(weight_ptr + channels * W + k, mask=real, other=0.0).to(tl.float32)
        total += tl.where(source >= 0, new, old).to(tl.float32) * weight[None, :]
    activated = total / (1.0 + tl.exp(-total))
    target = activated_ptr + (row * L + tokens)[:, None] * F + channels[None, :]
    tl.store(target, activated.to(activated_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["L"])
def scan(
    activated_ptr,
    dt_ptr,
    ssm_state_ptr,
    dt_bias_ptr,
    a_log_ptr,
    d_ptr,
    L,
    y_ptr,
    F: tl.constexpr,
    H: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    G: tl.constexpr,
    DT_STRIDE: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Y of one head, BLOCK_P of its rows and BLOCK_L tokens. Program (h, p and l, b).

    activated: (B, L, F), channels x (H·P) | B (G·N) | C (G·N).  dt: (B, L, H), tokens DT_STRIDE elements
    apart.  ssm_state: (B, H, P, N) float32.  y: (B, L, H·P).
    """
    head = tl.program_id(0)
    row = tl.program_id(2).to(tl.int64)
    num_parts: tl.constexpr = (P + BLOCK_P - 1) // BLOCK_P
    parts = tl.program_id(1) % num_parts * BLOCK_P + tl.arange(0, BLOCK_P)
    chunk_number = tl.program_id(1) // num_parts
    chunk = tl.arange(0, BLOCK_L)
    tokens = chunk_number * BLOCK_L + chunk
    live = tokens < L
    own = parts < P
    activated_ptr += row * L * F
    dt_ptr += row * L * DT_STRIDE + head
    first_b = H * P + head // (H // G) * N
    rows_c = activated_ptr + tokens.to(tl.int64)[:, None] * F + first_b + G * N
    _, total = chunk_decay(dt_ptr + tokens * DT_STRIDE, dt_bias_ptr, a_log_ptr, head, live)

    y = tl.zeros((BLOCK_L, BLOCK_P), tl.float32)
    between = 0.0  # sum of step·A over the whole chunks after the one at hand and before this program's
    for back in range(chunk_number + 1):
        sources = tokens - back * BLOCK_L
        present = sources < L
        steps = dt_ptr + sources * DT_STRIDE
        step, source_total = chunk_decay(steps, dt_bias_ptr, a_log_ptr, head, present)
        rows_x = activated_ptr + sources.to(tl.int64)[:, None] * F
        scores = tl.zeros((BLOCK_L, BLOCK_L), tl.float32)
        for first in range(0, N, BLOCK_N):
            states = (first + tl.arange(0, BLOCK_N))[None, :]
            c = tl.load(rows_c + states, mask=live[:, None] & (states < N), other=0.0)
            b = tl.load(rows_x + first_b + states, mask=present[:, None] & (states < N), other=0.0)
            scores += tl.dot(c.to(tl.float32), tl.trans(b.to(tl.float32)), input_precision="ieee")
        if back > 0:
            between += tl.sum(tl.where(chunk == BLOCK_L - 1, source_total, 0.0), 0)
        # exp's argument is never positive where it counts; the mask goes in before, where it could overflow.
        passed = total[:, None] + between - source_total[None, :]
        causal = (chunk[:, None] >= chunk[None, :]) | (back > 0)
        scores *= tl.exp(tl.where(causal, passed, float("-inf"))) * step[None, :]
        x_mask = present[:, None] & own[None, :]
        x = tl.load(rows_x + (head * P + parts)[None, :], mask=x_mask, other=0.0).to(tl.float32)
        y += tl.dot(scores, x, input_precision="ieee")

    seeded = tl.zeros((BLOCK_L, BLOCK_P), tl.float32)
    rows_state = ssm_state_ptr + ((row * H + head) * P + parts)[:, None] * N
    for first in range(0, N, BLOCK_N):
        states = (first + tl.arange(0, BLOCK_N))[None, :]
        c = tl.load(rows_c + states, mask=live[:, None] & (states < N), other=0.0).to(tl.float32)
        state = tl.load(rows_state + states, mask=own[:, None] & (states < N), other=0.0)
        seeded += tl.dot(c, tl.trans(state), input_precision="ieee")
    y += seeded * tl.exp(total + between)[:, None]

    columns = (head * P + parts)[None, :]
    inside = live[:, None] & own[None, :]
    x = tl.load(activated_ptr + tokens.to(tl.int64)[:, None] * F + columns, mask=inside, other=0.0)
    y += x.to(tl.float32) * tl.load(d_ptr + head).to(tl.float32)
    target = y_ptr + (row * L + tokens)[:, None] * (H * P) + columns
    tl.store(target, y.to(y_ptr.dtype.element_ty), mask=inside)


def _scan_constants(problem: Problem, tile: Tile) -> Mapping[str, Any]:
    dims, G = problem.dims, problem.attributes["G"]
    return {
        "F": dims["H"] * dims["P"] + 2 * G * dims["N"],
        **{name: dims[name] for name in ("H", "P", "N")},
        "G": G,
        "DT_STRIDE": problem.token_strides.get("dt", dims["H"]),
        **tile.blocks,
        "BLOCK_N": min(tile.blocks["BLOCK_N"], power_of_two(dims["N"], at_least=16)),
    }


mamba_conv = KernelSpec(
    op=MAMBA_CONV,
    kernel=convolve,
    changing=("B", "L"),
    integers=("L",),
    tiles=(
        Tile("4x256", {"BLOCK_L": 4, "BLOCK_F": 256}, num_warps=4),
        Tile("1x256", {"BLOCK_L": 1, "BLOCK_F": 256}, num_warps=2),
        Tile("16x256", {"BLOCK_L": 16, "BLOCK_F": 256}, num_warps=8),
    ),
    select_tile=lambda dims: 1 if dims["L"] == 1 else 0 if dims["L"] <= 32 else 2,
    constants=lambda problem, tile: {
        "F": problem.dims["F"],
        "W": problem.attributes["W"],
        "XBC_STRIDE": problem.token_strides.get("xbc", problem.dims["F"]),
        **tile.blocks,
    },
    grid=lambda dims, constants, minimum: (
        cdiv(constants["F"], constants["BLOCK_F"]),
        cdiv(dims["L"], constants["BLOCK_L"]),
        dims["B"],
    ),
    strided=("xbc",),
)
mamba_scan = KernelSpec(
    op=MAMBA_SCAN,
    kernel=scan,
    changing=("B", "L"),
    integers=("L",),
    tiles=(
        Tile("16x16", {"BLOCK_L": 16, "BLOCK_P": 16, "BLOCK_N": 32}, num_warps=2),
        Tile("16x64", {"BLOCK_L": 16, "BLOCK_P": 64, "BLOCK_N": 32}, num_warps=4),
        Tile("32x64", {"BLOCK_L": 32, "BLOCK_P": 64, "BLOCK_N": 32}, num_warps=8),
    ),
    select_tile=lambda dims: 0 if dims["L"] <= 16 else 2,
    constants=_scan_constants,
    grid=lambda dims, constants, minimum: (
        constants["H"],
        cdiv(dims["L"], constants["BLOCK_L"]) * cdiv(constants["P"], constants["BLOCK_P"]),
        dims["B"],
    ),
    strided=("dt",),
)
