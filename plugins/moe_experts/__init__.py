"""MoE experts: down(relu(up·x)²) of every (token, expert) pair, and their weighted sum per token.

A composite op of three parts:

    MoeExperts   = MoeUp → MoeDown → MoeCombine
    MoeUp        relu(up·x)²     grouped matrix product over pairs ordered by expert
    MoeDown      down·activated  grouped matrix product over the same pairs
    MoeCombine   Σ weight·row    sum over the K pairs of a token

Who uses which file:

    naive.py      torch backend without kernels; the yardstick of the tests
    function.py   body in the ONNX files: ONNX Runtime, and whatever inlines it
    kernel.py     Triton: torch backend on CUDA, plugins in TensorRT's engines, ops between the engines of a
                  partitioned graph; the composite op has none, exporter/passes/inline_composites.py puts
                  its parts in its place
    cost.py       `ttc plan` and `ttc profile`

Their order comes from `ttc.plugins.moe_routing`.
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
