"""How the grouped products of `ttc.plugins.grouped_product` are launched: constants, tiles, grid."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ttc.base.dims import evaluate
from ttc.plugins.launch import Dim, KernelSpec, Minimum, Problem, Tile, cdiv, power_of_two
from ttc.plugins.ops import OpSpec

__all__ = ["product_spec"]


def product_spec(
    op: OpSpec,
    kernel: Any,
    tiles: Sequence[Tile],
    inner: str,
    outer: str,
    *,
    gathered: bool,
    of_format: Callable[[Problem], Mapping[str, Any]] | None = None,
    select_tile: Callable[[Mapping[str, int]], int] | None = None,
    select_wide: Callable[[Mapping[str, int]], int] | None = None,
) -> KernelSpec:
    """Return the description of one of the two products.

    Args:
        op: its signature.
        kernel: the `triton.jit` function around `product`.
        tiles: without `select_tile`, two for few tokens and then two for more.
        inner: letter of the dimension that is summed over.
        outer: letter of the other dimension of the weights.
        gathered: whether it reads tokens and squares what is positive; else it reads rows.
        of_format: constants that depend on how weights are stored.
        select_tile: see `KernelSpec`.
        select_wide: see `KernelSpec`.
    """
    weight = op.inputs[1].name

    def constants(problem: Problem, tile: Tile) -> Mapping[str, Any]:
        wide = problem.dtype == "float32"
        return {
            "E": problem.dims["E"],
            "K": problem.dims["K"],
            "IN": problem.dims[inner],
            "OUT": problem.dims[outer],
            "PAIRS_PER_ROW": problem.dims["K"] if gathered else 0,
            "SQUARED_RELU": gathered,
            "PRECISION": "ieee" if wide else "tf32",  # asked of float32 products only
            "UPCAST": problem.interpreted and problem.dtype == "bfloat16",
            **({} if of_format is None else of_format(problem)),
            "SIDE": problem.weight_tiles.get(weight, 0),
            "BLOCK_E": power_of_two(problem.dims["E"]),
            "SIZES": 1,
            **tile.blocks,
            # In float32 half as many numbers, for the same shared memory (48 KiB at most).
            "BLOCK_K": tile.blocks["BLOCK_K"] // (2 if wide else 1),
        }

    return KernelSpec(
        op=op,
        kernel=kernel,
        changing=("T",),
        integers=("T*K",),
        tiled=(weight,),
        tiles=tuple(tiles),
        select_tile=select_tile or _select_tile,
        select_wide=select_wide,
        constants=constants,
        grid=_grid,
        work_in_values=True,
    )


def _grid(dims: Mapping[str, Dim], constants: Mapping[str, Any], minimum: Minimum) -> tuple[Dim, ...]:
    """Row tiles: at most one a pair, and at most one partly filled an expert."""
    pairs = evaluate("T*K", dims)
    row_tiles = minimum(pairs, pairs // constants["BLOCK_M"] + constants["E"])
    return cdiv(constants["OUT"], constants["BLOCK_N"]), row_tiles


def _select_tile(dims: Mapping[str, int]) -> int:
    """16 rows while an expert has two row tiles at most (a token chooses it once); beyond, by what it has."""
    return 0 if dims["T"] <= 32 else 2
