"""FLOPs of `SquaredRelu`."""

from collections.abc import Mapping

__all__ = ["squared_relu"]


def squared_relu(dims: Mapping[str, int]) -> float:
    """Return those of a comparison and a product of every number."""
    return 2 * dims["B"] * dims["L"] * dims["S"]
