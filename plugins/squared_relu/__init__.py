"""relu(x)², the activation of MLPs and shared experts. `glue`, like `ttc.plugins.residual_stream`."""

from ttc.plugins.ops import OpSpec

__all__ = ["OPS", "ORDER", "SQUARED_RELU"]

SQUARED_RELU = OpSpec.make(
    __name__,
    "SquaredRelu",
    "relu(x)² of every number.",
    inputs=["x: compute (B, L, S)"],
    outputs=["activated: compute (B, L, S)"],
    glue=True,
)
OPS = (SQUARED_RELU,)
ORDER = 62
