"""`PagedAttention` and its parts in ONNX: attention over a cache gathered from the pages."""

from collections.abc import Mapping
from typing import Any

from ttc.plugins.onnx_text import render

__all__ = ["page_splits", "paged_attention", "split_paged_attention"]

_GATHERED = """    paged_k = Gather (key_pages, pages)
    paged_v = Gather (value_pages, pages)
    k_bjozy = Transpose <perm: ints = [0, 2, 1, 3, 4]> (paged_k)
    v_bjozy = Transpose <perm: ints = [0, 2, 1, 3, 4]> (paged_v)
    joining = Constant <value_ints: ints = [0, 0, -1, $Y]> ()
    cached_keys = Reshape (k_bjozy, joining)
    cached_values = Reshape (v_bjozy, joining)
"""

_PAGED = """
PagedAttention <causal> (queries, keys, values, key_pages, value_pages, pages, lengths) => (mixed)
{
$gathered
    mixed = ttc.BlockAttention <causal: int = @causal> (queries, keys, values, cached_keys, cached_values,
    lengths)
}
"""

_SPLIT = """
SplitPagedAttention <causal, X, A> (queries, keys, values, key_pages, value_pages, pages, lengths) => (mixed)
{
    partial, lse = ttc.PageSplits <X: int = @X, A: int = @A> (queries, key_pages, value_pages, pages, lengths)
    mixed = ttc.AttentionMerge <causal: int = @causal> (queries, keys, values, partial, lse)
}
"""

_PAGE_SPLITS = """
PageSplits <X, A> (queries, key_pages, value_pages, pages, lengths) => (partial, lse)
{
$gathered
    partial, lse = ttc.CacheSplits <X: int = @X, A: int = @A> (queries, cached_keys, cached_values, lengths)
}
"""


def paged_attention(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `PagedAttention` for this fixed dimension (Y)."""
    return render(_PAGED, {"gathered": render(_GATHERED, {"Y": values["Y"]})})


def split_paged_attention(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `SplitPagedAttention`; nothing in it depends on the model."""
    return _SPLIT


def page_splits(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `PageSplits` for this fixed dimension (Y)."""
    return render(_PAGE_SPLITS, {"gathered": render(_GATHERED, {"Y": values["Y"]})})
