"""MoE routing: router logits → experts, weights, and the order that groups (token, expert) pairs by
expert.

A composite op of two parts:

    MoeRouting   = MoeChoice → MoeOrder
    MoeChoice    the K best experts of a token and their weights; a token asks no other
    MoeOrder     counts, offsets and places of the pairs

For few tokens one program does both faster than two launches (`ttc.plugins.moe_routing.kernel`).
"""

from ttc.plugins.ops import OpSpec

__all__ = ["MOE_CHOICE", "MOE_ORDER", "MOE_ROUTING", "OPS", "ORDER"]

_CHOSEN = ["expert_ids: int32 (T, K)", "weights: float32 (T, K)"]
_ORDERED = [
    "grouped_pairs: int32 (T*K)",
    "grouped_rows: int32 (T, K)",
    "expert_offsets: int32 (E+1)",
]
_ATTRIBUTES = {
    "K": "int",
    "n_group": "int",
    "topk_group": "int",
    "norm_topk_prob": "int",
    "routed_scaling_factor": "float",
}

MOE_ROUTING = OpSpec.make(
    __name__,
    "MoeRouting",
    "Choose K experts per token and group the (token, expert) pairs by expert.",
    inputs=["logits: float32 (T, E)", "correction_bias: float32 (E)"],
    outputs=[*_CHOSEN, *_ORDERED],
    attributes=_ATTRIBUTES,
    parts=("MoeChoice", "MoeOrder"),
    fused=True,
)
MOE_CHOICE = OpSpec.make(
    __name__,
    "MoeChoice",
    "Choose K experts per token, and their weights.",
    inputs=["logits: float32 (T, E)", "correction_bias: float32 (E)"],
    outputs=_CHOSEN,
    attributes=_ATTRIBUTES,
)
MOE_ORDER = OpSpec.make(
    __name__,
    "MoeOrder",
    "Group the (token, expert) pairs by expert; of correction_bias only the length counts.",
    inputs=["expert_ids: int32 (T, K)", "correction_bias: float32 (E)"],
    outputs=_ORDERED,
)
OPS = (MOE_ROUTING, MOE_CHOICE, MOE_ORDER)
ORDER = 10
