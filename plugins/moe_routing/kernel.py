"""Triton kernels of `MoeChoice`, `MoeOrder`, and `MoeRouting`, which does both for few tokens.

Numbers of a token and an expert lie in tensors (parts, tokens, 32), expert parts·lane + part. In the layout
that Triton gives them a warp has a token to itself and a thread neighbouring experts, so that the best of
them is found inside the warp, by two reductions of int32: the largest key, then the lowest expert that has
it. What was chosen stays where it lies, as the expert's rank among the token's K, and is stored from there.

Where a pair stands depends on every token's choice. `MoeChoice` asks nobody, so it has as many programs as it
likes; `MoeOrder` has the choice of all tokens to read, T·K numbers, and every program counts them anew, those
before its own tokens apart. So a program needs no other, no memory that starts as zero, no barrier between
programs. Up to `_FEW` tokens every token still has a warp of one program, which chooses, counts and places
without a second launch.
"""

from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl

from ttc.plugins.kernel_math import LOWEST_BITS, order_bits
from ttc.plugins.launch import KernelSpec, Problem, Tile, cdiv, power_of_two
from ttc.plugins.moe_routing import MOE_CHOICE, MOE_ORDER, MOE_ROUTING

__all__ = ["choose", "moe_choice", "moe_order", "moe_routing", "order", "route"]

# Tokens that one program chooses for, counts and places.
_FEW = 32
LANES = tl.constexpr(32)


