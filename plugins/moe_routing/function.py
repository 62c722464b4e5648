"""`MoeRouting` in standard ONNX operators."""

from collections.abc import Mapping
from typing import Any

from ttc.plugins.onnx_text import render

__all__ = ["moe_choice", "moe_order", "moe_routing"]

_ROUTING = """
MoeRouting <K, n_group, topk_group, norm_topk_prob, routed_scaling_factor>
    (logits, correction_bias) => (expert_ids, weights, grouped_pairs, grouped_rows, expert_offsets)
{
    expert_ids, weights = ttc.MoeChoice <
        K: int = @K, n_group: int = @n_group, topk_group: int = @topk_group,
        norm_topk_prob: int = @norm_topk_prob, routed_scaling_factor: float = @routed_scaling_factor
    > (logits, correction_bias)
    grouped_pairs, grouped_rows, expert_offsets = ttc.MoeOrder (expert_ids, correction_bias)
}
"""

_CHOICE = """
MoeChoice <K, n_group, topk_group, norm_topk_prob, routed_scaling_factor>
    (logits, correction_bias) => (expert_ids, weights)
{
    k = Constant <value_ints: ints = [$K]> ()
    one = Constant <value_ints: ints = [1]> ()
    axis_minus_1 = Constant <value_ints: ints = [-1]> ()
    scores = Sigmoid (logits)
    free_choice = Add (scores, correction_bias)
    $group_limit
    best, experts = TopK <axis: int = -1, largest: int = 1, sorted: int = 1> (choice, k)
    expert_ids = Cast <to: int = 6> (experts)
    chosen = GatherElements <axis: int = 1> (scores, experts)
    $normalise
    scale = Constant <value_float: float = @routed_scaling_factor> ()
    weights = Mul (normalised, scale)
}
"""

# A counting sort written without loops: one-hot (T·K, E), its running count gives a pair's index inside its
# expert, the total counts give the expert's first row.
_ORDER = """
MoeOrder (expert_ids, correction_bias) => (grouped_pairs, grouped_rows, expert_offsets)
{
    zero = Constant <value_ints: ints = [0]> ()
    one = Constant <value_ints: ints = [1]> ()
    minus_one = Constant <value_ints: ints = [-1]> ()
    axis_0 = Constant <value_int: int = 0> ()
    axis_minus_1 = Constant <value_ints: ints = [-1]> ()
    flat = Reshape (expert_ids, minus_one)
    E_int = Constant <value: tensor = int32 {$E}> ()
    start = Constant <value: tensor = int32 {0}> ()
    delta = Constant <value: tensor = int32 {1}> ()
    all_experts = Range (start, E_int, delta)
    flat_column = Unsqueeze (flat, axis_minus_1)
    is_expert = Equal (flat_column, all_experts)
    hits = Cast <to: int = 6> (is_expert)
    running = CumSum (hits, axis_0)
    counts = ReduceSum <keepdims: int = 0> (hits, zero)
    ends = CumSum (counts, axis_0)
    start_1d = Reshape (start, one)
    expert_offsets = Concat <axis: int = 0> (start_1d, ends)
    starts = Sub (ends, counts)
    place_plus_one = Add (running, starts)
    rows_plus_one_of = Mul (place_plus_one, hits)
    rows_plus_one = ReduceSum <keepdims: int = 0> (rows_plus_one_of, axis_minus_1)
    rows = Sub (rows_plus_one, delta)
    pair_shape = Constant <value_ints: ints = [-1, $K]> ()
    grouped_rows = Reshape (rows, pair_shape)
    R = Shape (flat)
    R_scalar = Squeeze (R)
    R_int = Cast <to: int = 6> (R_scalar)
    pairs = Range (start, R_int, delta)
    rows_64 = Cast <to: int = 7> (rows)
    grouped_pairs = ScatterElements <axis: int = 0> (pairs, rows_64, pairs)
}
"""

_GROUP_LIMIT = """
    split = Constant <value_ints: ints = [0, $n_group, -1]> ()
    in_groups = Reshape (free_choice, split)
    two = Constant <value_ints: ints = [2]> ()
    two_best, two_best_ids = TopK <axis: int = -1> (in_groups, two)
    group_scores = ReduceSum <keepdims: int = 0> (two_best, axis_minus_1)
    kept_count = Constant <value_ints: ints = [$topk_group]> ()
    group_best, kept_groups = TopK <axis: int = -1> (group_scores, kept_count)
    kept_column = Unsqueeze (kept_groups, axis_minus_1)
    group_start = Constant <value: tensor = int64 {0}> ()
    group_delta = Constant <value: tensor = int64 {1}> ()
    group_count = Constant <value: tensor = int64 {$n_group}> ()
    all_groups = Range (group_start, group_count, group_delta)
    is_kept = Equal (kept_column, all_groups)
    kept_hits = Cast <to: int = 6> (is_kept)
    kept = ReduceMax <keepdims: int = 0> (kept_hits, one)
    keep = Cast <to: int = 9> (kept)
    keep_column = Unsqueeze (keep, axis_minus_1)
    nothing = Constant <value_float: float = 0.0> ()
    limited = Where (keep_column, in_groups, nothing)
    choice_shape = Constant <value_ints: ints = [-1, $E]> ()
    choice = Reshape (limited, choice_shape)
"""

_NORMALISE = """
    total = ReduceSum <keepdims: int = 1> (chosen, axis_minus_1)
    tiny = Constant <value_float: float = 1e-20> ()
    total_and_tiny = Add (total, tiny)
    normalised = Div (chosen, total_and_tiny)
"""


def moe_routing(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `MoeRouting`; nothing in it depends on the model."""
    return _ROUTING


def moe_choice(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `MoeChoice` for these attributes and fixed dimensions (E)."""
    group_limit = _GROUP_LIMIT if values["n_group"] > 1 else "choice = Identity (free_choice)"
    normalise = _NORMALISE if values["norm_topk_prob"] else "normalised = Identity (chosen)"
    return render(_CHOICE, {**values, "group_limit": group_limit, "normalise": normalise})


def moe_order(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `MoeOrder` for these fixed dimensions (K, E)."""
    return render(_ORDER, values)
