"""`MambaBlockScan` in standard ONNX operators: two nested functions, one per part."""

from collections.abc import Mapping
from typing import Any

from ttc.plugins.onnx_text import render

__all__ = ["mamba_block_scan", "mamba_conv", "mamba_scan", "scan_values"]

_NO_END = 2**31 - 1

# W shifted products instead of a Conv node: a depthwise Conv over few columns costs more in every CPU and GPU
# library.
_CONV = """
MambaConv <W> (xbc, conv_state, conv_weight, conv_bias) => (activated)
{
    state_by_time = Transpose <perm: ints = [0, 2, 1]> (conv_state)
    columns = Concat <axis: int = 1> (state_by_time, xbc)
    taps = Transpose <perm: ints = [2, 1, 0]> (conv_weight)
    $tap_names = Split <axis: int = 0, num_outputs: int = $W> (taps)
    axis_1 = Constant <value_ints: ints = [1]> ()
    sum_0 = Identity (conv_bias)
    $products
    gate = Sigmoid (sum_$W)
    activated = Mul (sum_$W, gate)
}
"""

_PRODUCT = """
    from_$k = Constant <value_ints: ints = [$k]> ()
    to_$k = Constant <value_ints: ints = [$end]> ()
    window_$k = Slice (columns, from_$k, to_$k, axis_1)
    product_$k = Mul (window_$k, tap_$k)
    sum_$next = Add (product_$k, sum_$k)
"""

# activated (B, L, F) → x (B, G, H/G, L, P), b and c (B, G, 1, L, N): heads of one group broadcast over its B
# and C.
_SPLIT_HEADS = """
    parts = Constant <value_ints: ints = [$HP, $GN, $GN]> ()
    activated_f = Cast <to: int = 1> (activated)
    x_flat, b_flat, c_flat = Split <axis: int = 2> (activated_f, parts)
    x_shape = Constant <value_ints: ints = [0, 0, $G, $per_group, $P]> ()
    bc_shape = Constant <value_ints: ints = [0, 0, $G, 1, $N]> ()
    x_blghp = Reshape (x_flat, x_shape)
    b_blgn = Reshape (b_flat, bc_shape)
    c_blgn = Reshape (c_flat, bc_shape)
    x = Transpose <perm: ints = [0, 2, 3, 1, 4]> (x_blghp)
    b_t = Transpose <perm: ints = [0, 2, 3, 4, 1]> (b_blgn)
    c = Transpose <perm: ints = [0, 2, 3, 1, 4]> (c_blgn)
    state_shape = Constant <value_ints: ints = [0, $G, $per_group, $P, $N]> ()
    state = Reshape (ssm_state, state_shape)
"""

# dt (B, L, H) → step and running sum of step·A, both (B, G, H/G, L).
_DECAY = """
    dt_f = Cast <to: int = 1> (dt)
    dt_bias_f = Cast <to: int = 1> (dt_bias)
    a_log_f = Cast <to: int = 1> (a_log)
    dt_biased = Add (dt_f, dt_bias_f)
    step_blh = Softplus (dt_biased)
    a_magnitude = Exp (a_log_f)
    rate = Neg (a_magnitude)
    fall_blh = Mul (step_blh, rate)
    time_axis = Constant <value_int: int = 1> ()
    cumulative_blh = CumSum (fall_blh, time_axis)
    step_bhl = Transpose <perm: ints = [0, 2, 1]> (step_blh)
    cumulative_bhl = Transpose <perm: ints = [0, 2, 1]> (cumulative_blh)
    grouped_shape = Constant <value_ints: ints = [0, $G, $per_group, -1]> ()
    step = Reshape (step_bhl, grouped_shape)
    cumulative = Reshape (cumulative_bhl, grouped_shape)
"""

_SCAN = """
MambaScan <G> (activated, dt, ssm_state, dt_bias, a_log, d) => (y)
{
    $decay
    $split_heads
    axis_3 = Constant <value_ints: ints = [3]> ()
    axis_4 = Constant <value_ints: ints = [4]> ()
    c_t = Unsqueeze (cumulative, axis_4)
    c_s = Unsqueeze (cumulative, axis_3)
    fallen = Sub (c_t, c_s)
    start = Constant <value: tensor = int64 {0}> ()
    delta = Constant <value: tensor = int64 {1}> ()
    L = Shape <start: int = 1, end: int = 2> (dt)
    L_scalar = Squeeze (L)
    times = Range (start, L_scalar, delta)
    column = Constant <value_ints: ints = [-1, 1]> ()
    times_column = Reshape (times, column)
    causal = LessOrEqual (times, times_column)
    never = Constant <value_float: float = -inf> ()
    fallen_causal = Where (causal, fallen, never)
    left = Exp (fallen_causal)
    step_row = Unsqueeze (step, axis_3)
    seen = Mul (left, step_row)
    scores = MatMul (c, b_t)
    mixed = Mul (scores, seen)
    y_block = MatMul (mixed, x)
    state_t = Transpose <perm: ints = [0, 1, 2, 4, 3]> (state)
    from_state = MatMul (c, state_t)
    state_left = Exp (cumulative)
    state_left_column = Unsqueeze (state_left, axis_4)
    y_state = Mul (from_state, state_left_column)
    d_f = Cast <to: int = 1> (d)
    d_shape = Constant <value_ints: ints = [$G, $per_group, 1, 1]> ()
    d_heads = Reshape (d_f, d_shape)
    y_skip = Mul (x, d_heads)
    y_scan = Add (y_block, y_state)
    y_heads = Add (y_scan, y_skip)
    y_time = Transpose <perm: ints = [0, 3, 1, 2, 4]> (y_heads)
    flat = Constant <value_ints: ints = [0, 0, $HP]> ()
    y_flat = Reshape (y_time, flat)
    y = CastLike (y_flat, activated)
}
"""

_BLOCK_SCAN = """
MambaBlockScan <G, W> (xbc, dt, conv_state, ssm_state, conv_weight, conv_bias, dt_bias, a_log, d) => (y,
activated) {
    activated = ttc.MambaConv <W: int = @W> (xbc, conv_state, conv_weight, conv_bias)
    y = ttc.MambaScan <G: int = @G> (activated, dt, ssm_state, dt_bias, a_log, d)
}
"""


def mamba_conv(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `MambaConv` for this attribute W."""
    W = values["W"]
    taps = range(W)
    # Window k leaves out the first k columns and the last W − 1 − k; an end beyond the last column is all.
    ends = [k + 1 - W if k + 1 < W else _NO_END for k in taps]
    products = "".join(render(_PRODUCT, {"k": k, "next": k + 1, "end": ends[k]}) for k in taps)
    tap_names = ", ".join(f"tap_{k}" for k in taps)
    return render(_CONV, {"W": W, "tap_names": tap_names, "products": products})


def mamba_scan(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `MambaScan` for these attributes and fixed dimensions (H, P, N)."""
    return render(_SCAN, scan_values(values))


def mamba_block_scan(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `MambaBlockScan`; nothing in it depends on the model."""
    return _BLOCK_SCAN


def scan_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the blanks of a text that works on the heads of the scan: two passages and the sizes in them."""
    G, H, P, N = (values[letter] for letter in "GHPN")
    sizes = {"G": G, "per_group": H // G, "H": H, "P": P, "N": N, "HP": H * P, "GN": G * N}
    return {"decay": _DECAY, "split_heads": _SPLIT_HEADS, **sizes}
