"""`BlockAttention` in standard ONNX operators."""

from collections.abc import Mapping
from typing import Any

from ttc.plugins.onnx_text import render

__all__ = ["block_attention"]

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


def block_attention(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `BlockAttention` for this attribute and fixed dimensions (Q, J, Y)."""
    Q, J, Y = (values[letter] for letter in "QJY")
    mask = _CAUSAL if values["causal"] else "over_block = Identity (scores_block)"
    return render(_TEXT, {"Q": Q, "J": J, "Y": Y, "per_kv": Q // (J * Y), "scale": Y**-0.5, "mask": mask})
