"""Stacks of expert weights in square tiles, for kernels that we launch ourselves.

A program of a grouped product reads a strip of an expert's matrix: 64 output channels, all that they sum
over. In rows that is 64 stretches of a few hundred bytes at a time, thousands of bytes apart. In tiles of
64 × 64, one behind the other along a strip, it is one stretch from the strip's first byte to its last.

Graphs, engines and the CPU have rows, (E, OUT, IN); only torch on a GPU has tiles, (E, OUT / s, IN / s, s, s)
in the same memory.
"""

import torch
from torch import Tensor

__all__ = ["SIDES", "as_tiles", "in_rows", "in_tiles", "tile_side"]

SIDES = (64, 32, 16)
# What a thread loads at once; a row of a tile is not shorter.
_LEAST_ROW_BYTES = 16


def tile_side(rows: int, columns: int, bits: int) -> int | None:
    """Return the side of the tiles that a matrix fills, of elements of so many bits; None: it fills none."""
    fits = (side for side in SIDES if side * bits >= 8 * _LEAST_ROW_BYTES)
    return next((side for side in fits if rows % side == columns % side == 0), None)


def in_tiles(stack: Tensor) -> Tensor:
    """Lay a stack (E, OUT, IN) in tiles within its own memory, an expert at a time, and return it as such.

    stack: contiguous; of four bits (E, OUT, IN / 2) uint8. It comes back as it is where it fills no tiles.
    """
    tiled = as_tiles(stack)
    if tiled is stack:
        return stack
    _, high, wide, side, width = tiled.shape
    for before, after in zip(_bits(stack), _bits(tiled), strict=True):
        tiles = before.view(high, side, wide, width).transpose(1, 2)
        after.copy_(tiles.clone(memory_format=torch.contiguous_format))
    return tiled


def as_tiles(stack: Tensor) -> Tensor:
    """Return a stack's memory as tiles, whatever is in it; arguments as of `in_tiles`."""
    packed = 2 if stack.dtype == torch.uint8 else 1
    E, rows, columns = stack.shape
    side = tile_side(rows, columns * packed, 8 * stack.element_size() // packed)
    if side is None:
        return stack
    width = side // packed
    return stack.view(E, rows // side, columns // width, side, width)


def in_rows(tiled: Tensor) -> Tensor:
    """Return the stack (E, OUT, IN) that lies in these tiles, in memory of its own."""
    E, high, wide, side, width = tiled.shape
    rows = _bits(tiled).transpose(2, 3).clone(memory_format=torch.contiguous_format)
    return rows.view(E, high * side, wide * width).view(tiled.dtype)


def _bits(tensor: Tensor) -> Tensor:
    """The same memory in a dtype that torch copies everywhere."""
    return tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor
