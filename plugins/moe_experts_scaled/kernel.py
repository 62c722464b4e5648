"""Triton kernels of `MoeUpScaled`, `MoeDownScaled`: `ttc.plugins.grouped_product` of weights in eight bits.

float8_e4m3fn is converted by the GPU from compute capability 8.9 on, before that by its bits.
"""

from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl

from ttc.plugins.grouped_launch import product_spec
from ttc.plugins.grouped_product import product
from ttc.plugins.launch import Problem, Tile
from ttc.plugins.moe_experts_scaled import MOE_DOWN_SCALED, MOE_UP_SCALED

__all__ = ["moe_down_scaled", "moe_up_scaled", "scaled_product"]


@triton.jit(do_not_specialize=["R"])
def scaled_product(
    x_ptr,
    weight_ptr,
    scale_ptr,
    expert_ids_ptr,
    grouped_pairs_ptr,
    expert_offsets_ptr,
    R,
    out_ptr,
    E: tl.constexpr,
    K: tl.constexpr,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    PAIRS_PER_ROW: tl.constexpr,
    SQUARED_RELU: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    FORMAT: tl.constexpr,
    NATIVE: tl.constexpr,
    SIDE: tl.constexpr,
    BLOCK_E: tl.constexpr,
    SIZES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """See `product`."""
    product(
        x_ptr,
        weight_ptr,
        weight_ptr,  # no groups
        scale_ptr,
        expert_ids_ptr,
        grouped_pairs_ptr,
        expert_offsets_ptr,
        R,
        out_ptr,
        E,
        K,
        IN,
        OUT,
        PAIRS_PER_ROW,
        SQUARED_RELU,
        PRECISION,
        UPCAST,
        FORMAT,
        0,
        NATIVE,
        False,
        SIDE,
        BLOCK_E,
        SIZES,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
    )


_TILES = (
    Tile("decode-64", {"BLOCK_M": 16, "BLOCK_N": 64, "BLOCK_K": 128}, num_warps=4, num_stages=4),
    Tile("decode-128", {"BLOCK_M": 16, "BLOCK_N": 128, "BLOCK_K": 64}, num_warps=4, num_stages=4),
    Tile("prefill-64", {"SIZES": 3, "BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 64}, num_warps=4, num_stages=3),
    Tile("prefill-128", {"BLOCK_M": 128, "BLOCK_N": 64, "BLOCK_K": 32}, num_warps=4, num_stages=3),
)


def _format(problem: Problem) -> Mapping[str, Any]:
    return {"FORMAT": problem.stored, "NATIVE": problem.reaches("8.9")}


moe_up_scaled = product_spec(
    MOE_UP_SCALED, scaled_product, _TILES, "D", "I", gathered=True, of_format=_format
)
moe_down_scaled = product_spec(
    MOE_DOWN_SCALED, scaled_product, _TILES, "I", "D", gathered=False, of_format=_format
)
