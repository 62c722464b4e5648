"""Triton kernels of `BlockAttention`, `CacheSplits` (`ttc.plugins.attention_walk`) and `AttentionMerge`."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import triton
import triton.language as tl

from ttc.base.dims import evaluate
from ttc.plugins.attention_walk import (
    TILES,
    attend_part,
    attend_whole,
    constants_of,
    grid_of,
    part_grid_of,
    select_tile,
)
from ttc.plugins.block_attention import ATTENTION_MERGE, BLOCK_ATTENTION, CACHE_SPLITS
from ttc.plugins.launch import KernelSpec, Problem, Tile, power_of_two

__all__ = ["attend", "attend_parts", "attention_merge", "block_attention", "cache_splits", "merge"]


@triton.jit(do_not_specialize=["L", "C"])
def attend(
    queries_ptr,
    keys_ptr,
    values_ptr,
    cached_keys_ptr,
    cached_values_ptr,
    lengths_ptr,
    L,
    C,
    mixed_ptr,
    J: tl.constexpr,
    Y: tl.constexpr,
    PER_KV: tl.constexpr,
    SCALE: tl.constexpr,
    CAUSAL: tl.constexpr,
    Q_STRIDE: tl.constexpr,
    K_STRIDE: tl.constexpr,
    V_STRIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_Y: tl.constexpr,
):
    """See `attend_whole`."""
    attend_whole(
        queries_ptr,
        keys_ptr,
        values_ptr,
        cached_keys_ptr,
        cached_values_ptr,
        lengths_ptr,  # no pages
        lengths_ptr,
        L,
        C,
        0,
        mixed_ptr,
        J,
        Y,
        PER_KV,
        SCALE,
        CAUSAL,
        0,
        Q_STRIDE,
        K_STRIDE,
        V_STRIDE,
        PRECISION,
        UPCAST,
        BLOCK_M,
        BLOCK_N,
        BLOCK_Y,
    )


@triton.jit(do_not_specialize=["L", "C"])
def attend_parts(
    queries_ptr,
    cached_keys_ptr,
    cached_values_ptr,
    lengths_ptr,
    L,
    C,
    partial_ptr,
    lse_ptr,
    J: tl.constexpr,
    Y: tl.constexpr,
    PER_KV: tl.constexpr,
    SCALE: tl.constexpr,
    SPLIT_GRAIN: tl.constexpr,
    Q_STRIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_Y: tl.constexpr,
):
    """See `attend_part`."""
    attend_part(
        queries_ptr,
        cached_keys_ptr,
        cached_values_ptr,
        lengths_ptr,  # no pages
        lengths_ptr,
        L,
        C,
        0,
        partial_ptr,
        lse_ptr,
        J,
        Y,
        PER_KV,
        SCALE,
        0,
        SPLIT_GRAIN,
        Q_STRIDE,
        PRECISION,
        UPCAST,
        BLOCK_M,
        BLOCK_N,
        BLOCK_Y,
    )


@triton.jit(do_not_specialize=["L", "X"])
def merge(
    queries_ptr,
    keys_ptr,
    values_ptr,
    partial_ptr,
    lse_ptr,
    L,
    X,
    mixed_ptr,
    A: tl.constexpr,
    Y: tl.constexpr,
    PER_KV: tl.constexpr,
    SCALE: tl.constexpr,
    CAUSAL: tl.constexpr,
    Q_STRIDE: tl.constexpr,
    K_STRIDE: tl.constexpr,
    V_STRIDE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_Y: tl.constexpr,
):
    """A token of one query head over the block and the parts of its context. Program (a, l, b).

    queries, mixed: (B, L, A·Y), keys, values: (B, L, A / PER_KV · Y), their tokens so many elements apart.
    partial: (B, X, L, A·Y), lse: (B, X, L, A), float32; a part of weight 0 (−∞) is not read.
    """
    head = tl.program_id(0)
    token = tl.program_id(1)
    row = tl.program_id(2).to(tl.int64)
    inner = tl.arange(0, BLOCK_Y)
    real = inner < Y
    along = tl.arange(0, BLOCK_N)
    at_query = (row * L + token) * Q_STRIDE + head * Y + inner
    q = tl.load(queries_ptr + at_query, mask=real, other=0.0).to(tl.float32)
    highest = tl.full((), float("-inf"), tl.float32)
    weight = tl.zeros((), tl.float32)
    mixed = tl.zeros((BLOCK_Y,), tl.float32)
    for start in range(0, X, BLOCK_N):
        part = row * X + start + along
        lse = tl.load(lse_ptr + (part * L + token) * A + head, mask=start + along < X, other=float("-inf"))
        reached = (lse != float("-inf"))[:, None] & real[None, :]
        means = tl.load(
            partial_ptr + ((part * L + token) * A + head)[:, None] * Y + inner[None, :],
            mask=reached,
            other=0.0,
        )
        highest, weight, mixed = _add(lse, means, highest, weight, mixed)
    last = token + 1 if CAUSAL else L
    own = row * L * K_STRIDE + head // PER_KV * Y
    own_values = row * L * V_STRIDE + head // PER_KV * Y
    for start in range(0, last, BLOCK_N):
        at = start + along
        inside = (at < last)[:, None] & real[None, :]
        k = tl.load(keys_ptr + own + at[:, None] * K_STRIDE + inner[None, :], mask=inside, other=0.0)
        v = tl.load(values_ptr + own_values + at[:, None] * V_STRIDE + inner[None, :], mask=inside, other=0.0)
        scores = tl.sum(k.to(tl.float32) * q[None, :], 1) * SCALE
        scores = tl.where(at < last, scores, float("-inf"))
        highest, weight, mixed = _add(scores, v.to(tl.float32), highest, weight, mixed)
    out = mixed_ptr + ((row * L + token) * A + head) * Y + inner
    tl.store(out, (mixed / weight).to(mixed_ptr.dtype.element_ty), mask=real)


@triton.jit
def _add(scores, values, highest, weight, mixed):
    """The running maximum, sum of weights and weighted sum with more scores and their values."""
    higher = tl.maximum(highest, tl.max(scores, 0))
    shift = tl.where(higher == float("-inf"), 0.0, higher)
    share = tl.exp(scores - shift)
    kept = tl.exp(highest - shift)
    return higher, weight * kept + tl.sum(share, 0), mixed * kept + tl.sum(share[:, None] * values, 0)


def _merge_constants(problem: Problem, tile: Tile) -> Mapping[str, Any]:
    dims, strides = problem.dims, problem.token_strides
    Q, A, width = dims["Q"], dims["A"], evaluate("J*Y", dims)
    return {
        "A": A,
        "Y": Q // A,
        "PER_KV": Q // width,
        "SCALE": (Q // A) ** -0.5,
        "CAUSAL": bool(problem.attributes["causal"]),
        "Q_STRIDE": strides.get("queries", Q),
        "K_STRIDE": strides.get("keys", width),
        "V_STRIDE": strides.get("values", width),
        "BLOCK_Y": power_of_two(Q // A),
        **tile.blocks,
    }


block_attention = KernelSpec(
    op=BLOCK_ATTENTION,
    kernel=attend,
    changing=("B", "L", "C"),
    integers=("L", "C"),
    tiles=TILES,
    select_tile=select_tile,
    constants=partial(constants_of, part=False, page=0),
    grid=grid_of,
    strided=("queries", "keys", "values"),
    work_in_values=True,
)
cache_splits = KernelSpec(
    op=CACHE_SPLITS,
    kernel=attend_parts,
    changing=("B", "L", "C"),
    integers=("L", "C"),
    tiles=TILES,
    select_tile=select_tile,
    constants=partial(constants_of, part=True, page=0),
    grid=part_grid_of,
    strided=("queries",),
    work_in_values=True,
)
attention_merge = KernelSpec(
    op=ATTENTION_MERGE,
    kernel=merge,
    changing=("B", "L", "X"),
    integers=("L", "X"),
    tiles=(Tile("16", {"BLOCK_N": 16}, num_warps=4),),
    select_tile=lambda dims: 0,
    constants=_merge_constants,
    grid=lambda dims, constants, minimum: (constants["A"], dims["L"], dims["B"]),
    strided=("queries", "keys", "values"),
    work_in_values=True,
)
