"""FLOPs of `BlockAttention` over a full cache."""

from collections.abc import Mapping

__all__ = ["block_attention"]


def block_attention(dims: Mapping[str, int]) -> float:
    """Return those of both products and the softmax."""
    B, L, C, Q, Y = (dims[letter] for letter in "BLCQY")
    return B * L * (C + L) * (4 * Q + 5 * Q / Y)
