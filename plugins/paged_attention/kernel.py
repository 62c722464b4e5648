"""Triton kernels of `PagedAttention` and `PageSplits` (`ttc.plugins.attention_walk` over pages)."""

from functools import partial
from typing import Final

import triton
import triton.language as tl

from ttc.plugins.attention_walk import (
    TILES,
    attend_part,
    attend_whole,
    constants_of,
    grid_of,
    part_grid_of,
    select_tile,
)
from ttc.plugins.launch import KernelSpec
from ttc.plugins.paged_attention import PAGE_SPLITS, PAGED_ATTENTION

__all__ = ["attend", "attend_parts", "page_splits", "paged_attention"]

_PAGE: Final = 16


@triton.jit(do_not_specialize=["L", "C", "U"])
def attend(
    queries_ptr,
    keys_ptr,
    values_ptr,
    key_pages_ptr,
    value_pages_ptr,
    pages_ptr,
    lengths_ptr,
    L,
    C,
    U,
    mixed_ptr,
    J: tl.constexpr,
    Y: tl.constexpr,
    PER_KV: tl.constexpr,
    SCALE: tl.constexpr,
    CAUSAL: tl.constexpr,
    PAGE: tl.constexpr,
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
        key_pages_ptr,
        value_pages_ptr,
        pages_ptr,
        lengths_ptr,
        L,
        C,
        U,
        mixed_ptr,
        J,
        Y,
        PER_KV,
        SCALE,
        CAUSAL,
        PAGE,
        Q_STRIDE,
        K_STRIDE,
        V_STRIDE,
        PRECISION,
        UPCAST,
        BLOCK_M,
        BLOCK_N,
        BLOCK_Y,
    )


@triton.jit(do_not_specialize=["L", "C", "U"])
def attend_parts(
    queries_ptr,
    key_pages_ptr,
    value_pages_ptr,
    pages_ptr,
    lengths_ptr,
    L,
    C,
    U,
    partial_ptr,
    lse_ptr,
    J: tl.constexpr,
    Y: tl.constexpr,
    PER_KV: tl.constexpr,
    SCALE: tl.constexpr,
    PAGE: tl.constexpr,
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
        key_pages_ptr,
        value_pages_ptr,
        pages_ptr,
        lengths_ptr,
        L,
        C,
        U,
        partial_ptr,
        lse_ptr,
        J,
        Y,
        PER_KV,
        SCALE,
        PAGE,
        SPLIT_GRAIN,
        Q_STRIDE,
        PRECISION,
        UPCAST,
        BLOCK_M,
        BLOCK_N,
        BLOCK_Y,
    )


paged_attention = KernelSpec(
    op=PAGED_ATTENTION,
    kernel=attend,
    changing=("B", "L", "U", "O"),
    integers=("L", "16*O", "U"),
    tiles=TILES,
    select_tile=select_tile,
    constants=partial(constants_of, part=False, page=_PAGE),
    grid=grid_of,
    strided=("queries", "keys", "values"),
    work_in_values=True,
)
page_splits = KernelSpec(
    op=PAGE_SPLITS,
    kernel=attend_parts,
    changing=("B", "L", "U", "O"),
    integers=("L", "16*O", "U"),
    tiles=TILES,
    select_tile=select_tile,
    constants=partial(constants_of, part=True, page=_PAGE),
    grid=part_grid_of,
    strided=("queries",),
    work_in_values=True,
)
