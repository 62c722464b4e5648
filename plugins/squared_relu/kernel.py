"""Triton kernel of `SquaredRelu`."""

import triton
import triton.language as tl

from ttc.plugins.launch import KernelSpec, Tile, cdiv
from ttc.plugins.squared_relu import SQUARED_RELU

__all__ = ["activate", "squared_relu"]


@triton.jit(do_not_specialize=["L"])
def activate(x_ptr, L, activated_ptr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Program (i, l, b). x, activated: (B, L, WIDTH). NaN stays NaN, as in torch."""
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    at = (tl.program_id(2).to(tl.int64) * L + tl.program_id(1)) * WIDTH + columns
    x = tl.load(x_ptr + at, mask=columns < WIDTH, other=0.0).to(tl.float32)
    x = tl.where(x < 0.0, 0.0, x)
    tl.store(activated_ptr + at, (x * x).to(activated_ptr.dtype.element_ty), mask=columns < WIDTH)


squared_relu = KernelSpec(
    op=SQUARED_RELU,
    kernel=activate,
    changing=("B", "L"),
    integers=("L",),
    tiles=(Tile("512", {"BLOCK": 512}, num_warps=4),),
    select_tile=lambda dims: 0,
    constants=lambda problem, tile: {"WIDTH": problem.dims["S"], **tile.blocks},
    grid=lambda dims, constants, minimum: (
        cdiv(constants["WIDTH"], constants["BLOCK"]),
        dims["L"],
        dims["B"],
    ),
)
