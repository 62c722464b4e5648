"""FLOPs of attention over a full cache: both products and the softmax."""

from collections.abc import Mapping

__all__ = ["attention_merge", "block_attention", "cache_splits"]


def block_attention(dims: Mapping[str, int]) -> float:
    """Return those over cache and block."""
    return _over(dims, dims["C"] + dims["L"])


def cache_splits(dims: Mapping[str, int]) -> float:
    """Return those over the cache."""
    return _over(dims, dims["C"])


def attention_merge(dims: Mapping[str, int]) -> float:
    """Return those over the block, and of the weighted sum of the parts."""
    B, L, X, Q = (dims[letter] for letter in "BLXQ")
    return _over({**dims, "Y": Q // dims["A"]}, L) + B * L * X * (2 * Q + 2 * dims["A"])


def _over(dims: Mapping[str, int], keys: int) -> float:
    B, L, Q, Y = (dims[letter] for letter in "BLQY")
    return B * L * keys * (4 * Q + 5 * Q / Y)
