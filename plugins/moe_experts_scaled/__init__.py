"""MoE experts whose weights are stored in eight bits with a scale for every output channel.

The ops of `ttc.plugins.moe_experts` with q and s in place of a weight q·s: Σ x·q is summed in float32 and
then scaled, and relu² is taken of that. So no weight is ever rounded, and every one of them is one byte to
read.

q is int8 or float8_e4m3fn, as the checkpoint stores it.
"""

from ttc.plugins.ops import OpSpec

__all__ = ["MOE_DOWN_SCALED", "MOE_EXPERTS_SCALED", "MOE_UP_SCALED", "OPS", "ORDER"]

MOE_UP_SCALED = OpSpec.make(
    __name__,
    "MoeUpScaled",
    "relu((up·x)·up_scale)² of every pair, rows ordered by expert.",
    inputs=[
        "x: compute (T, D)",
        "up: stored8 (E, I, D)",
        "up_scale: float32 (E, I)",
        "expert_ids: int32 (T, K)",
        "grouped_pairs: int32 (T*K)",
        "expert_offsets: int32 (E+1)",
    ],
    outputs=["activated: compute (T*K, I)"],
)
MOE_DOWN_SCALED = OpSpec.make(
    __name__,
    "MoeDownScaled",
    "(down·activated)·down_scale of every pair, rows ordered by expert.",
    inputs=[
        "activated: compute (T*K, I)",
        "down: stored8 (E, D, I)",
        "down_scale: float32 (E, D)",
        "expert_ids: int32 (T, K)",
        "grouped_pairs: int32 (T*K)",
        "expert_offsets: int32 (E+1)",
    ],
    outputs=["rows: float32 (T*K, D)"],
)
MOE_EXPERTS_SCALED = OpSpec.make(
    __name__,
    "MoeExpertsScaled",
    "MoeExperts of weights in eight bits, a scale for every output channel.",
    inputs=[
        "x: compute (T, D)",
        "up: stored8 (E, I, D)",
        "up_scale: float32 (E, I)",
        "down: stored8 (E, D, I)",
        "down_scale: float32 (E, D)",
        "expert_ids: int32 (T, K)",
        "weights: float32 (T, K)",
        "grouped_pairs: int32 (T*K)",
        "grouped_rows: int32 (T, K)",
        "expert_offsets: int32 (E+1)",
    ],
    outputs=["combined: float32 (T, D)"],
    parts=("MoeUpScaled", "MoeDownScaled", "MoeCombine"),
)
OPS = (MOE_EXPERTS_SCALED, MOE_UP_SCALED, MOE_DOWN_SCALED)
ORDER = 21
