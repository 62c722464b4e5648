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
    $product
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
    $product
    rows = Mul (sums, scale)
}
"""

# The sums of the picked rows, and what is left to scale them by.
_PRODUCT = """
    less_f = Constant <value_float: float = 0.00390625> ()
    less = CastLike (less_f, $activations)
    weight = DequantizeLinear ($weights, less)
    weight_t = Transpose <perm: ints = [0, 2, 1]> (weight)
    projected = MatMul ($left, weight_t)
    by_cell = Reshape (projected, cells)
    picked = Gather <axis: int = 0> (by_cell, cell)
    sums = Cast <to: int = 1> (picked)
    own_scale = Gather <axis: int = 0> (${weights}_scale, expert)
    more = Constant <value_float: float = 256.0> ()
    scale = Mul (own_scale, more)
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
    passages = {"cell": CELL, "product": _PRODUCT, "activations": "x", "weights": "up", "left": "tokens"}
    return render(_UP, {**values, **passages, "width": values["I"]})


def moe_down_scaled(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `MoeDownScaled` for these fixed dimensions (K, E, I, D)."""
    passages = {"cell": CELL, "dense": DENSE, "product": _PRODUCT}
    names = {"activations": "activated", "weights": "down", "left": "dense"}
    return render(_DOWN, {**values, **passages, **names, "width": values["D"]})


def moe_experts_scaled(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `MoeExpertsScaled`; nothing in it depends on the model."""
    return _EXPERTS
