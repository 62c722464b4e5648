"""Triton kernels of the ops where layers meet: a program is a token (`ttc.plugins.stream_math`).

It adds to its token's stream, writes that, and norms what it wrote, as the ops' parts would have read it.
"""

from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl

from ttc.plugins.launch import KernelSpec, Problem, Tile, power_of_two
from ttc.plugins.ops import OpSpec
from ttc.plugins.residual_norm import (
    GATED_MIXTURE_RESIDUAL_MODULATED_NORM,
    GATED_MIXTURE_RESIDUAL_NORM,
    GATED_MIXTURE_RESIDUAL_NORM_MODULATED,
    GATED_RESIDUAL_MODULATED_NORM,
    GATED_RESIDUAL_NORM,
    GATED_RESIDUAL_NORM_MODULATED,
    MIXTURE_RESIDUAL_NORM,
    RESIDUAL_NORM,
)
from ttc.plugins.stream_math import GATE, combined_rows, modulate_and_norm, of_layer, rms_norm, token_start

__all__ = [
    "add_and_norm",
    "add_gated_and_modulate",
    "add_gated_and_norm",
    "add_gated_mixture_and_modulate",
    "add_gated_mixture_and_norm",
    "add_mixture_and_norm",
    "gated_mixture_residual_modulated_norm",
    "gated_mixture_residual_norm",
    "gated_mixture_residual_norm_modulated",
    "gated_residual_modulated_norm",
    "gated_residual_norm",
    "gated_residual_norm_modulated",
    "mixture_residual_norm",
    "residual_norm",
]


