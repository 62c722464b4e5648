"""Grouped-query attention of a block over the cache and itself, between the projections.

Of the cache only the first `lengths` tokens count, and only they are read. `glue`: its body is a handful of
products that engines have kernels for; torch would launch some twenty-five kernels, and hold scores over the
whole capacity.
"""

from ttc.plugins.ops import OpSpec

__all__ = ["BLOCK_ATTENTION", "OPS", "ORDER"]

BLOCK_ATTENTION = OpSpec.make(
    __name__,
    "BlockAttention",
    "Softmax attention of a block over cached tokens and the block itself.",
    inputs=[
        "queries: compute (B, L, Q)",
        "keys: compute (B, L, J*Y)",
        "values: compute (B, L, J*Y)",
        "cached_keys: compute (B, J, C, Y)",
        "cached_values: compute (B, J, C, Y)",
        "lengths: int32 (B)",
    ],
    outputs=["mixed: compute (B, L, Q)"],
    attributes={"causal": "int"},
    glue=True,
)
OPS = (BLOCK_ATTENTION,)
ORDER = 63
