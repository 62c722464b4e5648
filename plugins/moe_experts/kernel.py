"""Triton kernels of `MoeUp`, `MoeDown` (`ttc.plugins.grouped_product` of plain weights) and `MoeCombine`."""

from collections.abc import Mapping

import triton
import triton.language as tl

from ttc.plugins.grouped_launch import product_spec
from ttc.plugins.grouped_product import product
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
    K: tl.constexpr,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    PAIRS_PER_ROW: tl.constexpr,
    SQUARED_RELU: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
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
        weight_ptr,  # no scale
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
        "plain",
        0,
        False,
        False,
        SIDE,
        BLOCK_E,
        SIZES,
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


def _tile(
    name: str, m: int, n: int, k: int, stages: int, warps: int = 4, sizes: int = 1, *, wide: bool = False
) -> Tile:
    blocks = {"SIZES": sizes, "BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k}
    return Tile(name, blocks, num_warps=warps, num_stages=stages, wide=wide)


_FEW, _SOME, _MANY, _SOME_WIDE, _MANY_WIDE, _MOST_WIDE = 0, 4, 5, 9, 10, 11
_PRODUCT_TILES = (
    _tile("16x64x128", 16, 64, 128, 3),
    _tile("16x64x64", 16, 64, 64, 4),
    _tile("16x32x128", 16, 32, 128, 3),
    _tile("16x32x256", 16, 32, 256, 3),
    _tile("32x64x128", 32, 64, 128, 3, sizes=2),
    _tile("64x64x32", 64, 64, 32, 4, sizes=2),
    _tile("128x64x32", 128, 64, 32, 3),
    _tile("16x64x128-4", 16, 64, 128, 4, wide=True),
    _tile("16x64x256", 16, 64, 256, 3, warps=8, wide=True),
    _tile("64x64x64", 64, 64, 64, 3, sizes=3, wide=True),  # 48 KiB on 9.0, 16 bytes more on 10.0
    _tile("64x128x64", 64, 128, 64, 3, sizes=3, wide=True),
    _tile("128x128x64", 128, 128, 64, 3, warps=8, sizes=2, wide=True),
)


def _select(dims: Mapping[str, int]) -> int:
    """The least rows that hold all that an expert may have: a token chooses it once."""
    return _FEW if dims["T"] <= 16 else _SOME if dims["T"] <= 32 else _MANY


def _select_wide(dims: Mapping[str, int]) -> int:
    """From a prompt's chunk on more columns a program, and 128 rows where experts have that many.

    Predicted from bytes and instructions, as the rest is; no GPU has timed them.
    """
    if dims["T"] <= 256:
        return _select(dims) if dims["T"] <= 32 else _SOME_WIDE
    return _MANY_WIDE if dims["T"] * dims["K"] <= 64 * dims["E"] else _MOST_WIDE


_COMBINE_TILES = (Tile("256", {"BLOCK_D": 256}, num_warps=2), Tile("1024", {"BLOCK_D": 1024}, num_warps=4))


moe_up = product_spec(
    MOE_UP,
    grouped_product,
    _PRODUCT_TILES,
    "D",
    "I",
    gathered=True,
    select_tile=_select,
    select_wide=_select_wide,
)
moe_down = product_spec(
    MOE_DOWN,
    grouped_product,
    _PRODUCT_TILES,
    "I",
    "D",
    gathered=False,
    select_tile=_select,
    select_wide=_select_wide,
)
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
