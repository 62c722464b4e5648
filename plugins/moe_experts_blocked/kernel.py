"""Triton kernels of `MoeUpBlocked`, `MoeDownBlocked`: `ttc.plugins.grouped_product` of weights in four bits.

float4_e2m1fn in bfloat16 is decoded four bytes at a time; without that the arithmetic of decoding, not the
memory, would be the limit on an H200.
"""

from collections.abc import Callable, Mapping
from typing import Any

import triton
import triton.language as tl

from ttc.errors import InputError
from ttc.plugins.grouped_launch import product_spec
from ttc.plugins.grouped_product import product
from ttc.plugins.launch import Problem, Tile
from ttc.plugins.moe_experts_blocked import MOE_DOWN_BLOCKED, MOE_UP_BLOCKED

__all__ = ["blocked_product", "moe_down_blocked", "moe_up_blocked"]


@triton.jit(do_not_specialize=["R"])
def blocked_product(
    x_ptr,
    weight_ptr,
    group_scale_ptr,
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
    GROUP: tl.constexpr,
    NATIVE: tl.constexpr,
    PACKED: tl.constexpr,
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
        group_scale_ptr,
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
        GROUP,
        NATIVE,
        PACKED,
        SIDE,
        BLOCK_E,
        SIZES,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
    )


# A group may have 32 weights, so in float32, where BLOCK_K is halved, it must be 64 here at least.
_TILES = (
    Tile("decode-128", {"BLOCK_M": 16, "BLOCK_N": 128, "BLOCK_K": 64}, num_warps=4, num_stages=4),
    Tile("decode-64", {"BLOCK_M": 16, "BLOCK_N": 64, "BLOCK_K": 128}, num_warps=4, num_stages=4),
    Tile("prefill-64", {"SIZES": 3, "BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 64}, num_warps=4, num_stages=3),
    Tile("prefill-128", {"BLOCK_M": 128, "BLOCK_N": 64, "BLOCK_K": 64}, num_warps=8, num_stages=2),
)
_GROUPS = (16, 32)


def _format(inner: str) -> Callable[[Problem], Mapping[str, Any]]:
    def constants(problem: Problem) -> Mapping[str, Any]:
        width, groups = problem.dims[inner], problem.dims[f"{inner}B"]
        group = width // max(groups, 1)
        if group not in _GROUPS or group * groups != width:
            raise InputError(
                f"weights in {problem.stored}: {groups} scales along {width} weights; a scale is for one of "
                f"{', '.join(map(str, _GROUPS))} weights, without a rest"
            )
        return {
            "FORMAT": problem.stored,
            "GROUP": group,
            "NATIVE": problem.reaches("8.9"),
            "PACKED": problem.stored == "float4_e2m1fn"
            and problem.dtype == "bfloat16"
            and not problem.interpreted,
        }

    return constants


moe_up_blocked = product_spec(
    MOE_UP_BLOCKED, blocked_product, _TILES, "D", "I", gathered=True, of_format=_format("D")
)
moe_down_blocked = product_spec(
    MOE_DOWN_BLOCKED, blocked_product, _TILES, "I", "D", gathered=False, of_format=_format("I")
)
