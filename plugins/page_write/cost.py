"""FLOPs of `PageWrite`: every number is moved."""

from collections.abc import Mapping

__all__ = ["page_write"]


def page_write(dims: Mapping[str, int]) -> float:
    """Return one for every number."""
    return 2 * dims["B"] * dims["L"] * dims["J"] * dims["Y"]
