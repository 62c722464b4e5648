"""Attention of a block over itself and a context that lies in pages of a pool.

A page has sixteen tokens of all KV heads. `pages` says for every row which page of the pool has its tokens
0 … 15, which the next, and so on; numbers behind what a row's length needs are not looked at.

    PagedAttention        `BlockAttention` of what the pages hold, in one launch
    SplitPagedAttention   the same, = PageSplits → AttentionMerge
    PageSplits            `CacheSplits` of what the pages hold
"""

from ttc.plugins.ops import OpSpec

__all__ = ["OPS", "ORDER", "PAGED_ATTENTION", "PAGE_SPLITS", "SPLIT_PAGED_ATTENTION"]

_BLOCK = ["queries: compute (B, L, Q)", "keys: compute (B, L, J*Y)", "values: compute (B, L, J*Y)"]
_PAGES = [
    "key_pages: compute (U, J, 16, Y)",
    "value_pages: compute (U, J, 16, Y)",
    "pages: int32 (B, O)",
    "lengths: int32 (B)",
]

PAGED_ATTENTION = OpSpec.make(
    __name__,
    "PagedAttention",
    "Softmax attention of a block over tokens in pages and the block itself.",
    inputs=[*_BLOCK, *_PAGES],
    outputs=["mixed: compute (B, L, Q)"],
    attributes={"causal": "int"},
    parts=("BlockAttention",),
    fused=True,
    glue=True,
)
SPLIT_PAGED_ATTENTION = OpSpec.make(
    __name__,
    "SplitPagedAttention",
    "PagedAttention by parts of the tokens in pages.",
    inputs=[*_BLOCK, *_PAGES],
    outputs=["mixed: compute (B, L, Q)"],
    attributes={"causal": "int", "X": "int", "A": "int"},
    parts=("PageSplits", "AttentionMerge"),
)
PAGE_SPLITS = OpSpec.make(
    __name__,
    "PageSplits",
    "Softmax attention over each part of the tokens in pages, and the logarithm of its weight.",
    inputs=["queries: compute (B, L, Q)", *_PAGES],
    outputs=["partial: float32 (B, X, L, Q)", "lse: float32 (B, X, L, A)"],
    attributes={"X": "int", "A": "int"},
    parts=("CacheSplits",),
    fused=True,
    glue=True,
)
OPS = (PAGED_ATTENTION, SPLIT_PAGED_ATTENTION, PAGE_SPLITS)
ORDER = 64
