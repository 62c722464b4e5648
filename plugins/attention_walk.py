"""Attention of some rows over a stretch of keys, as a program of a Triton kernel: one pass with a running
maximum (Milakov and Gimelshein 2018; Dao et al. 2022), no scores in memory.

A program has BLOCK_M rows of one KV head, where the query heads of that KV head are rows too: 16 rows a token
in the real model, which fill the matrix units already with one token. Of a cache, dense or in pages, it reads
the tokens that count and no others.
"""

from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl

from ttc.plugins.attention_splits import GRAIN
from ttc.plugins.launch import Problem, Tile, cdiv, power_of_two

__all__ = ["TILES", "attend_part", "attend_whole", "constants_of", "grid_of", "part_grid_of", "select_tile"]


@triton.jit
def attend_whole(
    queries_ptr,
    keys_ptr,
    values_ptr,
    cached_keys_ptr,
    cached_values_ptr,
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
    """Over the block and the whole context. Program (m, j, b).

    queries, mixed: (B, L, J·PER_KV·Y), keys, values: (B, L, J·Y), their tokens so many elements apart.
    lengths: (B,).  Caches: (B, J, C, Y), or with PAGE (U, J, PAGE, Y) and pages: (B, C / PAGE).
    """
    head = tl.program_id(1)
    row = tl.program_id(2).to(tl.int64)
    folded = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    tokens = folded // PER_KV
    live = tokens < L
    inner = tl.arange(0, BLOCK_Y)
    real = inner < Y
    columns = (head * PER_KV + folded % PER_KV) * Y
    token_rows = row * L + tokens.to(tl.int64)
    mask = live[:, None] & real[None, :]
    q = tl.load(
        queries_ptr + (token_rows * Q_STRIDE + columns)[:, None] + inner[None, :], mask=mask, other=0.0
    )
    if UPCAST:
        q = q.to(tl.float32)
    highest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    weight = tl.zeros((BLOCK_M,), tl.float32)
    mixed = tl.zeros((BLOCK_M, BLOCK_Y), tl.float32)

    own_keys = keys_ptr + row * L * K_STRIDE + head * Y
    own_values = values_ptr + row * L * V_STRIDE + head * Y
    for start in range(0, L, BLOCK_N):
        at = start + tl.arange(0, BLOCK_N)
        seen = (at < L)[None, :] & live[:, None]
        if CAUSAL:
            seen = seen & (at[None, :] <= tokens[:, None])
        highest, weight, mixed = _take_in(
            q,
            own_keys + at[:, None].to(tl.int64) * K_STRIDE + inner[None, :],
            own_values + at[:, None].to(tl.int64) * V_STRIDE + inner[None, :],
            (at < L)[:, None] & real[None, :],
            seen,
            highest,
            weight,
            mixed,
            SCALE,
            PRECISION,
            UPCAST,
        )
    highest, weight, mixed = _over_cache(
        q,
        cached_keys_ptr,
        cached_values_ptr,
        pages_ptr,
        row,
        head,
        live,
        0,
        tl.minimum(tl.load(lengths_ptr + row), C),
        C,
        U,
        highest,
        weight,
        mixed,
        J,
        Y,
        PAGE,
        SCALE,
        PRECISION,
        UPCAST,
        BLOCK_N,
        BLOCK_Y,
    )
    mixed = mixed / tl.where(live, weight, 1.0)[:, None]
    out = mixed_ptr + (token_rows * (J * PER_KV * Y) + columns)[:, None] + inner[None, :]
    tl.store(out, mixed.to(mixed_ptr.dtype.element_ty), mask=mask)


@triton.jit
def attend_part(
    queries_ptr,
    cached_keys_ptr,
    cached_values_ptr,
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
    """Over one of X parts of the context. Program (m, j·X + x, b), arguments as of `attend_whole`.

    partial: (B, X, L, J·PER_KV·Y) and lse: (B, X, L, J·PER_KV), float32. A part that a row does not reach is
    0 and −∞.
    """
    parts = tl.num_programs(1) // J
    head = tl.program_id(1) // parts
    part = tl.program_id(1) % parts
    row = tl.program_id(2).to(tl.int64)
    folded = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    tokens = folded // PER_KV
    live = tokens < L
    inner = tl.arange(0, BLOCK_Y)
    real = inner < Y
    heads = head * PER_KV + folded % PER_KV
    mask = live[:, None] & real[None, :]
    length = tl.minimum(tl.maximum(tl.load(lengths_ptr + row), 0), C)
    grains = (length + (SPLIT_GRAIN - 1)) // SPLIT_GRAIN
    width = (grains + (parts - 1)) // parts * SPLIT_GRAIN
    begin = part * width
    token_rows = (row * parts + part) * L + tokens.to(tl.int64)
    out = partial_ptr + (token_rows * (J * PER_KV) + heads)[:, None] * Y + inner[None, :]
    out_lse = lse_ptr + token_rows * (J * PER_KV) + heads
    if begin >= length:
        tl.store(out, tl.zeros((BLOCK_M, BLOCK_Y), tl.float32), mask=mask)
        tl.store(out_lse, tl.full((BLOCK_M,), float("-inf"), tl.float32), mask=live)
    else:
        q = tl.load(
            queries_ptr + ((row * L + tokens.to(tl.int64)) * Q_STRIDE + heads * Y)[:, None] + inner[None, :],
            mask=mask,
            other=0.0,
        )
        if UPCAST:
            q = q.to(tl.float32)
        highest, weight, mixed = _over_cache(
            q,
            cached_keys_ptr,
            cached_values_ptr,
            pages_ptr,
            row,
            head,
            live,
            begin,
            tl.minimum(begin + width, length),
            C,
            U,
            tl.full((BLOCK_M,), float("-inf"), tl.float32),
            tl.zeros((BLOCK_M,), tl.float32),
            tl.zeros((BLOCK_M, BLOCK_Y), tl.float32),
            J,
            Y,
            PAGE,
            SCALE,
            PRECISION,
            UPCAST,
            BLOCK_N,
            BLOCK_Y,
        )
        weight = tl.where(live, weight, 1.0)
        tl.store(out, mixed / weight[:, None], mask=mask)
        tl.store(out_lse, highest + tl.log(weight), mask=live)


@triton.jit
def _over_cache(
    q,
    cached_keys_ptr,
    cached_values_ptr,
    pages_ptr,
    row,
    head,
    live,
    begin,
    end,
    C,
    U,
    highest,
    weight,
    mixed,
    J: tl.constexpr,
    Y: tl.constexpr,
    PAGE: tl.constexpr,
    SCALE: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_Y: tl.constexpr,
):
    """The running maximum, sum of weights and weighted sum with tokens begin … end − 1 of the cache."""
    inner = tl.arange(0, BLOCK_Y)
    for start in range(begin, end, BLOCK_N):
        at = start + tl.arange(0, BLOCK_N)
        inside = at < end
        if PAGE:
            page = tl.load(pages_ptr + row * (C // PAGE) + tl.minimum(at, end - 1) // PAGE)
            # A number that no page has leads nowhere outside.
            page = tl.minimum(tl.maximum(page, 0), U - 1).to(tl.int64)
            place = (page * J + head) * PAGE + at % PAGE
        else:
            place = (row * J + head) * C + at
        offsets = place[:, None] * Y + inner[None, :]
        highest, weight, mixed = _take_in(
            q,
            cached_keys_ptr + offsets,
            cached_values_ptr + offsets,
            inside[:, None] & (inner < Y)[None, :],
            inside[None, :] & live[:, None],
            highest,
            weight,
            mixed,
            SCALE,
            PRECISION,
            UPCAST,
        )
    return highest, weight, mixed


@triton.jit
def _take_in(
    q,
    keys,
    values,
    inside,
    seen,
    highest,
    weight,
    mixed,
    SCALE: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """The running maximum, sum of weights and weighted sum with these keys and values taken in."""
    k = tl.load(keys, mask=inside, other=0.0)
    v = tl.load(values, mask=inside, other=0.0)
    if UPCAST:
        k = k.to(tl.float32)
        v = v.to(tl.float32)
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * SCALE
    scores = tl.where(seen, scores, float("-inf"))
    higher = tl.maximum(highest, tl.max(scores, 1))
    # While a row has seen nothing the shift is 0, so that exp gives 0 and not NaN.
    shift = tl.where(higher == float("-inf"), 0.0, higher)
    share = tl.exp(scores - shift[:, None])
    kept = tl.exp(highest - shift)
    weight = weight * kept + tl.sum(share, 1)
    mixed = tl.dot(share.to(v.dtype), v, mixed * kept[:, None], input_precision=PRECISION)
    return higher, weight, mixed


def constants_of(problem: Problem, tile: Tile, *, part: bool, page: int) -> Mapping[str, Any]:
    """Return the constants of a kernel over the whole context or over parts of it, in pages or dense (0)."""
    Q, J, Y = (problem.dims[letter] for letter in "QJY")
    wide = problem.dtype == "float32"
    strides = problem.token_strides
    whole = {
        "CAUSAL": bool(problem.attributes.get("causal")),
        "K_STRIDE": strides.get("keys", J * Y),
        "V_STRIDE": strides.get("values", J * Y),
    }
    return {
        "J": J,
        "Y": Y,
        "PER_KV": Q // (J * Y),
        "SCALE": Y**-0.5,
        "Q_STRIDE": strides.get("queries", Q),
        "PRECISION": "ieee" if wide else "tf32",  # asked of float32 products only
        "UPCAST": problem.interpreted and problem.dtype == "bfloat16",
        "BLOCK_Y": power_of_two(Y, 16),
        **tile.blocks,
        # In float32 half as many numbers, for the same shared memory (48 KiB at most).
        "BLOCK_N": tile.blocks["BLOCK_N"] // (2 if wide else 1),
        **({"SPLIT_GRAIN": GRAIN} if part else whole),
        **({"PAGE": page} if page else {}),
    }


def grid_of(dims: Any, constants: Mapping[str, Any], minimum: Any) -> tuple[Any, ...]:
    """Return the programs of `attend_whole`."""
    return cdiv(dims["L"] * constants["PER_KV"], constants["BLOCK_M"]), constants["J"], dims["B"]


def part_grid_of(dims: Any, constants: Mapping[str, Any], minimum: Any) -> tuple[Any, ...]:
    """Return the programs of `attend_part`."""
    tiles, heads, batch = grid_of(dims, constants, minimum)
    return tiles, heads * dims["X"], batch


def select_tile(dims: Mapping[str, int]) -> int:
    """Return which of `TILES`."""
    return 0 if dims["L"] <= 32 else 1


TILES = (
    Tile("16x32", {"BLOCK_M": 16, "BLOCK_N": 32}, num_warps=4, num_stages=2),
    Tile("32x32", {"BLOCK_M": 32, "BLOCK_N": 32}, num_warps=8, num_stages=2),
)
