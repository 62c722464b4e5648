"""Triton kernel of `PageWrite`: a program has a few tokens of one KV head, their keys and their values."""

from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl

from ttc.plugins.launch import KernelSpec, Problem, Tile, cdiv, power_of_two
from ttc.plugins.page_write import PAGE_WRITE

__all__ = ["page_write", "write"]


@triton.jit(do_not_specialize=["L", "U", "Z", "row_pages"])
def write(
    keys_ptr,
    values_ptr,
    key_pages_ptr,
    value_pages_ptr,
    pages_ptr,
    lengths_ptr,
    L,
    U,
    Z,
    row_pages,
    new_key_pages_ptr,
    new_value_pages_ptr,
    J: tl.constexpr,
    Y: tl.constexpr,
    K_STRIDE: tl.constexpr,
    V_STRIDE: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_Y: tl.constexpr,
):
    """Program (l, j, b). keys, values: (B, L, J·Y), their tokens so many elements apart.

    Pages: (U, J, Z, Y); of the new ones, which hold what the old ones do, the block's tokens are written.
    pages: (B, row_pages).  A token for which a row has no page, and one whose page there is not, is left out.
    """
    head = tl.program_id(1)
    row = tl.program_id(2).to(tl.int64)
    tokens = tl.program_id(0) * BLOCK_L + tl.arange(0, BLOCK_L)
    inner = tl.arange(0, BLOCK_Y)
    real = (inner < Y)[None, :]
    positions = tl.load(lengths_ptr + row) + tokens
    column = positions // Z
    inside = (tokens < L) & (positions >= 0) & (column < row_pages)
    page = tl.load(pages_ptr + row * row_pages + column, mask=inside, other=-1)
    mask = (inside & (page >= 0) & (page < U))[:, None] & real
    target = (((page.to(tl.int64) * J + head) * Z + positions % Z) * Y)[:, None] + inner[None, :]
    source = (row * L + tokens)[:, None]
    k = tl.load(keys_ptr + source * K_STRIDE + head * Y + inner[None, :], mask=mask, other=0.0)
    v = tl.load(values_ptr + source * V_STRIDE + head * Y + inner[None, :], mask=mask, other=0.0)
    tl.store(new_key_pages_ptr + target, k, mask=mask)
    tl.store(new_value_pages_ptr + target, v, mask=mask)


def _constants(problem: Problem, tile: Tile) -> Mapping[str, Any]:
    J, Y = problem.dims["J"], problem.dims["Y"]
    return {
        "J": J,
        "Y": Y,
        "K_STRIDE": problem.token_strides.get("keys", J * Y),
        "V_STRIDE": problem.token_strides.get("values", J * Y),
        "BLOCK_Y": power_of_two(Y),
        **tile.blocks,
    }


page_write = KernelSpec(
    op=PAGE_WRITE,
    kernel=write,
    changing=("B", "L", "U", "Z", "O"),
    integers=("L", "U", "Z", "O"),
    tiles=(Tile("16", {"BLOCK_L": 16}, num_warps=4),),
    select_tile=lambda dims: 0,
    constants=_constants,
    grid=lambda dims, constants, minimum: (cdiv(dims["L"], constants["BLOCK_L"]), constants["J"], dims["B"]),
    strided=("keys", "values"),
    over={"new_key_pages": "key_pages", "new_value_pages": "value_pages"},
)
