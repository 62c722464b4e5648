"""Triton kernels of `MoeUp`, `MoeDown` (`ttc.plugins.grouped_product` of plain weights) and `MoeCombine`."""

import triton
import triton.language as tl

from ttc.plugins.grouped_product import product, product_spec
from ttc.plugins.launch import KernelSpec, Tile, cdiv
from ttc.plugins.moe_experts import MOE_COMBINE, MOE_DOWN, MOE_UP
from ttc.plugins.stream_math import combined_rows

__all__ = ["combine", "grouped_product", "moe_combine", "moe_down", "moe_up"]


@triton.jit(do_not_specialize=["R"])
def grouped_product(
    x_ptr,
    weight_ptr,
    expert_ids_ptr,
    grouped_pairs_ptr,
    expert_offsets_ptr,
    R,
    out_ptr,
    E: tl.constexpr,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    PAIRS_PER_ROW: tl.constexpr,
    SQUARED_RELU: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """See `product`."""
    product(
        x_ptr,
        weight_ptr,
        weight_ptr,  # no groups
        weight_ptr,  # no scale
        grouped_pairs_ptr,
        expert_offsets_ptr,
        R,
        out_ptr,
        E,
        IN,
        OUT,
        PAIRS_PER_ROW,
        SQUARED_RELU,
        PRECISION,
        UPCAST,
        "plain",
        0,
        False,
        False,
        BLOCK_E,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
    )


@triton.jit
def combine(
    rows_ptr,
    weights_ptr,
    grouped_rows_ptr,
    out_ptr,
    D: tl.constexpr,
    K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A token's weighted sum of its rows, whose numbers are held inside the tensor, as in `product`. Program
    (t, d).
    """
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    last_row = tl.num_programs(0) * K - 1
    total = combined_rows(rows_ptr, weights_ptr, grouped_rows_ptr, token, last_row, columns, D, K)
    tl.store(out_ptr + token * D + columns, total, mask=columns < D)


_PRODUCT_TILES = (
    Tile("decode-64", {"BLOCK_M": 16, "BLOCK_N": 64, "BLOCK_K": 64}, num_warps=4, num_stages=4),
    Tile("decode-32", {"BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_K": 128}, num_warps=4, num_stages=3),
    Tile("prefill-64", {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32}, num_warps=4, num_stages=4),
    Tile("prefill-128", {"BLOCK_M": 128, "BLOCK_N": 64, "BLOCK_K": 32}, num_warps=4, num_stages=3),
)
_COMBINE_TILES = (Tile("256", {"BLOCK_D": 256}, num_warps=2), Tile("1024", {"BLOCK_D": 1024}, num_warps=4))


moe_up = product_spec(MOE_UP, grouped_product, _PRODUCT_TILES, "D", "I", gathered=True)
moe_down = product_spec(MOE_DOWN, grouped_product, _PRODUCT_TILES, "I", "D", gathered=False)
moe_combine = KernelSpec(
    op=MOE_COMBINE,
    kernel=combine,
    changing=("T",),
    integers=(),
    tiles=_COMBINE_TILES,
    select_tile=lambda dims: 0 if dims["T"] <= 64 else 1,
    constants=lambda problem, tile: {"D": problem.dims["D"], "K": problem.dims["K"], **tile.blocks},
    grid=lambda dims, constants, minimum: (dims["T"], cdiv(constants["D"], constants["BLOCK_D"])),
)
