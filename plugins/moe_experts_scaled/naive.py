"""The meaning of `MoeExpertsScaled` and its two products in torch: a loop over the experts that were hit."""

import torch
from torch import Tensor

from ttc.plugins.moe_experts.naive import moe_combine, rows_by_expert

__all__ = ["moe_down_scaled", "moe_experts_scaled", "moe_up_scaled"]


def moe_experts_scaled(
    x: Tensor,
    up: Tensor,
    up_scale: Tensor,
    down: Tensor,
    down_scale: Tensor,
    expert_ids: Tensor,
    weights: Tensor,
    grouped_pairs: Tensor,
    grouped_rows: Tensor,
    expert_offsets: Tensor,
) -> tuple[Tensor]:
    """Return `MoeExperts` of the weights up·up_scale and down·down_scale, which are never rounded.

    Args:
        x: (T, D) compute dtype.
        up: (E, I, D) int8 or float8_e4m3fn.
        up_scale: (E, I) float32.
        down: (E, D, I) as up.
        down_scale: (E, D) float32.
        expert_ids: (T, K) int32; this and what follows as `MoeRouting` returns it.
        weights: (T, K) float32.
        grouped_pairs: (T·K,) int32.
        grouped_rows: (T, K) int32.
        expert_offsets: (E + 1,) int32.

    Returns:
        (T, D) float32.
    """
    (activated,) = moe_up_scaled(x, up, up_scale, expert_ids, grouped_pairs, expert_offsets)
    (rows,) = moe_down_scaled(activated, down, down_scale, expert_ids, grouped_pairs, expert_offsets)
    return moe_combine(rows, weights, grouped_rows)


def moe_up_scaled(
    x: Tensor,
    up: Tensor,
    up_scale: Tensor,
    expert_ids: Tensor,
    grouped_pairs: Tensor,
    expert_offsets: Tensor,
) -> tuple[Tensor]:
    """Return relu((up·x)·up_scale)² of every pair: (T·K, I) in x's dtype, row r for pair grouped_pairs[r]."""
    tokens = grouped_pairs.long() // expert_ids.shape[1]
    activated = x.new_empty(grouped_pairs.shape[0], up.shape[1])
    for expert, rows in rows_by_expert(expert_offsets):
        scaled = (x[tokens[rows]].float() @ up[expert].float().T) * up_scale[expert]
        activated[rows] = torch.relu(scaled).square().to(x.dtype)
    return (activated,)


def moe_down_scaled(
    activated: Tensor,
    down: Tensor,
    down_scale: Tensor,
    expert_ids: Tensor,
    grouped_pairs: Tensor,
    expert_offsets: Tensor,
) -> tuple[Tensor]:
    """Return (down·activated)·down_scale of every pair: (T·K, D) float32."""
    out = activated.new_empty(activated.shape[0], down.shape[1], dtype=torch.float32)
    for expert, rows in rows_by_expert(expert_offsets):
        out[rows] = (activated[rows].float() @ down[expert].float().T) * down_scale[expert]
    return (out,)
