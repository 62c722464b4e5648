"""MoE experts: down(relu(up·x)²) of every routed pair, and their weighted sum per token.

One composite op of three parts: `MoeUp` and `MoeDown` are grouped matrix products over pairs ordered by
expert, `MoeCombine` sums.
"""

from ttc.plugins.ops import OpSpec

__all__ = ["MOE_COMBINE", "MOE_DOWN", "MOE_EXPERTS", "MOE_UP", "OPS", "ORDER"]

MOE_UP = OpSpec.make(
    __name__,
    "MoeUp",
    "relu(up·x)² of every pair, rows ordered by expert.",
    inputs=[
        "x: compute (T, D)",
        "up: compute (E, I, D)",
        "expert_ids: int32 (T, K)",
        "grouped_pairs: int32 (T*K)",
        "expert_offsets: int32 (E+1)",
    ],
    outputs=["activated: compute (T*K, I)"],
)
MOE_DOWN = OpSpec.make(
    __name__,
    "MoeDown",
    "down·activated of every pair, rows ordered by expert.",
    inputs=[
        "activated: compute (T*K, I)",
        "down: compute (E, D, I)",
        "expert_ids: int32 (T, K)",
        "grouped_pairs: int32 (T*K)",
        "expert_offsets: int32 (E+1)",
    ],
    outputs=["rows: float32 (T*K, D)"],
)
MOE_COMBINE = OpSpec.make(
    __name__,
    "MoeCombine",
    "Weighted sum of a token's K rows.",
    inputs=["rows: float32 (T*K, D)", "weights: float32 (T, K)", "grouped_rows: int32 (T, K)"],
    outputs=["combined: float32 (T, D)"],
)
MOE_EXPERTS = OpSpec.make(
    __name__,
    "MoeExperts",
    "The routed experts' share of a MoE layer's output.",
    inputs=[
        "x: compute (T, D)",
        "up: compute (E, I, D)",
        "down: compute (E, D, I)",
        "expert_ids: int32 (T, K)",
        "weights: float32 (T, K)",
        "grouped_pairs: int32 (T*K)",
        "grouped_rows: int32 (T, K)",
        "expert_offsets: int32 (E+1)",
    ],
    outputs=["combined: float32 (T, D)"],
    parts=("MoeUp", "MoeDown", "MoeCombine"),
)
OPS = (MOE_EXPERTS, MOE_UP, MOE_DOWN, MOE_COMBINE)
ORDER = 20
