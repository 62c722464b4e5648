"""Dimensions of a graph as text: 64, "B", "6*B*L", "C + L".

A symbolic dimension is a sum of products of numbers and letters, as the tracer writes them. The letters are
B batch, L block length, C context capacity and R requested positions.
"""

import math
from collections.abc import Mapping, Sequence

__all__ = ["Dim", "Shape", "evaluate", "letters", "sizes_of", "substitute"]

Dim = int | str
Shape = tuple[Dim, ...]


def letters(dim: Dim) -> frozenset[str]:
    """The names that a dimension is made of."""
    if isinstance(dim, int):
        return frozenset()
    return frozenset(factor for factor in _factors(dim) if not factor.isdigit())


def evaluate(dim: Dim, sizes: Mapping[str, int]) -> int:
    """The number that a dimension is for these sizes of its letters; `KeyError` for a letter without one."""
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