@triton.jit(do_not_specialize=["T"])
def choose(
    logits_ptr,
    bias_ptr,
    T,
    ids_ptr,
    weights_ptr,
    E: tl.constexpr,
    K: tl.constexpr,
    GROUPS: tl.constexpr,
    KEPT_GROUPS: tl.constexpr,
    NORMALISED: tl.constexpr,
    SCALE: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """Program t: BLOCK_T tokens."""
    tokens = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    _chosen(
        logits_ptr,
        bias_ptr,
        T,
        ids_ptr,
        weights_ptr,
        tokens,
        E,
        K,
        GROUPS,
        KEPT_GROUPS,
        NORMALISED,
        SCALE,
        BLOCK_E,
        BLOCK_GROUPS,
        BLOCK_T,
    )


@triton.jit(do_not_specialize=["T"])
def order(
    ids_ptr,
    bias_ptr,
    T,
    pairs_ptr,
    rows_ptr,
    offsets_ptr,
    E: tl.constexpr,
    K: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """Program t: places of BLOCK_T tokens' pairs. Ids that no routing gives lead nowhere outside."""
    first = tl.program_id(0) * BLOCK_T
    before = _histogram(ids_ptr, 0, first * K, E, BLOCK_E, BLOCK_R)
    counts = before + _histogram(ids_ptr, first * K, T * K, E, BLOCK_E, BLOCK_R)
    starts = tl.cumsum(counts, 0) - counts
    if tl.program_id(0) == 0:
        _store_offsets(offsets_ptr, starts, T, E, K, BLOCK_E)
    tokens = first + tl.arange(0, BLOCK_T)
    rank = _read_ranks(ids_ptr, tokens, T, K, BLOCK_E, BLOCK_T)
    _place(pairs_ptr, rows_ptr, rank, starts + before, tokens, E, K, BLOCK_E)


@triton.jit(do_not_specialize=["T"])
def route(
    logits_ptr,
    bias_ptr,
    T,
    ids_ptr,
    weights_ptr,
    pairs_ptr,
    rows_ptr,
    offsets_ptr,
    E: tl.constexpr,
    K: tl.constexpr,
    GROUPS: tl.constexpr,
    KEPT_GROUPS: tl.constexpr,
    NORMALISED: tl.constexpr,
    SCALE: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """One program: both, BLOCK_T tokens at a time; more than that are read back in the second pass."""
    counts = tl.zeros((BLOCK_E,), tl.int32)
    rank = tl.full((BLOCK_E // LANES, BLOCK_T, LANES), -1, tl.int32)
    for start in range(0, T, BLOCK_T):
        tokens = start + tl.arange(0, BLOCK_T)
        rank = _chosen(
            logits_ptr,
            bias_ptr,
            T,
            ids_ptr,
            weights_ptr,
            tokens,
            E,
            K,
            GROUPS,
            KEPT_GROUPS,
            NORMALISED,
            SCALE,
            BLOCK_E,
            BLOCK_GROUPS,
            BLOCK_T,
        )
        counts += _tokens_of(rank, BLOCK_E)
    starts = tl.cumsum(counts, 0) - counts
    _store_offsets(offsets_ptr, starts, T, E, K, BLOCK_E)
    if T <= BLOCK_T:
        _place(pairs_ptr, rows_ptr, rank, starts, tl.arange(0, BLOCK_T), E, K, BLOCK_E)
    else:
        tl.debug_barrier()  # the ids are read by other threads than those that wrote them
        next_row = starts
        for start in range(0, T, BLOCK_T):
            tokens = start + tl.arange(0, BLOCK_T)
            rank = _read_ranks(ids_ptr, tokens, T, K, BLOCK_E, BLOCK_T)
            _place(pairs_ptr, rows_ptr, rank, next_row, tokens, E, K, BLOCK_E)
            next_row += _tokens_of(rank, BLOCK_E)


@triton.jit
def _chosen(
    logits_ptr,
    bias_ptr,
    T,
    ids_ptr,
    weights_ptr,
    tokens,
    E: tl.constexpr,
    K: tl.constexpr,
    GROUPS: tl.constexpr,
    KEPT_GROUPS: tl.constexpr,
    NORMALISED: tl.constexpr,
    SCALE: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """Store what these tokens choose; return every expert's rank among a token's K, −1 where not chosen."""
    experts = _experts(BLOCK_E)
    real = experts < E
    live = (tokens < T)[None, :, None]
    at = tokens.to(tl.int64)[None, :, None]
    logits = tl.load(logits_ptr + at * E + experts, mask=live & real, other=0.0)
    scores = 1.0 / (1.0 + tl.exp(-logits))
    choice = scores + tl.load(bias_ptr + experts, mask=real, other=0.0)
    if GROUPS > 1:
        choice = _limit_to_groups(choice, E, GROUPS, KEPT_GROUPS, BLOCK_E, BLOCK_GROUPS, BLOCK_T)
    keys = tl.where(real, order_bits(choice), LOWEST_BITS)
    rank = tl.full((BLOCK_E // LANES, BLOCK_T, LANES), -1, tl.int32)
    for k in range(K):
        best = _first_of_largest(keys, experts)
        rank = tl.where(best, k, rank)
        keys = tl.where(best, LOWEST_BITS, keys)
    rank = tl.where(live, rank, -1)
    weights = tl.where(rank >= 0, scores, 0.0)
    if NORMALISED:
        weights = weights / (_sum(weights) + 1e-20)
    tl.store(ids_ptr + at * K + rank, tl.broadcast_to(experts, rank.shape), mask=rank >= 0)
    tl.store(weights_ptr + at * K + rank, weights * SCALE, mask=rank >= 0)
    return rank


@triton.jit
def _experts(BLOCK_E: tl.constexpr):
    """Their numbers, (parts, 1, LANES)."""
    parts: tl.constexpr = BLOCK_E // LANES
    return tl.arange(0, parts)[:, None, None] + tl.arange(0, LANES)[None, None, :] * parts


@triton.jit
def _sum(values):
    """A token's sum, (1, tokens, 1)."""
    return tl.sum(tl.sum(values, 0), 1)[None, :, None]


@triton.jit
def _first_of_largest(keys, indices):
    """Where, of every token, the lowest index with the largest key is."""
    top = keys == tl.max(tl.max(keys, 0), 1)[None, :, None]
    found = tl.where(top, indices, 0x7FFFFFFF)
    return indices == tl.min(tl.min(found, 0), 1)[None, :, None]


@triton.jit
def _tokens_of(rank, BLOCK_E: tl.constexpr):
    """How many of the tokens chose each expert, (BLOCK_E,)."""
    return tl.reshape(tl.trans(tl.sum((rank >= 0).to(tl.int32), 1)), (BLOCK_E,))


@triton.jit
def _limit_to_groups(
    choice,
    E: tl.constexpr,
    GROUPS: tl.constexpr,
    KEPT_GROUPS: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """The choice scores, 0 outside the groups with the largest sums of their two best."""
    experts = _experts(BLOCK_E)
    group_of = experts // (E // GROUPS)
    groups = tl.arange(0, BLOCK_GROUPS)[None, None, :]
    bits = order_bits(choice)
    sums = tl.zeros((1, BLOCK_T, BLOCK_GROUPS), tl.float32)
    for group in range(GROUPS):
        keys = tl.where(group_of == group, bits, LOWEST_BITS)
        first = _first_of_largest(keys, experts)
        second = _first_of_largest(tl.where(first, LOWEST_BITS, keys), experts)
        total = _sum(tl.where(first, choice, 0.0)) + _sum(tl.where(second, choice, 0.0))
        sums = tl.where(groups == group, total, sums)
    keys = tl.where(groups < GROUPS, order_bits(sums), LOWEST_BITS)
    kept = tl.zeros((BLOCK_E // LANES, BLOCK_T, LANES), tl.int32)
    for _ in range(KEPT_GROUPS):
        best = _first_of_largest(keys, groups)
        kept += (group_of == _sum(tl.where(best, groups, 0))).to(tl.int32)
        keys = tl.where(best, LOWEST_BITS, keys)
    return tl.where(kept > 0, choice, 0.0)


@triton.jit
def _histogram(ids_ptr, first, last, E: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_R: tl.constexpr):
    """How many of the pairs first … last − 1 have each expert: (BLOCK_E,)."""
    counts = tl.zeros((BLOCK_E,), tl.int32)
    for start in range(first, last, BLOCK_R):
        pairs = start + tl.arange(0, BLOCK_R)
        ids = tl.load(ids_ptr + pairs, mask=pairs < last, other=-1)
        counts += tl.histogram(ids, BLOCK_E, mask=(ids >= 0) & (ids < E))
    return counts


@triton.jit
def _read_ranks(ids_ptr, tokens, T, K: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_T: tl.constexpr):
    """Every expert's rank among a token's K, −1 where not chosen, as `_chosen` gives it."""
    experts = _experts(BLOCK_E)
    rank = tl.full((BLOCK_E // LANES, BLOCK_T, LANES), -1, tl.int32)
    for k in tl.static_range(K):
        ids = tl.load(ids_ptr + tokens.to(tl.int64) * K + k, mask=tokens < T, other=-1)
        rank = tl.where(experts == ids[None, :, None], k, rank)
    return rank


@triton.jit
def _store_offsets(offsets_ptr, starts, T, E: tl.constexpr, K: tl.constexpr, BLOCK_E: tl.constexpr):
    experts = tl.arange(0, BLOCK_E)
    tl.store(offsets_ptr + experts, starts, mask=experts < E)
    tl.store(offsets_ptr + E, T * K)


@triton.jit
def _place(
    pairs_ptr, rows_ptr, rank, next_row, tokens, E: tl.constexpr, K: tl.constexpr, BLOCK_E: tl.constexpr
):
    """Hand out rows from next_row (BLOCK_E,) on, in the order of (expert, token); a token's experts are
    distinct, so that is the order of (expert, pair).
    """
    taken = ((rank >= 0) & (_experts(BLOCK_E) < E)).to(tl.int32)
    first_rows = tl.trans(tl.reshape(next_row, (LANES, BLOCK_E // LANES)))[:, None, :]
    rows = first_rows + tl.cumsum(taken, 1) - taken
    pairs = tokens.to(tl.int64)[None, :, None] * K + rank
    tl.store(rows_ptr + pairs, rows, mask=taken > 0)
    tl.store(pairs_ptr + rows, pairs.to(tl.int32), mask=taken > 0)


def _choice_constants(problem: Problem, tile: Tile) -> Mapping[str, Any]:
    E, attributes = problem.dims["E"], problem.attributes
    return {
        "E": E,
        "K": attributes["K"],
        "GROUPS": attributes["n_group"],
        "KEPT_GROUPS": attributes["topk_group"],
        "NORMALISED": bool(attributes["norm_topk_prob"]),
        "SCALE": float(attributes["routed_scaling_factor"]),
        "BLOCK_E": power_of_two(E, at_least=LANES.value),
        "BLOCK_GROUPS": power_of_two(attributes["n_group"]),
        **tile.blocks,
    }


def _order_constants(problem: Problem, tile: Tile) -> Mapping[str, Any]:
    E = problem.dims["E"]
    return {"E": E, "K": problem.dims["K"], "BLOCK_E": power_of_two(E, at_least=LANES.value), **tile.blocks}


moe_choice = KernelSpec(
    op=MOE_CHOICE,
    kernel=choose,
    changing=("T",),
    integers=("T",),
    tiles=(Tile("1", {"BLOCK_T": 1}, num_warps=1), Tile("4", {"BLOCK_T": 4}, num_warps=1)),
    select_tile=lambda dims: 0 if dims["T"] <= 4096 else 1,
    constants=_choice_constants,
    grid=lambda dims, constants, minimum: (cdiv(dims["T"], constants["BLOCK_T"]),),
)
moe_order = KernelSpec(
    op=MOE_ORDER,
    kernel=order,
    changing=("T",),
    integers=("T",),
    tiles=(
        Tile("64", {"BLOCK_T": 64, "BLOCK_R": 1024}, num_warps=8),
        Tile("32", {"BLOCK_T": 32, "BLOCK_R": 512}, num_warps=8),
        Tile("64x2048", {"BLOCK_T": 64, "BLOCK_R": 2048}, num_warps=16),
    ),
    select_tile=lambda dims: 1 if dims["T"] <= 32 else 0 if dims["T"] <= 1024 else 2,
    constants=_order_constants,
    grid=lambda dims, constants, minimum: (cdiv(dims["T"], constants["BLOCK_T"]),),
)
moe_routing = KernelSpec(
    op=MOE_ROUTING,
    kernel=route,
    changing=("T",),
    integers=("T",),
    tiles=(
        Tile("16", {"BLOCK_T": 16}, num_warps=16),
        Tile("1", {"BLOCK_T": 1}, num_warps=1),
        Tile("32", {"BLOCK_T": _FEW}, num_warps=32),
    ),
    select_tile=lambda dims: 1 if dims["T"] == 1 else 0 if dims["T"] <= 16 else 2,
    constants=_choice_constants,
    grid=lambda dims, constants, minimum: (1,),
    pays=lambda dims: dims["T"] <= _FEW,
)
