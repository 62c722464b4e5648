"""`MoeExperts` in standard ONNX operators: three nested functions, one per part.

Every expert is applied to every token as one batched matrix product, and the rows of the routed pairs are
picked from it (`MoeUp`), or set into it (`MoeDown`). That reads each expert's weights once and copies none,
whatever the routing, and has static shapes, so it can be captured; its price is E/K times the arithmetic, and
(E, T, I) of memory, 7.3 MB per token in bf16 at the real size. It is the path that is right everywhere; the
kernels are the path that is fast.
"""

from collections.abc import Mapping
from typing import Any

from ttc.plugins.onnx_text import render

__all__ = ["CELL", "DENSE", "moe_combine", "moe_down", "moe_experts", "moe_up"]

_UP = """
MoeUp (x, up, expert_ids, grouped_pairs, expert_offsets) => (activated)
{
    $cell
    axis_0 = Constant <value_ints: ints = [0]> ()
    x_1 = Unsqueeze (x, axis_0)
    up_t = Transpose <perm: ints = [0, 2, 1]> (up)
    projected = MatMul (x_1, up_t)
    by_cell = Reshape (projected, cells)
    picked = Gather <axis: int = 0> (by_cell, cell)
    positive = Relu (picked)
    activated = Mul (positive, positive)
}
"""

_DOWN = """
MoeDown (activated, down, expert_ids, grouped_pairs, expert_offsets) => (rows)
{
    $cell
    $dense
    down_t = Transpose <perm: ints = [0, 2, 1]> (down)
    projected = MatMul (dense, down_t)
    by_cell = Reshape (projected, cells)
    picked = Gather <axis: int = 0> (by_cell, cell)
    rows = Cast <to: int = 1> (picked)
}
"""

# The index of every row among the (expert, token) cells: pair p belongs to token p div K.
CELL = """
    minus_one = Constant <value_ints: ints = [-1]> ()
    column = Constant <value_ints: ints = [-1, 1]> ()
    cells = Constant <value_ints: ints = [-1, $width]> ()
    K = Constant <value_ints: ints = [$K]> ()
    T = Shape <start: int = 0, end: int = 1> (expert_ids)
    pair = Cast <to: int = 7> (grouped_pairs)
    token = Div (pair, K)
    experts_flat = Reshape (expert_ids, minus_one)
    expert_i32 = Gather (experts_flat, pair)
    expert = Cast <to: int = 7> (expert_i32)
    before = Mul (expert, T)
    cell = Add (before, token)
"""

# The rows of the pairs, each at its cell, as (E, T, I); nothing elsewhere.
DENSE = """
    E = Constant <value_ints: ints = [$E]> ()
    ET = Mul (E, T)
    I = Constant <value_ints: ints = [$I]> ()
    dense_shape = Concat <axis: int = 0> (ET, I)
    nothing_f = ConstantOfShape (dense_shape)
    nothing = CastLike (nothing_f, activated)
    cell_column = Reshape (cell, column)
    dense_flat = ScatterND (nothing, cell_column, activated)
    by_expert = Constant <value_ints: ints = [$E, -1, $I]> ()
    dense = Reshape (dense_flat, by_expert)
"""

_COMBINE = """
MoeCombine (rows, weights, grouped_rows) => (combined)
{
    axis_1 = Constant <value_ints: ints = [1]> ()
    axis_2 = Constant <value_ints: ints = [2]> ()
    own_rows = Gather <axis: int = 0> (rows, grouped_rows)
    weight = Unsqueeze (weights, axis_2)
    weighted = Mul (own_rows, weight)
    combined = ReduceSum <keepdims: int = 0> (weighted, axis_1)
}
"""

_EXPERTS = """
MoeExperts (x, up, down, expert_ids, weights, grouped_pairs, grouped_rows, expert_offsets) => (combined)
{
    activated = ttc.MoeUp (x, up, expert_ids, grouped_pairs, expert_offsets)
    rows = ttc.MoeDown (activated, down, expert_ids, grouped_pairs, expert_offsets)
    combined = ttc.MoeCombine (rows, weights, grouped_rows)
}
"""


def moe_up(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `MoeUp` for these fixed dimensions (K, I)."""
    return render(_UP, {**values, "cell": CELL, "width": values["I"]})


def moe_down(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `MoeDown` for these fixed dimensions (K, E, I, D)."""
    return render(_DOWN, {**values, "cell": CELL, "dense": DENSE, "width": values["D"]})


def moe_combine(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `MoeCombine`; nothing in it depends on the model."""
    return _COMBINE


def moe_experts(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `MoeExperts`; nothing in it depends on the model."""
    return _EXPERTS
