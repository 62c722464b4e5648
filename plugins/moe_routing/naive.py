"""The meaning of `MoeRouting` and its two parts in torch; see docs/model.md, "Mixture of experts"."""

import torch
from torch import Tensor

__all__ = ["moe_choice", "moe_order", "moe_routing"]


def moe_routing(
    logits: Tensor,
    correction_bias: Tensor,
    *,
    K: int,
    n_group: int,
    topk_group: int,
    norm_topk_prob: int,
    routed_scaling_factor: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Choose experts and group the pairs.

    Args:
        logits: (T, E) float32, router weight · token.
        correction_bias: (E,) float32; takes part in the choice, not in the weights.
        K: experts per token.
        n_group: groups of consecutive experts; 1 leaves the choice free.
        topk_group: with n_group > 1 only that many groups, those with the largest sum of their two best
            choice scores, stay in the choice; experts outside get choice score 0 (the reference's rule, not
            −inf).
        norm_topk_prob: 1: weights are divided by their sum + 1e-20.
        routed_scaling_factor: multiplies the weights last.

    Returns:
        expert_ids: (T, K) int32, best choice first, the lowest id among equals.
        weights: (T, K) float32, in that order.
        grouped_pairs: (T·K,) int32, the pairs p = t·K + k ordered by expert, then by p.
        grouped_rows: (T, K) int32, the row of that list where each pair stands.
        expert_offsets: (E + 1,) int32; expert e owns rows expert_offsets[e] … expert_offsets[e + 1] − 1.
    """
    attributes = {"K": K, "n_group": n_group, "topk_group": topk_group, "norm_topk_prob": norm_topk_prob}
    expert_ids, weights = moe_choice(
        logits, correction_bias, **attributes, routed_scaling_factor=routed_scaling_factor
    )
    return expert_ids, weights, *moe_order(expert_ids, correction_bias)


def moe_choice(
    logits: Tensor,
    correction_bias: Tensor,
    *,
    K: int,
    n_group: int,
    topk_group: int,
    norm_topk_prob: int,
    routed_scaling_factor: float,
) -> tuple[Tensor, Tensor]:
    """Return expert_ids and weights; as in `moe_routing`."""
    T, E = logits.shape
    scores = torch.sigmoid(logits)
    choice = scores + correction_bias
    if n_group > 1:
        grouped = choice.view(T, n_group, E // n_group)
        group_scores = grouped.topk(2, dim=-1).values.sum(-1)
        kept = _largest_first(group_scores)[:, :topk_group]
        keep = torch.zeros_like(group_scores, dtype=torch.bool).scatter(1, kept, True)
        choice = torch.where(keep[:, :, None], grouped, torch.zeros_like(grouped)).view(T, E)
    expert_ids = _largest_first(choice)[:, :K]
    weights = scores.gather(1, expert_ids)
    if norm_topk_prob:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return expert_ids.int(), weights * routed_scaling_factor


def moe_order(expert_ids: Tensor, correction_bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return grouped_pairs, grouped_rows and expert_offsets; as in `moe_routing`.

    Args:
        expert_ids: (T, K) int32, a token's K all different.
        correction_bias: (E,); how many experts there are, and nothing else.
    """
    flat = expert_ids.reshape(-1)
    grouped_pairs = torch.argsort(flat, stable=True)
    grouped_rows = torch.empty_like(grouped_pairs)
    grouped_rows[grouped_pairs] = torch.arange(flat.numel(), device=flat.device)
    counts = torch.bincount(flat, minlength=correction_bias.shape[0])
    expert_offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return grouped_pairs.int(), grouped_rows.view(expert_ids.shape).int(), expert_offsets.int()


def _largest_first(values: Tensor) -> Tensor:
    """Indices that sort the last axis descending, the lowest index first among equals."""
    return torch.sort(values, dim=-1, descending=True, stable=True).indices
