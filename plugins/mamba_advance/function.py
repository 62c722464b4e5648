"""`MambaAdvance` in standard ONNX operators."""

from collections.abc import Mapping
from typing import Any

from ttc.plugins.mamba_block_scan.function import scan_values
from ttc.plugins.onnx_text import render

__all__ = ["mamba_advance"]

_TEXT = """
MambaAdvance <G> (xbc, activated, dt, conv_state, ssm_state, dt_bias, a_log, commit_len)
    => (new_conv_state, new_ssm_state)
{
    $decay
    $split_heads
    start = Constant <value: tensor = int64 {0}> ()
    delta = Constant <value: tensor = int64 {1}> ()
    n = Cast <to: int = 7> (commit_len)
    axis_1 = Constant <value_ints: ints = [1]> ()
    n_column = Unsqueeze (n, axis_1)

    conv_by_time = Transpose <perm: ints = [0, 2, 1]> (conv_state)
    columns = Concat <axis: int = 1> (conv_by_time, xbc)
    taps = Constant <value_ints: ints = [$taps]> ()
    places = Add (n_column, taps)
    axis_2 = Constant <value_ints: ints = [2]> ()
    places_cell = Unsqueeze (places, axis_2)
    newest = GatherND <batch_dims: int = 1> (columns, places_cell)
    new_conv_state = Transpose <perm: ints = [0, 2, 1]> (newest)

    L = Shape <start: int = 1, end: int = 2> (dt)
    L_scalar = Squeeze (L)
    times = Range (start, L_scalar, delta)
    committed_bl = Less (times, n_column)
    mask_axes = Constant <value_ints: ints = [1, 2]> ()
    committed = Unsqueeze (committed_bl, mask_axes)
    nothing = Constant <value_float: float = 0.0> ()
    never = Constant <value_float: float = -inf> ()
    n_less_1 = Sub (n, delta)
    last_place = Max (n_less_1, start)
    last_axes = Constant <value_ints: ints = [1, 2, 3]> ()
    last_cell = Unsqueeze (last_place, last_axes)
    heads = Constant <value_ints: ints = [1, $G, $per_group, 1]> ()
    last = Expand (last_cell, heads)
    total_at_last = GatherElements <axis: int = 3> (cumulative, last)
    any_bl = Greater (n, start)
    any = Unsqueeze (any_bl, last_axes)
    total = Where (any, total_at_last, nothing)
    fallen = Sub (total, cumulative)
    fallen_committed = Where (committed, fallen, never)
    left = Exp (fallen_committed)
    weight = Mul (left, step)
    axis_4 = Constant <value_ints: ints = [4]> ()
    weight_column = Unsqueeze (weight, axis_4)
    x_weighted = Mul (x, weight_column)
    x_t = Transpose <perm: ints = [0, 1, 2, 4, 3]> (x_weighted)
    b = Transpose <perm: ints = [0, 1, 2, 4, 3]> (b_t)
    added = MatMul (x_t, b)
    kept = Exp (total)
    kept_column = Unsqueeze (kept, axis_4)
    carried = Mul (state, kept_column)
    new_state = Add (carried, added)
    flat = Constant <value_ints: ints = [0, $H, $P, $N]> ()
    new_ssm_state = Reshape (new_state, flat)
}
"""


def mamba_advance(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `MambaAdvance` for these attributes and fixed dimensions (H, P, N, W)."""
    taps = ", ".join(str(tap) for tap in range(values["W"] - 1))
    return render(_TEXT, scan_values(values) | {"taps": taps})
