"""FLOPs of routing."""

from collections.abc import Mapping

__all__ = ["moe_choice", "moe_order", "moe_routing"]


def moe_routing(dims: Mapping[str, int]) -> float:
    """Return the floating-point operations of one call for these sizes."""
    return moe_choice(dims) + moe_order(dims)


def moe_choice(dims: Mapping[str, int]) -> float:
    """Return the floating-point operations of one call for these sizes."""
    return dims["T"] * dims["E"] * (2 + dims["K"])


def moe_order(dims: Mapping[str, int]) -> float:
    """Return the operations of one call for these sizes: a pair is counted, and placed."""
    return 2 * dims["T"] * dims["K"]
