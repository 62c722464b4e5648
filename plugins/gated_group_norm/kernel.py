"""Triton kernel of `GatedGroupNorm`: a program is a token's group of channels, 512 in the real model."""

from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl

from ttc.plugins.gated_group_norm import GATED_GROUP_NORM
from ttc.plugins.launch import KernelSpec, Problem, Tile, power_of_two

__all__ = ["gate_and_norm", "gated_group_norm"]


@triton.jit(do_not_specialize=["L"])
def gate_and_norm(
    y_ptr,
    z_ptr,
    weight_ptr,
    L,
    normed_ptr,
    M: tl.constexpr,
    G: tl.constexpr,
    EPSILON: tl.constexpr,
    Z_STRIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program (g, l, b). y, z, normed: (B, L, M), tokens of z Z_STRIDE elements apart.  weight: (M,)."""
    WIDTH: tl.constexpr = M // G
    inside = tl.arange(0, BLOCK)
    real = inside < WIDTH
    columns = tl.program_id(0) * WIDTH + inside
    token = tl.program_id(2).to(tl.int64) * L + tl.program_id(1)
    y = tl.load(y_ptr + token * M + columns, mask=real, other=0.0).to(tl.float32)
    z = tl.load(z_ptr + token * Z_STRIDE + columns, mask=real, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + columns, mask=real, other=0.0).to(tl.float32)
    gated = y * (z / (1.0 + tl.exp(-z)))
    normed = gated * tl.rsqrt(tl.sum(gated * gated, 0) / WIDTH + EPSILON) * weight
    tl.store(normed_ptr + token * M + columns, normed.to(normed_ptr.dtype.element_ty), mask=real)


def _constants(problem: Problem, tile: Tile) -> Mapping[str, Any]:
    M, G = problem.dims["M"], problem.attributes["G"]
    return {
        "M": M,
        "G": G,
        "EPSILON": float(problem.attributes["epsilon"]),
        "Z_STRIDE": problem.token_strides.get("z", M),
        "BLOCK": power_of_two(M // G),
    }


gated_group_norm = KernelSpec(
    op=GATED_GROUP_NORM,
    kernel=gate_and_norm,
    changing=("B", "L"),
    integers=("L",),
    tiles=(Tile("whole", {}, num_warps=4),),
    select_tile=lambda dims: 0,
    constants=_constants,
    grid=lambda dims, constants, minimum: (constants["G"], dims["L"], dims["B"]),
    strided=("z",),
)
