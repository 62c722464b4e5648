"""Triton kernel of `RouterLogits`: a program has a few tokens and a few experts.

It multiplies number by number and sums along D, which keeps every thread busy however few tokens there are; a
tile of a matrix product would leave the processors to a handful of programs, each with a walk over all of D.
"""

from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl

from ttc.plugins.launch import KernelSpec, Problem, Tile, cdiv, power_of_two
from ttc.plugins.router_logits import ROUTER_LOGITS

__all__ = ["router_logits", "score"]


@triton.jit(do_not_specialize=["T"])
def score(
    x_ptr,
    gate_ptr,
    T,
    logits_ptr,
    D: tl.constexpr,
    E: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Program (e, t). x: (T, D).  gate: (E, D) float32.  logits: (T, E) float32."""
    experts = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    tokens = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    live, real = tokens < T, experts < E
    x_rows = x_ptr + tokens.to(tl.int64)[:, None] * D
    gate_rows = gate_ptr + experts[:, None] * D
    total = tl.zeros((BLOCK_T, BLOCK_E), tl.float32)
    for start in range(0, D, BLOCK_D):
        inner = start + tl.arange(0, BLOCK_D)[None, :]
        x = tl.load(x_rows + inner, mask=live[:, None] & (inner < D), other=0.0).to(tl.float32)
        gate = tl.load(gate_rows + inner, mask=real[:, None] & (inner < D), other=0.0)
        total += tl.sum(x[:, None, :] * gate[None, :, :], 2)
    at = tokens.to(tl.int64)[:, None] * E + experts[None, :]
    tl.store(logits_ptr + at, total, mask=live[:, None] & real[None, :])


def _constants(problem: Problem, tile: Tile) -> Mapping[str, Any]:
    D, blocks = problem.dims["D"], dict(tile.blocks)
    blocks["BLOCK_D"] = min(blocks["BLOCK_D"], power_of_two(D))
    return {"D": D, "E": problem.dims["E"], **blocks}


router_logits = KernelSpec(
    op=ROUTER_LOGITS,
    kernel=score,
    changing=("T",),
    integers=("T",),
    tiles=(
        Tile("4x4", {"BLOCK_T": 4, "BLOCK_E": 4, "BLOCK_D": 512}, num_warps=4),
        Tile("1x4", {"BLOCK_T": 1, "BLOCK_E": 4, "BLOCK_D": 1024}, num_warps=4),
        Tile("8x8", {"BLOCK_T": 8, "BLOCK_E": 8, "BLOCK_D": 256}, num_warps=8),
    ),
    select_tile=lambda dims: 1 if dims["T"] == 1 else 0 if dims["T"] <= 32 else 2,
    constants=_constants,
    grid=lambda dims, constants, minimum: (
        cdiv(constants["E"], constants["BLOCK_E"]),
        cdiv(dims["T"], constants["BLOCK_T"]),
    ),
)
