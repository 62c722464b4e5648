"""`MoeExpertsScaled` in standard ONNX operators, on the plan of `ttc.plugins.moe_experts.function`.

A weight is dequantised by 1/256, a power of two and so exactly, which keeps the sums within float16; the rows
that are picked are scaled by 256·scale in float32. Why not by 1: TensorRT-RTX drops a scale of 1 and with it
the fusion that keeps a dequantised stack out of memory.
"""

from collections.abc import Mapping
from typing import Any

from ttc.plugins.moe_experts.function import CELL, DENSE
from ttc.plugins.onnx_text import render

__all__ = ["moe_down_scaled", "moe_experts_scaled", "moe_up_scaled"]

_UP = """
MoeUpScaled (x, up, up_scale, expert_ids, grouped_pairs, expert_offsets) => (activated)
{
    $cell
    axis_0 = Constant <value_ints: ints = [0]> ()
    tokens = Unsqueeze (x, axis_0)
    less_f = Constant <value_float: float = 0.00390625> ()
    less = CastLike (less_f, x)
    weight = DequantizeLinear (up, less)
    weight_t = Transpose <perm: ints = [0, 2, 1]> (weight)
    projected = MatMul (tokens, weight_t)
    by_cell = Reshape (projected, cells)
    picked = Gather <axis: int = 0> (by_cell, cell)
    sums = Cast <to: int = 1> (picked)
    own_scale = Gather <axis: int = 0> (up_scale, expert)
    more = Constant <value_float: float = 256.0> ()
    scale = Mul (own_scale, more)
    scaled = Mul (sums, scale)
    positive = Relu (scaled)
    squared = Mul (positive, positive)
    activated = CastLike (squared, x)
}
"""

_DOWN = """
MoeDownScaled (activated, down, down_scale, expert_ids, grouped_pairs, expert_offsets) => (rows)
{
    $cell
    $dense
    less_f = Constant <value_float: float = 0.00390625> ()
    less = CastLike (less_f, activated)
    weight = DequantizeLinear (down, less)
    weight_t = Transpose <perm: ints = [0, 2, 1]> (weight)
    projected = MatMul (dense, weight_t)
    by_cell = Reshape (projected, cells)
    picked = Gather <axis: int = 0> (by_cell, cell)
    sums = Cast <to: int = 1> (picked)
    own_scale = Gather <axis: int = 0> (down_scale, expert)
    more = Constant <value_float: float = 256.0> ()
    scale = Mul (own_scale, more)
    rows = Mul (sums, scale)
}
"""

_EXPERTS = """
MoeExpertsScaled (x, up, up_scale, down, down_scale, expert_ids, weights, grouped_pairs, grouped_rows,
    expert_offsets) => (combined)
{
    activated = ttc.MoeUpScaled (x, up, up_scale, expert_ids, grouped_pairs, expert_offsets)
    rows = ttc.MoeDownScaled (activated, down, down_scale, expert_ids, grouped_pairs, expert_offsets)
    combined = ttc.MoeCombine (rows, weights, grouped_rows)
}
"""


def moe_up_scaled(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `MoeUpScaled` for these fixed dimensions (K, I)."""
    return render(_UP, {**values, "cell": CELL, "width": values["I"]})


def moe_down_scaled(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `MoeDownScaled` for these fixed dimensions (K, E, I, D)."""
    return render(_DOWN, {**values, "cell": CELL, "dense": DENSE, "width": values["D"]})


def moe_experts_scaled(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `MoeExpertsScaled`; nothing in it depends on the model."""
    return _EXPERTS