@triton.jit(do_not_specialize=["L"])
def add_and_norm(
    x_ptr,
    out_ptr,
    weight_ptr,
    L,
    stream_ptr,
    normed_ptr,
    D: tl.constexpr,
    EPSILON: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """x, out, stream, normed: (B, L, D).  weight: (D,)."""
    columns = tl.arange(0, BLOCK_D)
    at = token_start(L, D) + columns
    out = tl.load(out_ptr + at, mask=columns < D, other=0.0).to(tl.float32)
    stream = _sum(x_ptr, out, stream_ptr, at, columns, D)
    _store(normed_ptr, at, rms_norm(stream, weight_ptr, columns, D, EPSILON), columns, D)


@triton.jit(do_not_specialize=["L"])
def add_mixture_and_norm(
    x_ptr,
    rows_ptr,
    weights_ptr,
    grouped_rows_ptr,
    shared_ptr,
    weight_ptr,
    L,
    stream_ptr,
    normed_ptr,
    D: tl.constexpr,
    K: tl.constexpr,
    EPSILON: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """x, shared, stream, normed: (B, L, D).  rows: (T·K, D) float32.  weights, grouped_rows: (T, K)."""
    columns = tl.arange(0, BLOCK_D)
    at = token_start(L, D) + columns
    out = _mixed(rows_ptr, weights_ptr, grouped_rows_ptr, shared_ptr, L, at, columns, D, K)
    stream = _sum(x_ptr, out, stream_ptr, at, columns, D)
    _store(normed_ptr, at, rms_norm(stream, weight_ptr, columns, D, EPSILON), columns, D)


@triton.jit(do_not_specialize=["L"])
def add_gated_and_norm(
    x_ptr,
    out_ptr,
    modulation_ptr,
    t_ptr,
    table_ptr,
    weight_ptr,
    L,
    stream_ptr,
    normed_ptr,
    D: tl.constexpr,
    EPSILON: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """As `add_and_norm`, out times a gate: modulation (B, 3, D), t (B,), table (3, D)."""
    columns = tl.arange(0, BLOCK_D)
    at = token_start(L, D) + columns
    out = tl.load(out_ptr + at, mask=columns < D, other=0.0).to(tl.float32)
    out = _gated(out, modulation_ptr, t_ptr, table_ptr, columns, D)
    stream = _sum(x_ptr, out, stream_ptr, at, columns, D)
    _store(normed_ptr, at, rms_norm(stream, weight_ptr, columns, D, EPSILON), columns, D)


@triton.jit(do_not_specialize=["L"])
def add_gated_and_modulate(
    x_ptr,
    out_ptr,
    modulation_ptr,
    t_ptr,
    table_ptr,
    next_table_ptr,
    weight_ptr,
    L,
    stream_ptr,
    normed_ptr,
    D: tl.constexpr,
    EPSILON: tl.constexpr,
    NORM_FIRST: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """As `add_gated_and_norm`; next_table, (3, D), modulates before or after the norm."""
    columns = tl.arange(0, BLOCK_D)
    at = token_start(L, D) + columns
    out = tl.load(out_ptr + at, mask=columns < D, other=0.0).to(tl.float32)
    out = _gated(out, modulation_ptr, t_ptr, table_ptr, columns, D)
    x = _sum(x_ptr, out, stream_ptr, at, columns, D)
    x = modulate_and_norm(
        x, modulation_ptr, t_ptr, next_table_ptr, weight_ptr, columns, D, EPSILON, NORM_FIRST
    )
    _store(normed_ptr, at, x, columns, D)


@triton.jit(do_not_specialize=["L"])
def add_gated_mixture_and_norm(
    x_ptr,
    rows_ptr,
    weights_ptr,
    grouped_rows_ptr,
    shared_ptr,
    modulation_ptr,
    t_ptr,
    table_ptr,
    weight_ptr,
    L,
    stream_ptr,
    normed_ptr,
    D: tl.constexpr,
    K: tl.constexpr,
    EPSILON: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """As `add_mixture_and_norm`, the mixture times a gate."""
    columns = tl.arange(0, BLOCK_D)
    at = token_start(L, D) + columns
    out = _mixed(rows_ptr, weights_ptr, grouped_rows_ptr, shared_ptr, L, at, columns, D, K)
    out = _gated(out, modulation_ptr, t_ptr, table_ptr, columns, D)
    stream = _sum(x_ptr, out, stream_ptr, at, columns, D)
    _store(normed_ptr, at, rms_norm(stream, weight_ptr, columns, D, EPSILON), columns, D)


@triton.jit(do_not_specialize=["L"])
def add_gated_mixture_and_modulate(
    x_ptr,
    rows_ptr,
    weights_ptr,
    grouped_rows_ptr,
    shared_ptr,
    modulation_ptr,
    t_ptr,
    table_ptr,
    next_table_ptr,
    weight_ptr,
    L,
    stream_ptr,
    normed_ptr,
    D: tl.constexpr,
    K: tl.constexpr,
    EPSILON: tl.constexpr,
    NORM_FIRST: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """As `add_gated_mixture_and_norm`; next_table, (3, D), modulates before or after the norm."""
    columns = tl.arange(0, BLOCK_D)
    at = token_start(L, D) + columns
    out = _mixed(rows_ptr, weights_ptr, grouped_rows_ptr, shared_ptr, L, at, columns, D, K)
    out = _gated(out, modulation_ptr, t_ptr, table_ptr, columns, D)
    x = _sum(x_ptr, out, stream_ptr, at, columns, D)
    x = modulate_and_norm(
        x, modulation_ptr, t_ptr, next_table_ptr, weight_ptr, columns, D, EPSILON, NORM_FIRST
    )
    _store(normed_ptr, at, x, columns, D)


@triton.jit
def _mixed(
    rows_ptr,
    weights_ptr,
    grouped_rows_ptr,
    shared_ptr,
    L,
    at,
    columns,
    D: tl.constexpr,
    K: tl.constexpr,
):
    """The weighted sum of this token's rows, and the shared expert's output."""
    kind: tl.constexpr = shared_ptr.dtype.element_ty
    token = tl.program_id(1).to(tl.int64) * L + tl.program_id(0)
    last_row = tl.num_programs(1).to(tl.int64) * L * K - 1
    routed = combined_rows(rows_ptr, weights_ptr, grouped_rows_ptr, token, last_row, columns, D, K)
    shared = tl.load(shared_ptr + at, mask=columns < D, other=0.0).to(tl.float32)
    return (routed.to(kind).to(tl.float32) + shared).to(kind).to(tl.float32)


@triton.jit
def _gated(out, modulation_ptr, t_ptr, table_ptr, columns, D: tl.constexpr):
    gate = of_layer(modulation_ptr, t_ptr, table_ptr, GATE, columns, D, 1.0)
    return (gate * out).to(table_ptr.dtype.element_ty).to(tl.float32)


@triton.jit
def _sum(x_ptr, out, stream_ptr, at, columns, D: tl.constexpr):
    """Add to the stream, write it, and return it as it was written."""
    x = tl.load(x_ptr + at, mask=columns < D, other=0.0).to(tl.float32)
    stream = (x + out).to(stream_ptr.dtype.element_ty)
    tl.store(stream_ptr + at, stream, mask=columns < D)
    return stream.to(tl.float32)


@triton.jit
def _store(normed_ptr, at, normed, columns, D: tl.constexpr):
    tl.store(normed_ptr + at, normed.to(normed_ptr.dtype.element_ty), mask=columns < D)


def _spec(op: OpSpec, kernel: Any, **more: Any) -> KernelSpec:
    def constants(problem: Problem, tile: Tile) -> Mapping[str, Any]:
        D = problem.dims["D"]
        K = {"K": problem.dims["K"]} if any(spec.name == "rows" for spec in op.inputs) else {}
        return {
            "D": D,
            "BLOCK_D": power_of_two(D),
            "EPSILON": float(problem.attributes["epsilon"]),
            **K,
            **more,
        }

    return KernelSpec(
        op=op,
        kernel=kernel,
        changing=("B", "L", "T"),
        integers=("L",),
        tiles=(Tile("whole", {}, num_warps=8),),
        select_tile=lambda dims: 0,
        constants=constants,
        grid=lambda dims, constants, minimum: (dims["L"], dims["B"]),
    )


residual_norm = _spec(RESIDUAL_NORM, add_and_norm)
mixture_residual_norm = _spec(MIXTURE_RESIDUAL_NORM, add_mixture_and_norm)
gated_residual_norm = _spec(GATED_RESIDUAL_NORM, add_gated_and_norm)
gated_residual_modulated_norm = _spec(GATED_RESIDUAL_MODULATED_NORM, add_gated_and_modulate, NORM_FIRST=False)
gated_residual_norm_modulated = _spec(GATED_RESIDUAL_NORM_MODULATED, add_gated_and_modulate, NORM_FIRST=True)
gated_mixture_residual_norm = _spec(GATED_MIXTURE_RESIDUAL_NORM, add_gated_mixture_and_norm)
gated_mixture_residual_modulated_norm = _spec(
    GATED_MIXTURE_RESIDUAL_MODULATED_NORM, add_gated_mixture_and_modulate, NORM_FIRST=False
)
gated_mixture_residual_norm_modulated = _spec(
    GATED_MIXTURE_RESIDUAL_NORM_MODULATED, add_gated_mixture_and_modulate, NORM_FIRST=True
)
