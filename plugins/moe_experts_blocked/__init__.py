"""MoE experts whose weights are stored in four bits, with a scale for every group along the inner axis.

The ops of `ttc.plugins.moe_experts` with q, g and s in place of a weight q·g·s: q·g is rounded once to the
compute dtype, Σ x·(q·g) is summed in float32 and then scaled, and relu² is taken of that.

    NVFP4   q float4_e2m1fn, groups of 16 with g in float8_e4m3fn, and a scale s for every expert. q·g has at
            most six significant bits, so no compute dtype rounds it.
    int4    q int4, groups of 32 with g in the compute dtype; s is 1.

Two weights lie in a byte, the one with the even index in the lower half. How long the groups are, the shapes
say: DB groups along D, IB along I.
"""

from ttc.plugins.ops import OpSpec

__all__ = ["MOE_DOWN_BLOCKED", "MOE_EXPERTS_BLOCKED", "MOE_UP_BLOCKED", "OPS", "ORDER"]

MOE_UP_BLOCKED = OpSpec.make(
    __name__,
    "MoeUpBlocked",
    "relu((up·up_scale·x)·up_scale_2)² of every pair, rows ordered by expert.",
    inputs=[
        "x: compute (T, D)",
        "up: stored4 (E, I, D)",
        "up_scale: group_scale (E, I, DB)",
        "up_scale_2: float32 (E)",
        "expert_ids: int32 (T, K)",
        "grouped_pairs: int32 (T*K)",
        "expert_offsets: int32 (E+1)",
    ],
    outputs=["activated: compute (T*K, I)"],
)
MOE_DOWN_BLOCKED = OpSpec.make(
    __name__,
    "MoeDownBlocked",
    "(down·down_scale·activated)·down_scale_2 of every pair, rows ordered by expert.",
    inputs=[
        "activated: compute (T*K, I)",
        "down: stored4 (E, D, I)",
        "down_scale: group_scale (E, D, IB)",
        "down_scale_2: float32 (E)",
        "expert_ids: int32 (T, K)",
        "grouped_pairs: int32 (T*K)",
        "expert_offsets: int32 (E+1)",
    ],
    outputs=["rows: float32 (T*K, D)"],
)
MOE_EXPERTS_BLOCKED = OpSpec.make(
    __name__,
    "MoeExpertsBlocked",
    "MoeExperts of weights in four bits, a scale for every group and one for every expert.",
    inputs=[
        "x: compute (T, D)",
        "up: stored4 (E, I, D)",
        "up_scale: group_scale (E, I, DB)",
        "up_scale_2: float32 (E)",
        "down: stored4 (E, D, I)",
        "down_scale: group_scale (E, D, IB)",
        "down_scale_2: float32 (E)",
        "expert_ids: int32 (T, K)",
        "weights: float32 (T, K)",
        "grouped_pairs: int32 (T*K)",
        "grouped_rows: int32 (T, K)",
        "expert_offsets: int32 (E+1)",
    ],
    outputs=["combined: float32 (T, D)"],
    parts=("MoeUpBlocked", "MoeDownBlocked", "MoeCombine"),
)
OPS = (MOE_EXPERTS_BLOCKED, MOE_UP_BLOCKED, MOE_DOWN_BLOCKED)
ORDER = 22
