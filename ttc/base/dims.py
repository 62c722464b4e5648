"""Dimensions as text: 64, "B", "6*B*L", "C + L", "W-1".

A symbolic dimension is a sum of products of numbers and letters, as the tracer writes them and as the
signatures of the ops are written. In a graph of the model the letters are B batch, L block length, C context
capacity and R requested positions; `ttc.plugins.ops` says what they are in a signature. A letter less a
number ("W-1") counts as one factor.
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, TypeVar

__all__ = ["Dim", "Shape", "evaluate", "letters", "sizes_of", "substitute"]

Dim = int | str
Shape = tuple[Dim, ...]
Size = TypeVar("Size")

# One capital letter only: names such as "batch-size" in graphs that others made are names.
_LESS = re.compile(r"([A-Z])\s*-\s*(\d+)")


def letters(dim: Dim) -> frozenset[str]:
    """Return the names that a dimension is made of."""
    if isinstance(dim, int):
        return frozenset()
    named = (factor for factors in _terms(dim) for factor in factors if not factor.isdigit())
    return frozenset(less[1] if (less := _LESS.fullmatch(name)) else name for name in named)


def evaluate(dim: Dim, sizes: Mapping[str, Size]) -> Size | int:
    """Return what a dimension is for these sizes of its letters.

    A size may be an int, a dimension as text, torch's `SymInt`, or a symbolic dimension of TensorRT, which
    takes an int on its right only.

    Args:
        dim: the dimension.
        sizes: letter → size; a whole dimension ("T*K") that has a size here is not computed again.

    Raises:
        KeyError: a letter has no size.
    """
    if isinstance(dim, int):
        return dim
    if dim in sizes:
        return sizes[dim]
    products = [reduce(_times, [_size(factor, sizes) for factor in factors]) for factors in _terms(dim)]
    total: Size | int = reduce(_plus, products)
    return total


def sizes_of(shape: Sequence[Dim], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Return a shape in numbers."""
    return tuple(evaluate(dim, sizes) for dim in shape)


def substitute(dim: Dim, sizes: Mapping[str, int]) -> Dim:
    """Return a dimension with these letters replaced by numbers; a number once nothing else is left in it."""
    if isinstance(dim, int) or not letters(dim) & sizes.keys():
        return dim
    number, open_terms = 0, []
    for factors in _terms(dim):
        unknown = [factor for factor in factors if letters(factor) - sizes.keys() and not factor.isdigit()]
        product = math.prod(_size(factor, sizes) for factor in factors if factor not in unknown)
        if unknown:
            open_terms.append("*".join([str(product)] * (product != 1) + unknown))
        else:
            number += product
    if not open_terms:
        return number
    return " + ".join(open_terms + [str(number)] * (number != 0))


def _terms(dim: str) -> list[list[str]]:
    """The factors of every term of the sum."""
    return [[factor.strip() for factor in term.split("*")] for term in dim.split("+")]


def _size(factor: str, sizes: Mapping[str, Any]) -> Any:
    if factor.isdigit():
        return int(factor)
    less = _LESS.fullmatch(factor)
    if less and factor not in sizes:
        return sizes[less[1]] - int(less[2])
    return sizes[factor]


def _times(a: Any, b: Any) -> Any:
    if not isinstance(a, str) and not isinstance(b, str):
        return b * a if isinstance(a, int) else a * b
    if 1 in (a, b):
        return b if a == 1 else a
    return " + ".join(f"{x.strip()}*{y.strip()}" for x in str(a).split("+") for y in str(b).split("+"))


def _plus(a: Any, b: Any) -> Any:
    if not isinstance(a, str) and not isinstance(b, str):
        return b + a if isinstance(a, int) else a + b
    if 0 in (a, b):
        return b if a == 0 else a
    return f"{a} + {b}"
