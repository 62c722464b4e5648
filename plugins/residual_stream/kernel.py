"""Triton kernels of the residual stream's ops: a program is a token (`ttc.plugins.stream_math`)."""

from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl

from ttc.plugins.launch import KernelSpec, Problem, Tile, power_of_two
from ttc.plugins.ops import OpSpec
from ttc.plugins.residual_stream import (
    GATED_MIXTURE_RESIDUAL,
    GATED_RESIDUAL,
    MIXTURE_RESIDUAL,
    MODULATED_NORM,
    NORM_MODULATED,
    STREAM_NORM,
)
from ttc.plugins.stream_math import GATE, modulate_and_norm, of_layer, rms_norm, token_start

__all__ = [
    "add_gated",
    "add_gated_mixture",
    "add_mixture",
    "gated_mixture_residual",
    "gated_residual",
    "mixture_residual",
    "modulate_norm",
    "modulated_norm",
    "norm",
    "norm_modulated",
    "stream_norm",
]


@triton.jit(do_not_specialize=["L"])
def norm(x_ptr, weight_ptr, L, normed_ptr, D: tl.constexpr, EPSILON: tl.constexpr, BLOCK_D: tl.constexpr):
    """Program (l, b). x, normed: (B, L, D).  weight: (D,)."""
    columns = tl.arange(0, BLOCK_D)
    at = token_start(L, D) + columns
    x = tl.load(x_ptr + at, mask=columns < D, other=0.0).to(tl.float32)
    normed = rms_norm(x, weight_ptr, columns, D, EPSILON)
    tl.store(normed_ptr + at, normed.to(normed_ptr.dtype.element_ty), mask=columns < D)


@triton.jit(do_not_specialize=["L"])
def modulate_norm(
    x_ptr,
    modulation_ptr,
    t_ptr,
    table_ptr,
    weight_ptr,
    L,
    normed_ptr,
    D: tl.constexpr,
    EPSILON: tl.constexpr,
    NORM_FIRST: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Program (l, b). x, normed: (B, L, D).  modulation: (B, 3, D).  t: (B,).  table: (3, D).  weight: (D,).

    NORM_FIRST: the norm is modulated, else the norm is of what is modulated.
    """
    columns = tl.arange(0, BLOCK_D)
    at = token_start(L, D) + columns
    x = tl.load(x_ptr + at, mask=columns < D, other=0.0).to(tl.float32)
    x = modulate_and_norm(x, modulation_ptr, t_ptr, table_ptr, weight_ptr, columns, D, EPSILON, NORM_FIRST)
    tl.store(normed_ptr + at, x.to(normed_ptr.dtype.element_ty), mask=columns < D)


@triton.jit(do_not_specialize=["L"])
def add_mixture(x_ptr, routed_ptr, shared_ptr, L, stream_ptr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Program (l, b). All (B, L, D)."""
    kind: tl.constexpr = stream_ptr.dtype.element_ty
    columns = tl.arange(0, BLOCK_D)
    at = token_start(L, D) + columns
    x = tl.load(x_ptr + at, mask=columns < D, other=0.0).to(tl.float32)
    stream = x + _mixed(routed_ptr, shared_ptr, at, columns, D)
    tl.store(stream_ptr + at, stream.to(kind), mask=columns < D)


@triton.jit(do_not_specialize=["L"])
def add_gated(
    x_ptr,
    out_ptr,
    modulation_ptr,
    t_ptr,
    table_ptr,
    L,
    stream_ptr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Program (l, b). x, out, stream: (B, L, D).  modulation: (B, 3, D).  t: (B,).  table: (3, D)."""
    columns = tl.arange(0, BLOCK_D)
    at = token_start(L, D) + columns
    x = tl.load(x_ptr + at, mask=columns < D, other=0.0).to(tl.float32)
    out = tl.load(out_ptr + at, mask=columns < D, other=0.0).to(tl.float32)
    _add_gated(x, out, modulation_ptr, t_ptr, table_ptr, stream_ptr, at, columns, D)


@triton.jit(do_not_specialize=["L"])
def add_gated_mixture(
    x_ptr,
    routed_ptr,
    shared_ptr,
    modulation_ptr,
    t_ptr,
    table_ptr,
    L,
    stream_ptr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Program (l, b). As `add_gated` of routed + shared, both (B, L, D)."""
    columns = tl.arange(0, BLOCK_D)
    at = token_start(L, D) + columns
    x = tl.load(x_ptr + at, mask=columns < D, other=0.0).to(tl.float32)
    out = _mixed(routed_ptr, shared_ptr, at, columns, D)
    _add_gated(x, out, modulation_ptr, t_ptr, table_ptr, stream_ptr, at, columns, D)


@triton.jit
def _mixed(routed_ptr, shared_ptr, at, columns, D: tl.constexpr):
    kind: tl.constexpr = shared_ptr.dtype.element_ty
    routed = tl.load(routed_ptr + at, mask=columns < D, other=0.0).to(kind).to(tl.float32)
    shared = tl.load(shared_ptr + at, mask=columns < D, other=0.0).to(tl.float32)
    return (routed + shared).to(kind).to(tl.float32)


@triton.jit
def _add_gated(x, out, modulation_ptr, t_ptr, table_ptr, stream_ptr, at, columns, D: tl.constexpr):
    kind: tl.constexpr = stream_ptr.dtype.element_ty
    gate = of_layer(modulation_ptr, t_ptr, table_ptr, GATE, columns, D, 1.0)
    stream = x + (gate * out).to(kind).to(tl.float32)
    tl.store(stream_ptr + at, stream.to(kind), mask=columns < D)


def _spec(op: OpSpec, kernel: Any, **more: Any) -> KernelSpec:
    def constants(problem: Problem, tile: Tile) -> Mapping[str, Any]:
        D = problem.dims["D"]
        epsilon = {"EPSILON": float(problem.attributes["epsilon"])} if "epsilon" in op.attributes else {}
        return {"D": D, "BLOCK_D": power_of_two(D), **epsilon, **more}

    return KernelSpec(
        op=op,
        kernel=kernel,
        changing=("B", "L"),
        integers=("L",),
        tiles=(Tile("whole", {}, num_warps=8),),
        select_tile=lambda dims: 0,
        constants=constants,
        grid=lambda dims, constants, minimum: (dims["L"], dims["B"]),
    )


stream_norm = _spec(STREAM_NORM, norm)
modulated_norm = _spec(MODULATED_NORM, modulate_norm, NORM_FIRST=False)
norm_modulated = _spec(NORM_MODULATED, modulate_norm, NORM_FIRST=True)
mixture_residual = _spec(MIXTURE_RESIDUAL, add_mixture)
gated_residual = _spec(GATED_RESIDUAL, add_gated)
gated_mixture_residual = _spec(GATED_MIXTURE_RESIDUAL, add_gated_mixture)
