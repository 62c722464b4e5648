"""MoE routing: router logits → experts, weights, and the order that groups (token, expert) pairs by
expert.
"""

from ttc.plugins.ops import OpSpec

__all__ = ["MOE_ROUTING", "OPS", "ORDER"]

MOE_ROUTING = OpSpec.make(
    __name__,
    "MoeRouting",
    "Choose K experts per token and group the (token, expert) pairs by expert.",
    inputs=["logits: float32 (T, E)", "correction_bias: float32 (E)"],
    outputs=[
        "expert_ids: int32 (T, K)",
        "weights: float32 (T, K)",
        "grouped_pairs: int32 (T*K)",
        "grouped_rows: int32 (T, K)",
        "expert_offsets: int32 (E+1)",
    ],
    attributes={
        "K": "int",
        "n_group": "int",
        "topk_group": "int",
        "norm_topk_prob": "int",
        "routed_scaling_factor": "float",
    },
)
OPS = (MOE_ROUTING,)
ORDER = 10
