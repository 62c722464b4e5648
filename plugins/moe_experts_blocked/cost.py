"""FLOPs of the two grouped products; decoding a weight counts nothing, as its loading."""

from collections.abc import Mapping

__all__ = ["moe_down_blocked", "moe_up_blocked"]


def moe_up_blocked(dims: Mapping[str, int]) -> float:
    """Return the floating-point operations of one call for these sizes."""
    return 2 * dims["T"] * dims["K"] * dims["I"] * (dims["D"] + 1.5)


def moe_down_blocked(dims: Mapping[str, int]) -> float:
    """Return the floating-point operations of one call for these sizes."""
    return 2 * dims["T"] * dims["K"] * dims["D"] * (dims["I"] + 0.5)
