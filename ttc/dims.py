"""Dimensions of a graph as text: 64, "B", "6*B*L", "C + L".

A symbolic dimension is a sum of products of numbers and letters, as the tracer writes them. The letters are
B batch, L block length, C context capacity and R requested positions.
"""

from collections.abc import Mapping, Sequence

__all__ = ["Dim", "Shape", "evaluate", "letters", "sizes_of"]

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


def _factors(dim: str) -> list[str]:
    return [factor.strip() for term in dim.split("+") for factor in term.split("*")]
