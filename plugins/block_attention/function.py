"""`BlockAttention` and its parts in standard ONNX operators."""

from collections.abc import Mapping
from typing import Any

from ttc.base.dims import evaluate
from ttc.plugins.attention_splits import GRAIN
from ttc.plugins.onnx_text import render

__all__ = ["attention_merge", "block_attention", "cache_splits", "split_attention"]

_TEXT = """
BlockAttention <causal> (queries, keys, values, cached_keys, cached_values, lengths) => (mixed)
{
    by_head = Constant <value_ints: ints = [0, 0, $J, $per_kv, $Y]> ()
    q_blhgy = Reshape (queries, by_head)
    q_bhlgy = Transpose <perm: ints = [0, 2, 1, 3, 4]> (q_blhgy)
    folding = Constant <value_ints: ints = [0, $J, -1, $Y]> ()
    folded = Reshape (q_bhlgy, folding)
    kv_by_head = Constant <value_ints: ints = [0, 0, $J, $Y]> ()
    k_blhy = Reshape (keys, kv_by_head)
    v_blhy = Reshape (values, kv_by_head)
    keys_t = Transpose <perm: ints = [0, 2, 3, 1]> (k_blhy)
    own_values = Transpose <perm: ints = [0, 2, 1, 3]> (v_blhy)
    cached_t = Transpose <perm: ints = [0, 1, 3, 2]> (cached_keys)
    products_cache = MatMul (folded, cached_t)
    products_block = MatMul (folded, keys_t)
    products_cache_f = Cast <to: int = 1> (products_cache)
    products_block_f = Cast <to: int = 1> (products_block)
    scale = Constant <value_float: float = $scale> ()
    scores_cache = Mul (products_cache_f, scale)
    scores_block = Mul (products_block_f, scale)

    start = Constant <value: tensor = int32 {0}> ()
    delta = Constant <value: tensor = int32 {1}> ()
    never = Constant <value_float: float = -inf> ()
    C = Shape <start: int = 2, end: int = 3> (cached_keys)
    L = Shape <start: int = 1, end: int = 2> (keys)
    C_scalar = Squeeze (C)
    L_scalar = Squeeze (L)
    C_int = Cast <to: int = 6> (C_scalar)
    L_int = Cast <to: int = 6> (L_scalar)
    places = Range (start, C_int, delta)
    row_axes = Constant <value_ints: ints = [1, 2, 3]> ()
    length = Unsqueeze (lengths, row_axes)
    in_context = Less (places, length)
    over_cache = Where (in_context, scores_cache, never)
    $mask
    scores = Concat <axis: int = 3> (over_cache, over_block)
    weight_f = Softmax <axis: int = -1> (scores)
    weight = CastLike (weight_f, queries)
    both = Concat <axis: int = 0> (C, L)
    weight_cache, weight_block = Split <axis: int = 3> (weight, both)
    mixed_cache = MatMul (weight_cache, cached_values)
    mixed_block = MatMul (weight_block, own_values)
    mixed_bhry = Add (mixed_cache, mixed_block)
    unfolding = Constant <value_ints: ints = [0, $J, -1, $per_kv, $Y]> ()
    mixed_bhlgy = Reshape (mixed_bhry, unfolding)
    mixed_blhgy = Transpose <perm: ints = [0, 2, 1, 3, 4]> (mixed_bhlgy)
    flat = Constant <value_ints: ints = [0, 0, $Q]> ()
    mixed = Reshape (mixed_blhgy, flat)
}
"""

_CAUSAL = """
    block_places = Range (start, L_int, delta)
    per_kv = Constant <value: tensor = int32 {$per_kv}> ()
    rows = Mul (L_int, per_kv)
    row_places = Range (start, rows, delta)
    row_token = Div (row_places, per_kv)
    last_axis = Constant <value_ints: ints = [1]> ()
    token = Unsqueeze (row_token, last_axis)
    seen = LessOrEqual (block_places, token)
    over_block = Where (seen, scores_block, never)
"""

_SPLIT = """
SplitAttention <causal, X, A> (queries, keys, values, cached_keys, cached_values, lengths) => (mixed)
{
    partial, lse = ttc.CacheSplits <X: int = @X, A: int = @A> (queries, cached_keys, cached_values, lengths)
    mixed = ttc.AttentionMerge <causal: int = @causal> (queries, keys, values, partial, lse)
}
"""

