"""Triton kernel of `MoeRouting`: one program for all tokens.

Where a pair stands depends on every token's choice, and one launch has no other way to agree on that: there
is no memory that starts as zero, and no barrier between programs. A program that knew only its own tokens
would have to repeat the choice for all of them, so further programs would not make it faster. Cost: the
logits are read once (T·E·4 bytes: 8 KB for a block of the real model, 1 MB for 2,048 tokens); the choice
takes K reductions over E for every token, so time grows linearly with T on one of the GPU's processors. The
second pass reads back the T·K chosen ids.
"""

from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl

from ttc.plugins.kernel_math import decode_index, order_key
from ttc.plugins.launch import KernelSpec, Problem, Tile, power_of_two
from ttc.plugins.moe_routing import MOE_ROUTING

__all__ = ["moe_routing", "route"]

_LOWEST = tl.constexpr(-(2**63))  # below every key


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
    BLOCK_K: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """First pass: choose, weigh and count, BLOCK_T tokens at a time. Second pass: hand out rows in the order
    of (expert, token); a token's experts are distinct, so that is the order of (expert, pair).
    """
    experts = tl.arange(0, BLOCK_E)
    real = experts < E
    slots = tl.arange(0, BLOCK_K)
    bias = tl.load(bias_ptr + experts, mask=real, other=0.0)
    counts = tl.zeros((BLOCK_E,), tl.int32)
    for start in range(0, T, BLOCK_T):
        tokens = start + tl.arange(0, BLOCK_T)
        live = tokens < T
        at = tokens.to(tl.int64)[:, None]
        inside = live[:, None] & real[None, :]
        logits = tl.load(logits_ptr + at * E + experts[None, :], mask=inside, other=0.0)
        scores = 1.0 / (1.0 + tl.exp(-logits))
        choice = scores + bias[None, :]
        if GROUPS > 1:
            choice = _limit_to_groups(choice, E, GROUPS, KEPT_GROUPS, BLOCK_E, BLOCK_GROUPS, BLOCK_T)
        keys = tl.where(real[None, :], order_key(choice, experts[None, :]), _LOWEST)
        ids = tl.zeros((BLOCK_T, BLOCK_K), tl.int32)
        weights = tl.zeros((BLOCK_T, BLOCK_K), tl.float32)
        for k in range(K):
            best = decode_index(tl.max(keys, 1))
            hit = experts[None, :] == best[:, None]
            score = tl.sum(tl.where(hit, scores, 0.0), 1)
            ids = tl.where(slots[None, :] == k, best[:, None], ids)
            weights = tl.where(slots[None, :] == k, score[:, None], weights)
            keys = tl.where(hit, _LOWEST, keys)
            counts += tl.sum((hit & live[:, None]).to(tl.int32), 0)
        if NORMALISED:
            weights = weights / (tl.sum(weights, 1) + 1e-20)[:, None]
        weights = weights * SCALE
        chosen = live[:, None] & (slots < K)[None, :]
        tl.store(ids_ptr + at * K + slots[None, :], ids, mask=chosen)
        tl.store(weights_ptr + at * K + slots[None, :], weights, mask=chosen)

    upto = tl.cumsum(counts, 0)
    tl.store(offsets_ptr + experts, upto - counts, mask=real)
    tl.store(offsets_ptr + E, T * K)
    tl.debug_barrier()  # the ids are read by other threads than those that wrote them
    next_row = upto - counts
    for start in range(0, T, BLOCK_T):
        tokens = start + tl.arange(0, BLOCK_T)
        live = tokens < T
        at = tokens.to(tl.int64)
        takes = tl.zeros((BLOCK_T, BLOCK_E), tl.int32)
        for k in range(K):
            expert = tl.load(ids_ptr + at * K + k, mask=live, other=-1)
            takes += (experts[None, :] == expert[:, None]).to(tl.int32)
        rows = next_row[None, :] + tl.cumsum(takes, 0) - takes
        for k in range(K):
            expert = tl.load(ids_ptr + at * K + k, mask=live, other=-1)
            row = tl.sum(tl.where(experts[None, :] == expert[:, None], rows, 0), 1)
            tl.store(rows_ptr + at * K + k, row, mask=live)
            tl.store(pairs_ptr + row, (at * K + k).to(tl.int32), mask=live)
        next_row += tl.sum(takes, 0)


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
    """Choice scores (BLOCK_T, BLOCK_E), 0 outside the groups with the largest sums of their two best."""
    experts = tl.arange(0, BLOCK_E)
    group_of = experts // (E // GROUPS)
    groups = tl.arange(0, BLOCK_GROUPS)
    sums = tl.zeros((BLOCK_T, BLOCK_GROUPS), tl.float32)
    for group in range(GROUPS):
        keys = tl.where((group_of == group)[None, :], order_key(choice, experts[None, :]), _LOWEST)
        first = experts[None, :] == decode_index(tl.max(keys, 1))[:, None]
        keys = tl.where(first, _LOWEST, keys)
        second = experts[None, :] == decode_index(tl.max(keys, 1))[:, None]
        total = tl.sum(tl.where(first, choice, 0.0), 1) + tl.sum(tl.where(second, choice, 0.0), 1)
        sums = tl.where((groups == group)[None, :], total[:, None], sums)
    keys = tl.where((groups < GROUPS)[None, :], order_key(sums, groups[None, :]), _LOWEST)
    kept = tl.zeros((BLOCK_T, BLOCK_E), tl.int32)
    for _ in range(KEPT_GROUPS):
        best = decode_index(tl.max(keys, 1))
        kept += (group_of[None, :] == best[:, None]).to(tl.int32)
        keys = tl.where(groups[None, :] == best[:, None], _LOWEST, keys)
    return tl.where(kept > 0, choice, 0.0)


def _constants(problem: Problem, tile: Tile) -> Mapping[str, Any]:
    E, attributes = problem.dims["E"], problem.attributes
    return {
        "E": E,
        "K": attributes["K"],
        "GROUPS": attributes["n_group"],
        "KEPT_GROUPS": attributes["topk_group"],
        "NORMALISED": bool(attributes["norm_topk_prob"]),
        "SCALE": float(attributes["routed_scaling_factor"]),
        "BLOCK_E": power_of_two(E),
        "BLOCK_K": power_of_two(attributes["K"]),
        "BLOCK_GROUPS": power_of_two(attributes["n_group"]),
        **tile.blocks,
    }


moe_routing = KernelSpec(
    op=MOE_ROUTING,
    kernel=route,
    changing=("T",),
    integers=("T",),
    tiles=(
        Tile("16", {"BLOCK_T": 16}, num_warps=4),
        Tile("1", {"BLOCK_T": 1}, num_warps=1),
        Tile("32", {"BLOCK_T": 32}, num_warps=16),
    ),
    select_tile=lambda dims: 1 if dims["T"] == 1 else 0 if dims["T"] <= 64 else 2,
    constants=_constants,
    grid=lambda dims, constants, minimum: (1,),
)
