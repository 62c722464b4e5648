"""The router's product, in float32 whatever the tower computes in: near-ties decide the choice of experts.

`glue`: torch would widen the tokens in one launch and multiply in another, and the library's product of so
few numbers is bound by its own latency.
"""

from ttc.plugins.ops import OpSpec

__all__ = ["OPS", "ORDER", "ROUTER_LOGITS"]

ROUTER_LOGITS = OpSpec.make(
    __name__,
    "RouterLogits",
    "A token's score for every expert, in float32.",
    inputs=["x: compute (T, D)", "gate: float32 (E, D)"],
    outputs=["logits: float32 (T, E)"],
    glue=True,
)
OPS = (ROUTER_LOGITS,)
ORDER = 9
