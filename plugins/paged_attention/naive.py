"""The meaning of `PagedAttention` and its parts in torch: attention over a cache gathered from the pages."""

import torch
from torch import Tensor

from ttc.plugins.block_attention import naive as dense

__all__ = ["page_splits", "paged_attention", "split_paged_attention"]


def paged_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    pages: Tensor,
    lengths: Tensor,
    *,
    causal: int,
) -> tuple[Tensor]:
    """Return attention of the block over the first `lengths` tokens in its pages and itself.

    Args:
        queries: as of `ttc.plugins.block_attention.naive`, like the next two, `lengths` and `causal`.
        keys: (B, L, J·Y).
        values: (B, L, J·Y).
        key_pages: (U, J, 16, Y).
        value_pages: (U, J, 16, Y).
        pages: (B, O) int32; token p of row b is token p mod 16 of page pages[b, p div 16].
        lengths: (B,) int32.
        causal: 1 or 0.

    Returns:
        (B, L, Q) in the compute dtype.
    """
    caches = _gathered(key_pages, pages, lengths), _gathered(value_pages, pages, lengths)
    return dense.block_attention(queries, keys, values, *caches, lengths, causal=causal)


def split_paged_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    pages: Tensor,
    lengths: Tensor,
    *,
    causal: int,
    X: int,
    A: int,
) -> tuple[Tensor]:
    """Return the same: the parts X and the query heads A say how it is computed, not what."""
    return paged_attention(queries, keys, values, key_pages, value_pages, pages, lengths, causal=causal)


def page_splits(
    queries: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    pages: Tensor,
    lengths: Tensor,
    *,
    X: int,
    A: int,
) -> tuple[Tensor, Tensor]:
    """Return what `cache_splits` does of the tokens in the pages; arguments as of `paged_attention`."""
    caches = _gathered(key_pages, pages, lengths), _gathered(value_pages, pages, lengths)
    return dense.cache_splits(queries, *caches, lengths, X=X, A=A)


def _gathered(pool: Tensor, pages: Tensor, lengths: Tensor) -> Tensor:
    """Return the rows' pages one after another, (B, J, 16·O, Y), with zeros behind a row's length: what
    others left in a page may be no numbers.
    """
    whole = pool[pages.long()].transpose(1, 2).flatten(2, 3)
    counts = torch.arange(whole.shape[2], device=pool.device) < lengths[:, None]
    return torch.where(counts[:, None, :, None], whole, torch.zeros_like(whole))
