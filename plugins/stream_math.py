"""What kernels of the residual stream share: a program is a token and holds its D numbers at once.

They are float32, rounded to the compute dtype wherever the naive functions have a tensor of it. Program
(l, b): token l of row b; tensors of the stream are (B, L, D).
"""

import triton
import triton.language as tl

__all__ = [
    "GATE",
    "SCALE",
    "SHIFT",
    "combined_rows",
    "modulate_and_norm",
    "of_layer",
    "rms_norm",
    "token_start",
]

# The rows of a layer's table.
SHIFT, SCALE, GATE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def token_start(L, D: tl.constexpr):
    """Where this program's token begins."""
    return (tl.program_id(1).to(tl.int64) * L + tl.program_id(0)) * D


@triton.jit
def rms_norm(x, weight_ptr, columns, D: tl.constexpr, EPSILON: tl.constexpr):
    """X / rms(x) · weight of a token's numbers, of which those past D are not looked at."""
    square = tl.where(columns < D, x * x, 0.0)
    weight = tl.load(weight_ptr + columns, mask=columns < D, other=0.0).to(tl.float32)
    return x * tl.rsqrt(tl.sum(square, 0) / D + EPSILON) * weight


@triton.jit
def of_layer(modulation_ptr, t_ptr, table_ptr, PART: tl.constexpr, columns, D: tl.constexpr, neutral):
    """Shift, scale or gate of this program's row: modulation (B, 3, D) + table (3, D); neutral if t < 0."""
    row = tl.program_id(1).to(tl.int64)
    real = columns < D
    own = tl.load(modulation_ptr + (row * 3 + PART) * D + columns, mask=real, other=0.0).to(tl.float32)
    own += tl.load(table_ptr + PART * D + columns, mask=real, other=0.0).to(tl.float32)
    own = own.to(table_ptr.dtype.element_ty).to(tl.float32)
    return tl.where(tl.load(t_ptr + row) >= 0.0, own, neutral)


@triton.jit
def modulate_and_norm(
    x,
    modulation_ptr,
    t_ptr,
    table_ptr,
    weight_ptr,
    columns,
    D: tl.constexpr,
    EPSILON: tl.constexpr,
    NORM_FIRST: tl.constexpr,
):
    """The norm, then shift and scale, where NORM_FIRST; else the norm of what shift and scale gave."""
    kind: tl.constexpr = table_ptr.dtype.element_ty
    shift = of_layer(modulation_ptr, t_ptr, table_ptr, SHIFT, columns, D, 0.0)
    scale = of_layer(modulation_ptr, t_ptr, table_ptr, SCALE, columns, D, 0.0)
    factor = (1.0 + scale).to(kind).to(tl.float32)
    if NORM_FIRST:
        x = rms_norm(x, weight_ptr, columns, D, EPSILON).to(kind).to(tl.float32)
    x = (x * factor).to(kind).to(tl.float32)
    x = (x + shift).to(kind).to(tl.float32)
    if not NORM_FIRST:
        x = rms_norm(x, weight_ptr, columns, D, EPSILON)
    return x


@triton.jit
def combined_rows(
    rows_ptr, weights_ptr, grouped_rows_ptr, token, last_row, columns, D: tl.constexpr, K: tl.constexpr
):
    """Σ_k weights[token, k] · rows[grouped_rows[token, k]], k ascending, row numbers held to 0 … last_row."""
    real = columns < D
    total = tl.zeros_like(columns).to(tl.float32)
    for k in tl.static_range(K):
        row = tl.load(grouped_rows_ptr + token * K + k)
        row = tl.minimum(tl.maximum(row, 0), last_row).to(tl.int64)
        weight = tl.load(weights_ptr + token * K + k)
        total += weight * tl.load(rows_ptr + row * D + columns, mask=real, other=0.0)
    return total
