"""FLOPs of the two grouped products and of the weighted sum."""

from collections.abc import Mapping

__all__ = ["moe_combine", "moe_down", "moe_up"]


def moe_up(dims: Mapping[str, int]) -> float:
    """Return the floating-point operations of one call for these sizes."""
    return 2 * dims["T"] * dims["K"] * dims["I"] * (dims["D"] + 1)


def moe_down(dims: Mapping[str, int]) -> float:
    """Return the floating-point operations of one call for these sizes."""
    return 2 * dims["T"] * dims["K"] * dims["I"] * dims["D"]


def moe_combine(dims: Mapping[str, int]) -> float:
    """Return the floating-point operations of one call for these sizes."""
    return 2 * dims["T"] * dims["K"] * dims["D"]
