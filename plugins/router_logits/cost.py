"""FLOPs of `RouterLogits`."""

from collections.abc import Mapping

__all__ = ["router_logits"]


def router_logits(dims: Mapping[str, int]) -> float:
    """Return those of the product."""
    return 2 * dims["T"] * dims["E"] * dims["D"]
