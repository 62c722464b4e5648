"""FLOPs of `GatedGroupNorm`."""

from collections.abc import Mapping

__all__ = ["gated_group_norm"]


def gated_group_norm(dims: Mapping[str, int]) -> float:
    """Return those of silu (3), the gate, and square, sum, scale and weight of every channel."""
    return 8 * dims["B"] * dims["L"] * dims["M"]
