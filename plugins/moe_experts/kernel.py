"""Triton kernels of `MoeUp`, `MoeDown` and `MoeCombine`.

The two products are one kernel: a grouped GEMM over tokens sorted by expert, as in MegaBlocks (Gale et al.
2022) and vLLM's fused MoE. Its rows are the (token, expert) pairs in the order of the experts; a row tile
never holds rows of two experts, so a program multiplies by one expert's weights. Row tiles are numbered over
the experts that were hit: each program finds its own from `expert_offsets`, so the grid depends on shapes
only and the host need not know who was hit. Surplus programs leave at once.

Up to BLOCK_M tokens an expert has one row tile (a token chooses an expert once at most), so every hit
expert's weights are read exactly once, the others' never. Room for quantised weights: `_weights` is where a
tile of weights becomes a tile of numbers.
"""

from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl

from ttc.base.dims import evaluate
from ttc.plugins.launch import Dim, KernelSpec, Minimum, Problem, Tile, cdiv, power_of_two
from ttc.plugins.moe_experts import MOE_COMBINE, MOE_DOWN, MOE_UP
from ttc.plugins.ops import OpSpec

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
    """out[r] = f(weight[e(r)] · x[row of r]), fp32 accumulation.

    Program (n, tile): columns n·BLOCK_N …, row tile number `tile`.

    x_ptr: (rows, IN); the row of r is grouped_pairs[r] // PAIRS_PER_ROW, or r itself where that is 0.
    weight_ptr: (E, OUT, IN).
    R: number of pairs, T·K.
    out_ptr: (R, OUT).
    SQUARED_RELU: f is relu², else nothing.
    """
    tile = tl.program_id(1)
    experts = tl.arange(0, BLOCK_E)
    first = tl.load(expert_offsets_ptr + experts, mask=experts < E, other=0)
    last = tl.load(expert_offsets_ptr + experts + 1, mask=experts < E, other=0)
    tiles = (last - first + BLOCK_M - 1) // BLOCK_M
    # One sum for two numbers, since every program waits for it: how many experts lie wholly before this row
    # tile (upper half), and how many row tiles they have (lower half).
    passed = tl.where(tl.cumsum(tiles, 0) <= tile, tiles.to(tl.int64) + (1 << 32), 0)
    before = tl.sum(passed, 0)
    expert = (before >> 32).to(tl.int32)
    if expert < E:
        start_row = tl.load(expert_offsets_ptr + expert) + (tile - before.to(tl.int32)) * BLOCK_M
        rows = start_row + tl.arange(0, BLOCK_M)
        live = rows < tl.minimum(tl.load(expert_offsets_ptr + expert + 1), R)
        if PAIRS_PER_ROW == 0:
            sources = rows
        else:
            sources = tl.load(grouped_pairs_ptr + rows, mask=live, other=0) // PAIRS_PER_ROW

        columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
        x_rows = x_ptr + sources.to(tl.int64)[:, None] * IN
        weight_columns = weight_ptr + (expert.to(tl.int64) * OUT + columns.to(tl.int64)[None, :]) * IN
        total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for start in range(0, IN, BLOCK_K):
            inner = start + tl.arange(0, BLOCK_K)
            x = tl.load(x_rows + inner[None, :], mask=live[:, None] & (inner < IN)[None, :], other=0.0)
            weight = _weights(weight_columns + inner[:, None], (columns < OUT)[None, :], inner[:, None] < IN)
            if UPCAST:
                x = x.to(tl.float32)
                weight = weight.to(tl.float32)
            total = tl.dot(x, weight, total, input_precision=PRECISION)
        if SQUARED_RELU:
            total = tl.where(total < 0.0, 0.0, total)
            total = total * total
        out = out_ptr + rows.to(tl.int64)[:, None] * OUT + columns[None, :]
        tl.store(out, total.to(out_ptr.dtype.element_ty), mask=live[:, None] & (columns < OUT)[None, :])


@triton.jit
def _weights(pointers, column_exists, inner_exists):
    """A (BLOCK_K, BLOCK_N) tile of one expert's weights."""
    return tl.load(pointers, mask=column_exists & inner_exists, other=0.0)


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
    """out[t] = Σ_k weights[t, k] · rows[grouped_rows[t, k]], k ascending. Program (t, d)."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    real = columns < D
    total = tl.zeros((BLOCK_D,), tl.float32)
    for k in tl.static_range(K):
        row = tl.load(grouped_rows_ptr + token * K + k).to(tl.int64)
        weight = tl.load(weights_ptr + token * K + k)
        total += weight * tl.load(rows_ptr + row * D + columns, mask=real, other=0.0)
    tl.store(out_ptr + token * D + columns, total, mask=real)


# In float32 block K holds half as many numbers, for the same shared memory (48 KiB at most).
_PRODUCT_TILES = (
    Tile("decode-64", {"BLOCK_M": 16, "BLOCK_N": 64, "BLOCK_K": 64}, num_warps=4, num_stages=4),
    Tile("decode-32", {"BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_K": 128}, num_warps=4, num_stages=3),
    Tile("prefill-64", {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32}, num_warps=4, num_stages=4),
    Tile("prefill-128", {"BLOCK_M": 128, "BLOCK_N": 64, "BLOCK_K": 32}, num_warps=4, num_stages=3),
)
_COMBINE_TILES = (Tile("256", {"BLOCK_D": 256}, num_warps=2), Tile("1024", {"BLOCK_D": 1024}, num_warps=4))


def _product(problem: Problem, tile: Tile, inner: str, outer: str, gathered: bool) -> Mapping[str, Any]:
    wide = problem.dtype == "float32"
    return {
        "E": problem.dims["E"],
        "IN": problem.dims[inner],
        "OUT": problem.dims[outer],
        "PAIRS_PER_ROW": problem.dims["K"] if gathered else 0,
        "SQUARED_RELU": gathered,
        "PRECISION": "ieee" if wide else "tf32",  # asked of float32 products only
        "UPCAST": problem.interpreted and problem.dtype == "bfloat16",
        "BLOCK_E": power_of_two(problem.dims["E"]),
        **tile.blocks,
        "BLOCK_K": tile.blocks["BLOCK_K"] // (2 if wide else 1),
    }


def _product_grid(dims: Mapping[str, Dim], constants: Mapping[str, Any], minimum: Minimum) -> tuple[Dim, ...]:
    """Row tiles: at most one a pair, and at most one partly filled an expert."""
    pairs = evaluate("T*K", dims)
    row_tiles = minimum(pairs, pairs // constants["BLOCK_M"] + constants["E"])
    return cdiv(constants["OUT"], constants["BLOCK_N"]), row_tiles


def _select_product_tile(dims: Mapping[str, int]) -> int:
    """Decode tiles while an expert has at most one row tile on average; beyond, the product is bound by
    arithmetic.
    """
    return 0 if dims["T"] * dims["K"] <= 16 * dims["E"] else 2


def _product_spec(op: OpSpec, inner: str, outer: str, *, gathered: bool) -> KernelSpec:
    """One of the two products; `gathered` ones read tokens and square what is positive."""
    return KernelSpec(
        op=op,
        kernel=grouped_product,
        changing=("T",),
        integers=("T*K",),
        tiles=_PRODUCT_TILES,
        select_tile=_select_product_tile,
        constants=lambda problem, tile: _product(problem, tile, inner, outer, gathered),
        grid=_product_grid,
    )


moe_up = _product_spec(MOE_UP, "D", "I", gathered=True)
moe_down = _product_spec(MOE_DOWN, "I", "D", gathered=False)
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
