"""`MoeExpertsBlocked` in standard ONNX operators, on the plan of `ttc.plugins.moe_experts.function`.

TensorRT-RTX has no product of four-bit weights that it is given as inputs: it writes the dequantised stack to
memory. Multiplied from the left, weight · xᵀ, it writes it once; transposed as in the other bodies, twice.

NVFP4's group scales are dequantised by 1/256, exactly, and the rows that are picked scaled by 256·scale_2 in
float32, for the reason that `ttc.plugins.moe_experts_scaled.function` has. NVFP4 needs opset 23, whose
DequantizeLinear is the first to take float4_e2m1fn.
"""

from collections.abc import Mapping
from typing import Any

from ttc.plugins.moe_experts.function import CELL, DENSE
from ttc.plugins.onnx_text import render

__all__ = ["moe_down_blocked", "moe_experts_blocked", "moe_up_blocked"]

_UP = """
MoeUpBlocked (x, up, up_scale, up_scale_2, expert_ids, grouped_pairs, expert_offsets) => (activated)
{
    $cell
    axis_0 = Constant <value_ints: ints = [0]> ()
    x_t = Transpose <perm: ints = [1, 0]> (x)
    tokens = Unsqueeze (x_t, axis_0)
    $decode
    projected_t = MatMul (weight, tokens)
    projected = Transpose <perm: ints = [0, 2, 1]> (projected_t)
    by_cell = Reshape (projected, cells)
    picked = Gather <axis: int = 0> (by_cell, cell)
    $scaled
    positive = Relu (scaled)
    squared = Mul (positive, positive)
    activated = CastLike (squared, x)
}
"""

_DOWN = """
MoeDownBlocked (activated, down, down_scale, down_scale_2, expert_ids, grouped_pairs, expert_offsets) =>
(rows) {
    $cell
    $dense
    dense_t = Transpose <perm: ints = [0, 2, 1]> (dense)
    $decode
    projected_t = MatMul (weight, dense_t)
    projected = Transpose <perm: ints = [0, 2, 1]> (projected_t)
    by_cell = Reshape (projected, cells)
    picked = Gather <axis: int = 0> (by_cell, cell)
    $scaled
    rows = Identity (scaled)
}
"""

_DECODE = {
    "float4_e2m1fn": """
    less_f = Constant <value_float: float = 0.00390625> ()
    less = CastLike (less_f, $activations)
    group_scale = DequantizeLinear (${weights}_scale, less)
    weight = DequantizeLinear <axis: int = 2, block_size: int = $group> ($weights, group_scale)
""",
    "int4": """
    weight = DequantizeLinear <axis: int = 2, block_size: int = $group> ($weights, ${weights}_scale)
""",
}

_SCALED = """
    sums = Cast <to: int = 1> (picked)
    own_scale = Gather <axis: int = 0> (${weights}_scale_2, expert)
    more = Constant <value_float: float = $more> ()
    scale = Mul (own_scale, more)
    scale_column = Reshape (scale, column)
    scaled = Mul (sums, scale_column)
"""

_EXPERTS = """
MoeExpertsBlocked (x, up, up_scale, up_scale_2, down, down_scale, down_scale_2, expert_ids, weights,
    grouped_pairs, grouped_rows, expert_offsets) => (combined)
{
    activated = ttc.MoeUpBlocked (x, up, up_scale, up_scale_2, expert_ids, grouped_pairs, expert_offsets)
    rows = ttc.MoeDownBlocked (
        activated, down, down_scale, down_scale_2, expert_ids, grouped_pairs, expert_offsets
    )
    combined = ttc.MoeCombine (rows, weights, grouped_rows)
}
"""


def moe_up_blocked(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `MoeUpBlocked` for these fixed dimensions (K, I, D, DB) and `stored4`."""
    return _product(_UP, values, "x", "up", "D", "I")


def moe_down_blocked(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `MoeDownBlocked` for these fixed dimensions (K, E, I, D, IB) and `stored4`."""
    return _product(_DOWN, values, "activated", "down", "I", "D")


def moe_experts_blocked(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `MoeExpertsBlocked`; nothing in it depends on the model."""
    return _EXPERTS


def _product(
    text: str, values: Mapping[str, Any], activations: str, weights: str, inner: str, outer: str
) -> str:
    stored = values["stored4"]
    passages = {
        "cell": CELL,
        "dense": DENSE,
        "decode": _DECODE[stored],
        "scaled": _SCALED,
        "activations": activations,
        "weights": weights,
        "group": values[inner] // values[f"{inner}B"],
        "more": "256.0" if stored == "float4_e2m1fn" else "1.0",
        "width": values[outer],
    }
    return render(text, {**values, **passages})
