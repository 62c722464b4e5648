"""FLOPs of `MoeRouting`."""

from collections.abc import Mapping

__all__ = ["moe_routing"]


def moe_routing(dims: Mapping[str, int]) -> float:
    """Return the floating-point operations of one call for these sizes."""
    return dims["T"] * dims["E"] * (2 + dims["K"])
