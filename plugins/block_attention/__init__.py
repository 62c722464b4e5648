"""Grouped-query attention of a block over the cache and itself, between the projections.

Of the cache only the first `lengths` tokens count, and only they are read.

    BlockAttention   in one launch; a program walks the whole context
    SplitAttention   the same, = CacheSplits → AttentionMerge
    CacheSplits      over each of X parts of a row's context: the mean of its values, and the logarithm of
                     the sum of its weights
    AttentionMerge   those and the block itself

`glue`: the bodies are a handful of products that engines have kernels for; torch would launch some
twenty-five kernels, and hold scores over the whole capacity. Pages in place of a cache:
`ttc.plugins.paged_attention`.
"""

from ttc.plugins.ops import OpSpec

__all__ = ["ATTENTION_MERGE", "BLOCK_ATTENTION", "CACHE_SPLITS", "OPS", "ORDER", "SPLIT_ATTENTION"]

_BLOCK = ["queries: compute (B, L, Q)", "keys: compute (B, L, J*Y)", "values: compute (B, L, J*Y)"]
_CACHE = ["cached_keys: compute (B, J, C, Y)", "cached_values: compute (B, J, C, Y)", "lengths: int32 (B)"]
_PARTS = ["partial: float32 (B, X, L, Q)", "lse: float32 (B, X, L, A)"]

BLOCK_ATTENTION = OpSpec.make(
    __name__,
    "BlockAttention",
    "Softmax attention of a block over cached tokens and the block itself.",
    inputs=[*_BLOCK, *_CACHE],
    outputs=["mixed: compute (B, L, Q)"],
    attributes={"causal": "int"},
    glue=True,
)
SPLIT_ATTENTION = OpSpec.make(
    __name__,
    "SplitAttention",
    "BlockAttention by parts of the cached tokens.",
    inputs=[*_BLOCK, *_CACHE],
    outputs=["mixed: compute (B, L, Q)"],
    attributes={"causal": "int", "X": "int", "A": "int"},
    parts=("CacheSplits", "AttentionMerge"),
)
CACHE_SPLITS = OpSpec.make(
    __name__,
    "CacheSplits",
    "Softmax attention over each part of the cached tokens, and the logarithm of its weight.",
    inputs=["queries: compute (B, L, Q)", *_CACHE],
    outputs=_PARTS,
    attributes={"X": "int", "A": "int"},
    glue=True,
)
ATTENTION_MERGE = OpSpec.make(
    __name__,
    "AttentionMerge",
    "Softmax attention over the parts of a context and the block itself.",
    inputs=[*_BLOCK, *_PARTS],
    outputs=["mixed: compute (B, L, Q)"],
    attributes={"causal": "int"},
    glue=True,
)
OPS = (BLOCK_ATTENTION, SPLIT_ATTENTION, CACHE_SPLITS, ATTENTION_MERGE)
ORDER = 63
