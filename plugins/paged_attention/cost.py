"""FLOPs of attention over full pages: those over a cache as large."""

from collections.abc import Mapping

from ttc.plugins.block_attention import cost

__all__ = ["page_splits", "paged_attention"]


def paged_attention(dims: Mapping[str, int]) -> float:
    """Return those over pages and block."""
    return cost.block_attention({**dims, "C": 16 * dims["O"]})


def page_splits(dims: Mapping[str, int]) -> float:
    """Return those over pages."""
    return cost.cache_splits({**dims, "C": 16 * dims["O"]})