_CACHE_SPLITS = """
CacheSplits <X, A> (queries, cached_keys, cached_values, lengths) => (partial, lse)
{
    by_head = Constant <value_ints: ints = [0, 0, $J, $per_kv, $Y]> ()
    q_blhgy = Reshape (queries, by_head)
    q_bhlgy = Transpose <perm: ints = [0, 2, 1, 3, 4]> (q_blhgy)
    folding = Constant <value_ints: ints = [0, $J, -1, $Y]> ()
    folded = Reshape (q_bhlgy, folding)
    cached_t = Transpose <perm: ints = [0, 1, 3, 2]> (cached_keys)
    products = MatMul (folded, cached_t)
    products_f = Cast <to: int = 1> (products)
    scale = Constant <value_float: float = $scale> ()
    scores = Mul (products_f, scale)

    zero = Constant <value: tensor = int32 {0}> ()
    one = Constant <value: tensor = int32 {1}> ()
    grain = Constant <value: tensor = int32 {$grain}> ()
    grain_less = Constant <value: tensor = int32 {$grain_less}> ()
    parts = Constant <value: tensor = int32 {$X}> ()
    parts_less = Constant <value: tensor = int32 {$X_less}> ()
    C = Shape <start: int = 2, end: int = 3> (cached_keys)
    C_scalar = Squeeze (C)
    C_int = Cast <to: int = 6> (C_scalar)
    at_least = Max (lengths, zero)
    length_b = Min (at_least, C_int)
    up = Add (length_b, grain_less)
    grains = Div (up, grain)
    grains_up = Add (grains, parts_less)
    grains_each = Div (grains_up, parts)
    width_b = Mul (grains_each, grain)
    divisor_b = Max (width_b, one)
    second = Constant <value_ints: ints = [1]> ()
    length = Unsqueeze (length_b, second)
    divisor = Unsqueeze (divisor_b, second)
    places = Range (zero, C_int, one)
    inside = Less (places, length)
    of_place = Div (places, divisor)
    part_bc = Where (inside, of_place, parts)
    part = Unsqueeze (part_bc, second)
    numbers = Range (zero, parts, one)
    number = Unsqueeze (numbers, second)
    mine_bxc = Equal (part, number)
    middle = Constant <value_ints: ints = [2, 3]> ()
    mine = Unsqueeze (mine_bxc, middle)

    over_parts = Unsqueeze (scores, second)
    never = Constant <value_float: float = -inf> ()
    nothing = Constant <value_float: float = 0.0> ()
    seen = Where (mine, over_parts, never)
    last_axis = Constant <value_ints: ints = [-1]> ()
    peak = ReduceMax <keepdims: int = 1> (seen, last_axis)
    unseen = Equal (peak, never)
    shift = Where (unseen, nothing, peak)
    below = Sub (seen, shift)
    share = Exp (below)
    sum = ReduceSum <keepdims: int = 1> (share, last_axis)
    log_sum = Log (sum)
    lse_bxjr = Add (shift, log_sum)
    base = Where (unseen, nothing, lse_bxjr)
    distance = Sub (seen, base)
    weight_f = Exp (distance)
    weight = CastLike (weight_f, queries)
    values_bxjcy = Unsqueeze (cached_values, second)
    mixed = MatMul (weight, values_bxjcy)
    mixed_f = Cast <to: int = 1> (mixed)
    unfolding = Constant <value_ints: ints = [0, 0, 0, -1, $per_kv, $Y]> ()
    mixed_bxjlgy = Reshape (mixed_f, unfolding)
    mixed_bxljgy = Transpose <perm: ints = [0, 1, 3, 2, 4, 5]> (mixed_bxjlgy)
    flat = Constant <value_ints: ints = [0, 0, 0, $Q]> ()
    partial = Reshape (mixed_bxljgy, flat)
    unfolding_lse = Constant <value_ints: ints = [0, 0, 0, -1, $per_kv]> ()
    lse_bxjlg = Reshape (lse_bxjr, unfolding_lse)
    lse_bxljg = Transpose <perm: ints = [0, 1, 3, 2, 4]> (lse_bxjlg)
    flat_lse = Constant <value_ints: ints = [0, 0, 0, $A]> ()
    lse = Reshape (lse_bxljg, flat_lse)
}
"""

