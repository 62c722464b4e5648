"""Between a Mamba mixer's scan and its last projection: the gate by z, then a norm of each group of channels.

`glue`, as the ops of `ttc.plugins.residual_stream` are.
"""

from ttc.plugins.ops import OpSpec

__all__ = ["GATED_GROUP_NORM", "OPS", "ORDER"]

GATED_GROUP_NORM = OpSpec.make(
    __name__,
    "GatedGroupNorm",
    "RMSNorm over each of G groups of channels of y·silu(z), in float32.",
    inputs=["y: compute (B, L, M)", "z: compute (B, L, M)", "weight: compute (M)"],
    outputs=["normed: compute (B, L, M)"],
    attributes={"G": "int", "epsilon": "float"},
    glue=True,
)
OPS = (GATED_GROUP_NORM,)
ORDER = 61
