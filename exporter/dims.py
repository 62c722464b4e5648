"""Dimensions of a graph as text: 64, "B", "6*B*L", "C + L".

A symbolic dimension is a sum of products of numbers and letters, as the tracer writes them. The letters are
B batch, L block length, C context capacity and R requested positions.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from ttc.errors import InputError

__all__ = ["Dim", "Shape", "Symbol", "evaluate", "letters", "shape_of", "sizes_of", "substitute"]

Dim = int | str
Shape = tuple[Dim, ...]


class Symbol(str):
    """A dimension that can be multiplied and added, for `OpSpec.output_shapes`."""

    __slots__ = ()

    def __mul__(self, other: Any) -> Any:
        return self if other == 1 else Symbol(f"{self}*{other}")

    def __add__(self, other: Any) -> Any:
        return self if other == 0 else Symbol(f"{self} + {other}")

    __rmul__, __radd__ = __mul__, __add__


def shape_of(value: ir.Value) -> Shape:
    """The shape of a value, symbolic dimensions as text; `InputError` for a dimension without a name."""
    if value.shape is None:
        raise InputError(
            f"tensor {value.name!r} has no shape in the graph; run ONNX shape inference on it first"
        )
    dims: list[Dim] = []
    for dim in value.shape:
        if isinstance(dim, int):
            dims.append(dim)
        elif dim.value is not None:
            dims.append(dim.value)
        else:
            raise InputError(f"tensor {value.name!r} has a dimension without a name; name it in the graph")
    return tuple(dims)


def letters(dim: Dim) -> frozenset[str]:
    """The names that a dimension is made of."""
    if isinstance(dim, int):
        return frozenset()
    return frozenset(factor for factor in _factors(dim) if not factor.isdigit())


def evaluate(dim: Dim, sizes: Mapping[str, int]) -> int:
    """The number that a dimension is for these sizes of its letters."""
    if isinstance(dim, int):
        return dim
    total = 0
    for term in dim.split("+"):
        product = 1
        for factor in term.split("*"):
            word = factor.strip()
            product *= int(word) if word.isdigit() else sizes[word]
        total += product
    return total


def sizes_of(shape: Sequence[Dim], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """A shape in numbers."""
    return tuple(evaluate(dim, sizes) for dim in shape)


def substitute(dim: Dim, sizes: Mapping[str, int]) -> Dim:
    """A dimension with these letters replaced by numbers; a number once nothing else is left in it."""
    if isinstance(dim, int) or not letters(dim) & sizes.keys():
        return dim
    number, open_terms = 0, []
    for term in dim.split("+"):
        factors = [factor.strip() for factor in term.split("*")]
        product = math.prod(sizes.get(factor, int(factor) if factor.isdigit() else 1) for factor in factors)
        unknown = [factor for factor in factors if not factor.isdigit() and factor not in sizes]
        if unknown:
            open_terms.append("*".join([str(product)] * (product != 1) + unknown))
        else:
            number += product
    if not open_terms:
        return number
    return " + ".join(open_terms + [str(number)] * (number != 0))


def _factors(dim: str) -> list[str]:
    return [factor.strip() for term in dim.split("+") for factor in term.split("*")]