_MERGE = """
AttentionMerge <causal> (queries, keys, values, partial, lse) => (mixed)
{
    by_head = Constant <value_ints: ints = [0, 0, $J, $per_kv, $Y]> ()
    q_blhgy = Reshape (queries, by_head)
    q_bhlgy = Transpose <perm: ints = [0, 2, 1, 3, 4]> (q_blhgy)
    folding = Constant <value_ints: ints = [0, $J, -1, $Y]> ()
    folded = Reshape (q_bhlgy, folding)
    kv_by_head = Constant <value_ints: ints = [0, 0, $J, $Y]> ()
    k_blhy = Reshape (keys, kv_by_head)
    v_blhy = Reshape (values, kv_by_head)
    keys_t = Transpose <perm: ints = [0, 2, 3, 1]> (k_blhy)
    own_values = Transpose <perm: ints = [0, 2, 1, 3]> (v_blhy)
    products_block = MatMul (folded, keys_t)
    products_block_f = Cast <to: int = 1> (products_block)
    scale = Constant <value_float: float = $scale> ()
    scores_block = Mul (products_block_f, scale)
    start = Constant <value: tensor = int32 {0}> ()
    delta = Constant <value: tensor = int32 {1}> ()
    never = Constant <value_float: float = -inf> ()
    nothing = Constant <value_float: float = 0.0> ()
    L = Shape <start: int = 1, end: int = 2> (keys)
    L_scalar = Squeeze (L)
    L_int = Cast <to: int = 6> (L_scalar)
    $mask
    lse_blax = Transpose <perm: ints = [0, 2, 3, 1]> (lse)
    by_kv = Constant <value_ints: ints = [0, 0, $J, $per_kv, $X]> ()
    lse_bljgx = Reshape (lse_blax, by_kv)
    lse_bjlgx = Transpose <perm: ints = [0, 2, 1, 3, 4]> (lse_bljgx)
    folding_parts = Constant <value_ints: ints = [0, $J, -1, $X]> ()
    over_parts = Reshape (lse_bjlgx, folding_parts)
    scores = Concat <axis: int = 3> (over_parts, over_block)
    weight = Softmax <axis: int = -1> (scores)
    X = Constant <value_ints: ints = [$X]> ()
    both = Concat <axis: int = 0> (X, L)
    weight_parts, weight_block = Split <axis: int = 3> (weight, both)
    weight_compute = CastLike (weight_block, queries)
    mixed_block = MatMul (weight_compute, own_values)
    mixed_block_f = Cast <to: int = 1> (mixed_block)
    unfolding = Constant <value_ints: ints = [0, $J, -1, $per_kv, $Y]> ()
    block_bjlgy = Reshape (mixed_block_f, unfolding)
    block_bljgy = Transpose <perm: ints = [0, 2, 1, 3, 4]> (block_bjlgy)
    flat = Constant <value_ints: ints = [0, 0, $Q]> ()
    block = Reshape (block_bljgy, flat)
    unfolding_parts = Constant <value_ints: ints = [0, $J, -1, $per_kv, $X]> ()
    parts_bjlgx = Reshape (weight_parts, unfolding_parts)
    parts_bxljg = Transpose <perm: ints = [0, 4, 2, 1, 3]> (parts_bjlgx)
    by_query_head = Constant <value_ints: ints = [0, 0, 0, $A, 1]> ()
    share = Reshape (parts_bxljg, by_query_head)
    heads_apart = Constant <value_ints: ints = [0, 0, 0, $A, $Y]> ()
    means = Reshape (partial, heads_apart)
    products = Mul (share, means)
    none = Equal (share, nothing)
    weighted = Where (none, nothing, products)
    second = Constant <value_ints: ints = [1]> ()
    parts_blay = ReduceSum <keepdims: int = 0> (weighted, second)
    parts = Reshape (parts_blay, flat)
    mixed_f = Add (block, parts)
    mixed = CastLike (mixed_f, queries)
}
"""


def block_attention(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `BlockAttention` for this attribute and fixed dimensions (Q, J, Y)."""
    Q, J, Y = (values[letter] for letter in "QJY")
    return render(_TEXT, _sizes(Q, J, Y) | {"mask": _mask(values, Q // (J * Y))})


def split_attention(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `SplitAttention`; nothing in it depends on the model."""
    return _SPLIT


def cache_splits(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `CacheSplits` for these attributes and fixed dimensions (Q, J, Y)."""
    Q, J, Y = (values[letter] for letter in "QJY")
    X, A = (values[letter] for letter in "XA")
    counts = {"X": X, "X_less": X - 1, "A": A, "grain": GRAIN, "grain_less": GRAIN - 1}
    return render(_CACHE_SPLITS, _sizes(Q, J, Y) | counts)


def attention_merge(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `AttentionMerge` for this attribute and fixed dimensions (Q, J·Y, X, A)."""
    Q, A = values["Q"], values["A"]
    Y = Q // A
    J = evaluate("J*Y", values) // Y
    counts = {"X": values["X"], "A": A, "mask": _mask(values, Q // (J * Y))}
    return render(_MERGE, _sizes(Q, J, Y) | counts)


def _sizes(Q: int, J: int, Y: int) -> dict[str, Any]:
    return {"Q": Q, "J": J, "Y": Y, "per_kv": Q // (J * Y), "scale": Y**-0.5}


def _mask(values: Mapping[str, Any], per_kv: int) -> str:
    return render(_CAUSAL, {"per_kv": per_kv}) if values["causal"] else "over_block = Identity (scores_block)"
