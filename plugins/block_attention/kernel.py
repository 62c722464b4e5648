"""Triton kernel of `BlockAttention`: one pass over the keys with a running maximum (Milakov and Gimelshein
2018; Dao et al. 2022), no scores in memory.

A program has BLOCK_M rows of one KV head, where the query heads of that KV head are rows too: 16 rows a token
in the real model, which fill the matrix units already with one token. It reads the block's own keys, and the
first `lengths` of the cache, whatever the capacity. One program walks the whole length, so a long context of
few rows is bound by that walk.
"""

from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl

from ttc.plugins.block_attention import BLOCK_ATTENTION
from ttc.plugins.launch import KernelSpec, Problem, Tile, cdiv, power_of_two

__all__ = ["attend", "block_attention"]


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
    """Program (m, j, b). queries, mixed: (B, L, J·PER_KV·Y), keys, values: (B, L, J·Y), their tokens so many
    elements apart.  cached_keys, cached_values: (B, J, C, Y).  lengths: (B,).
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
    length = tl.minimum(tl.load(lengths_ptr + row), C)
    cache = (row * J + head) * C * Y
    for start in range(0, length, BLOCK_N):
        at = start + tl.arange(0, BLOCK_N)
        offsets = cache + at[:, None].to(tl.int64) * Y + inner[None, :]
        highest, weight, mixed = _take_in(
            q,
            cached_keys_ptr + offsets,
            cached_values_ptr + offsets,
            (at < length)[:, None] & real[None, :],
            (at < length)[None, :] & live[:, None],
            highest,
            weight,
            mixed,
            SCALE,
            PRECISION,
            UPCAST,
        )
    mixed = mixed / tl.where(live, weight, 1.0)[:, None]
    out = mixed_ptr + (token_rows * (J * PER_KV * Y) + columns)[:, None] + inner[None, :]
    tl.store(out, mixed.to(mixed_ptr.dtype.element_ty), mask=mask)


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


def _constants(problem: Problem, tile: Tile) -> Mapping[str, Any]:
    Q, J, Y = (problem.dims[letter] for letter in "QJY")
    wide = problem.dtype == "float32"
    strides = problem.token_strides
    return {
        "J": J,
        "Y": Y,
        "PER_KV": Q // (J * Y),
        "SCALE": Y**-0.5,
        "CAUSAL": bool(problem.attributes["causal"]),
        "Q_STRIDE": strides.get("queries", Q),
        "K_STRIDE": strides.get("keys", J * Y),
        "V_STRIDE": strides.get("values", J * Y),
        "PRECISION": "ieee" if wide else "tf32",  # asked of float32 products only
        "UPCAST": problem.interpreted and problem.dtype == "bfloat16",
        "BLOCK_Y": power_of_two(Y, 16),
        **tile.blocks,
        # In float32 half as many numbers, for the same shared memory (48 KiB at most).
        "BLOCK_N": tile.blocks["BLOCK_N"] // (2 if wide else 1),
    }


def _grid(dims: Any, constants: Mapping[str, Any], minimum: Any) -> tuple[Any, ...]:
    return cdiv(dims["L"] * constants["PER_KV"], constants["BLOCK_M"]), constants["J"], dims["B"]


block_attention = KernelSpec(
    op=BLOCK_ATTENTION,
    kernel=attend,
    changing=("B", "L", "C"),
    integers=("L", "C"),
    tiles=(
        Tile("16x32", {"BLOCK_M": 16, "BLOCK_N": 32}, num_warps=4, num_stages=2),
        Tile("32x32", {"BLOCK_M": 32, "BLOCK_N": 32}, num_warps=4, num_stages=2),
    ),
    select_tile=lambda dims: 0 if dims["L"] <= 32 else 1,
    constants=_constants,
    grid=_grid,
    strided=("queries", "keys", "values"),
    work_in_values=True,
)
