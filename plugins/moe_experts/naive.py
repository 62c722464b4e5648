"""The meaning of `MoeExperts` and its three parts in torch: a loop over the experts that were hit.

See docs/model.md, "Mixture of experts".
"""

from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["moe_combine", "moe_down", "moe_experts", "moe_up", "rows_by_expert"]


def moe_experts(
    x: Tensor,
    up: Tensor,
    down: Tensor,
    expert_ids: Tensor,
    weights: Tensor,
    grouped_pairs: Tensor,
    grouped_rows: Tensor,
    expert_offsets: Tensor,
) -> tuple[Tensor]:
    """Return Σ_k weights[t, k] · down[e]·relu(up[e]·x[t])² with e = expert_ids[t, k].

    Args:
        x: (T, D) compute dtype.
        up: (E, I, D) compute dtype.
        down: (E, D, I) compute dtype.
        expert_ids: (T, K) int32; this and what follows as `MoeRouting` returns it.
        weights: (T, K) float32.
        grouped_pairs: (T·K,) int32.
        grouped_rows: (T, K) int32.
        expert_offsets: (E + 1,) int32.

    Returns:
        (T, D) float32.
    """
    (activated,) = moe_up(x, up, expert_ids, grouped_pairs, expert_offsets)
    (rows,) = moe_down(activated, down, expert_ids, grouped_pairs, expert_offsets)
    return moe_combine(rows, weights, grouped_rows)


def moe_up(
    x: Tensor, up: Tensor, expert_ids: Tensor, grouped_pairs: Tensor, expert_offsets: Tensor
) -> tuple[Tensor]:
    """Return relu(up·x)² of every pair: (T·K, I) in x's dtype, row r for pair grouped_pairs[r]."""
    tokens = grouped_pairs.long() // expert_ids.shape[1]
    activated = x.new_empty(grouped_pairs.shape[0], up.shape[1])
    for expert, rows in rows_by_expert(expert_offsets):
        activated[rows] = torch.relu(x[tokens[rows]] @ up[expert].T).square()
    return (activated,)


def moe_down(
    activated: Tensor, down: Tensor, expert_ids: Tensor, grouped_pairs: Tensor, expert_offsets: Tensor
) -> tuple[Tensor]:
    """Return down·activated of every pair: (T·K, D) float32."""
    out = activated.new_empty(activated.shape[0], down.shape[1], dtype=torch.float32)
    for expert, rows in rows_by_expert(expert_offsets):
        out[rows] = (activated[rows] @ down[expert].T).float()
    return (out,)


def moe_combine(rows: Tensor, weights: Tensor, grouped_rows: Tensor) -> tuple[Tensor]:
    """Return Σ_k weights[t, k] · rows[grouped_rows[t, k]]: (T, D) float32."""
    return ((rows[grouped_rows.long()] * weights[..., None]).sum(1),)


def rows_by_expert(expert_offsets: Tensor) -> list[tuple[int, slice]]:
    """Return the experts that were hit, each with its rows."""
    offsets = expert_offsets.tolist()
    return [(e, slice(a, b)) for e, (a, b) in enumerate(pairwise(offsets)) if b > a]
