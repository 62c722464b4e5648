"""Torch tensors as the inputs of an op: their dtypes by name, and their shapes counted in numbers.

Torch has no tensors of four-bit numbers: an input of `stored4` is uint8, with two numbers in a byte. Which
numbers, the scales of its groups say: float8_e4m3fn is the scale of float4_e2m1fn only (`ttc.plugins.ops`).

A stack of matrices that lies in square tiles (`ttc.plugins.weight_tiles`) has two dimensions more: those
within a tile, last.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ttc.plugins.ops import OpSpec
from ttc.plugins.weight_tiles import SIDES

__all__ = ["dtype_names", "logical_shapes", "tile_sides"]


def dtype_names(op: OpSpec, inputs: Sequence[Tensor]) -> list[str]:
    """Return the name of each input's dtype; of packed weights, that of the numbers in them."""
    scales = [x for spec, x in zip(op.inputs, inputs, strict=True) if spec.dtype == "group_scale"]
    in_bytes = "float4_e2m1fn" if any(x.dtype == torch.float8_e4m3fn for x in scales) else "int4"
    return [
        in_bytes
        if spec.dtype == "stored4" and x.dtype == torch.uint8
        else str(x.dtype).removeprefix("torch.")
        for spec, x in zip(op.inputs, inputs, strict=True)
    ]


def logical_shapes(op: OpSpec, inputs: Sequence[Tensor]) -> list[list[int]]:
    """Return the shape of each input, with two numbers for every byte of packed weights, and tiles put back
    into their rows.
    """
    shapes = [list(x.shape) for x in inputs]
    sides = tile_sides(op, inputs)
    for spec, shape in zip(op.inputs, shapes, strict=True):
        if spec.dtype == "stored4" and shape:
            shape[-1] *= 2
        if spec.name in sides:
            columns, rows = shape.pop(), shape.pop()
            shape[-2:] = [shape[-2] * rows, shape[-1] * columns]
    return shapes


def tile_sides(op: OpSpec, inputs: Sequence[Tensor]) -> dict[str, int]:
    """Return the inputs that lie in square tiles, with the side of those."""
    return {
        spec.name: x.shape[-2]
        for spec, x in zip(op.inputs, inputs, strict=True)
        if len(spec.shape) == 3
        and x.dim() == 5
        and x.shape[-2] == x.shape[-1] * (2 if spec.dtype == "stored4" else 1)
        and x.shape[-2] in SIDES
    }
